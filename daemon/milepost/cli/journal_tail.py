"""Follows the journal: what is there, then what comes, by asking for what is behind the last seq seen."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from milepost.core.errors import StoreAway
from milepost.stores.reader import JournalReader, StoredEntry

POLL_SECONDS = 0.5
MAX_READ = 500

Show = Callable[[StoredEntry], None]


async def newest(journal_reader: JournalReader, lines: int, stream: str | None, show: Show) -> int:
    """Show the newest entries, oldest first, and give the seq of the last one there is; 0 where there is none."""
    placed = await journal_reader.latest(limit=max(lines, 1), stream=stream)
    for each in placed[:lines]:
        show(each)
    return placed[-1].seq if placed else 0


async def follow(
    journal_reader: JournalReader, after: int, stream: str | None, show: Show, stopped: asyncio.Event
) -> None:
    """Show what is appended behind the seq `after`, until `stopped` is set.

    A database that does not answer is asked again, for as long as that takes.
    """
    while not stopped.is_set():
        try:
            placed = await journal_reader.entries(after=after, limit=MAX_READ, stream=stream)
        except StoreAway:
            placed = []
        for each in placed:
            show(each)
            after = each.seq
        if len(placed) < MAX_READ:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await stopped.wait()
