"""`/api/journal`: what happened, entry by entry."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from milepost.service.api.endpoint import AnyOperation, Call, Limit, Operation, Reply, StreamKey
from milepost.stores.reader import JournalReader, StoredEntry

MAX_SEQ = 2**63 - 1  # of SQLite's integers


class EntriesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which entries to list."""

    after: Annotated[int, Meta(ge=0, le=MAX_SEQ, description="only entries with a greater seq")] = 0
    stream: StreamKey | None = None
    limit: Limit = 100


class JournalEntry(Struct, frozen=True):
    """An entry: its number in the whole journal (`seq`) and in its stream (`version`), and what happened.

    `hash` chains it to the previous entry of its stream.
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
    """Entries, oldest first. `next` is the last seq, to continue from at any time; null if there are none."""

    entries: tuple[JournalEntry, ...]
    next: int | None


def journal(journal_reader: JournalReader) -> Sequence[AnyOperation]:
    """Declare the operations on the journal."""

    async def list_entries(call: Call[EntriesQuery, None]) -> Reply[Entries]:
        query = call.parameters
        found = await journal_reader.entries(after=query.after, limit=query.limit, stream=query.stream)
        return Reply(Entries(tuple(map(_journal_entry, found)), found[-1].seq if found else None))

    return [
        Operation(
            "GET",
            "/api/journal",
            "List the journal's entries, oldest first",
            parameters=EntriesQuery,
            response=Entries,
            handle=list_entries,
        )
    ]


def _journal_entry(stored: StoredEntry) -> JournalEntry:
    entry = stored.entry
    data = msgspec.Raw(entry.data.encode())
    return JournalEntry(
        stored.seq, entry.stream.key, entry.version, entry.run_id, entry.recorded_at, entry.type, data, entry.hash
    )
