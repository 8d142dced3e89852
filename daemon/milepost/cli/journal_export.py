"""Writes the journal out as JSON Lines, a page at a time."""

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click

from milepost.cli.journal_line import as_json
from milepost.core.errors import MilepostError
from milepost.stores.reader import JournalReader

MAX_READ = 1_000


async def write_out(journal_reader: JournalReader, out: BinaryIO, stopped: asyncio.Event) -> int:
    """Write every entry that there is now, and give their number. Raises click.Abort once `stopped` is set."""
    newest = await journal_reader.latest(limit=1)
    last_seq, after, written = newest[-1].seq if newest else 0, 0, 0
    while after < last_seq:
        if stopped.is_set():
            raise click.Abort
        placed = [each for each in await journal_reader.entries(after=after, limit=MAX_READ) if each.seq <= last_seq]
        out.write(b"".join(map(as_json, placed)))
        after = placed[-1].seq
        written += len(placed)
    out.flush()
    return written


@contextmanager
def write_errors_told(where: str) -> Iterator[None]:
    """Tell the user when `where` cannot be written. A closed pipe is left to click, which ends in silence."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise MilepostError(
            f"{where} cannot be written: {error.strerror}",
            hint="make room, or write it elsewhere: `milepost journal export FILE`",
        ) from error
