"""`/api/journal` and `/api/runs`: what happened, entry by entry and run by run."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from milepost.reporting.views import RunView, run_view
from milepost.service.endpoint import (
    CURSOR_DESCRIPTION,
    AnyOperation,
    Call,
    Limit,
    Operation,
    Reply,
    StreamKey,
    page_of,
)
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
            "GET", "/api/journal", "List the journal's entries, oldest first", EntriesQuery, Entries, list_entries
        )
    ]


def _journal_entry(stored: StoredEntry) -> JournalEntry:
    entry = stored.entry
    data = msgspec.Raw(entry.data.encode())
    return JournalEntry(
        stored.seq, entry.stream.key, entry.version, entry.run_id, entry.recorded_at, entry.type, data, entry.hash
    )


# --- runs -------------------------------------------------------------------------------------------------------------


class RunsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which runs to list."""

    stream: StreamKey | None = None
    after: Annotated[str, Meta(max_length=100, description=CURSOR_DESCRIPTION)] | None = None
    limit: Limit = 100


class Runs(Struct, frozen=True):
    """Runs, newest first. `next` is null on the last page."""

    runs: tuple[RunView, ...]
    next: str | None


def runs(journal_reader: JournalReader) -> Sequence[AnyOperation]:
    """Declare the operations on runs."""

    async def list_runs(call: Call[RunsQuery, None]) -> Reply[Runs]:
        query = call.parameters
        found = await journal_reader.runs(before=query.after, limit=query.limit + 1, stream=query.stream)
        page, cursor = page_of([run_view(each.stream, each.run) for each in found], query.limit, lambda run: run.run_id)
        return Reply(Runs(page, cursor))

    return [Operation("GET", "/api/runs", "List the runs, newest first", RunsQuery, response=Runs, handle=list_runs)]
