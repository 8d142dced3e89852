"""`/api/journal`: what happened, entry by entry."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from milepost.service.api.endpoint import AnyOperation, Call, Operation, Reply
from milepost.service.api.paging import Limit, StreamKey
from milepost.stores.reader import JournalReader, StoredEntry

MAX_SEQ = 2**63 - 1  # of SQLite's integers


class EntriesAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Which entries are listed."""

    after: Annotated[int, Meta(ge=0, le=MAX_SEQ, description="only entries with a greater seq")] = 0
    stream: StreamKey | None = None
    limit: Limit = 100


class JournalEntry(Struct, frozen=True):
    """An entry: its place in the journal as a whole (`seq`) and in its stream (`version`), and what happened.

    `hash` seals it to the entry of its stream before it.
    """

    seq: int
    stream: str
    version: int
    run_id: str | None
    recorded_at: datetime
    type: str
    data: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
    hash: str


class Entries(Struct, frozen=True):
    """Entries, the oldest first. `next` is the last seq, to go on from at any time; null where there is none."""

    entries: tuple[JournalEntry, ...]
    next: int | None


def journal(journal_reader: JournalReader) -> Sequence[AnyOperation]:
    """Declare what can be asked about the journal."""

    async def list_entries(call: Call[EntriesAsked, None]) -> Reply[Entries]:
        asked = call.asked
        found = await journal_reader.entries(after=asked.after, limit=asked.limit, stream=asked.stream)
        return Reply(Entries(tuple(map(_shown, found)), found[-1].seq if found else None))

    return [
        Operation(
            "GET",
            "/api/journal",
            "List the journal's entries, the oldest first",
            asked=EntriesAsked,
            answer=Entries,
            handle=list_entries,
        )
    ]


def _shown(placed: StoredEntry) -> JournalEntry:
    entry = placed.entry
    data = msgspec.Raw(entry.data.encode())
    return JournalEntry(
        placed.seq, entry.stream, entry.version, entry.run_id, entry.recorded_at, entry.type, data, entry.hash
    )
