"""`/api/runs`: the runs of all streams, newest first."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from milepost.reporting.views import RunView, run_view
from milepost.service.api.endpoint import (
    CURSOR_DESCRIPTION,
    AnyOperation,
    Call,
    Limit,
    Operation,
    Reply,
    StreamKey,
    page_of,
)
from milepost.stores.reader import JournalReader


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
        page, cursor = page_of([run_view(each.stream, each.run) for each in found], query.limit, _run_id)
        return Reply(Runs(page, cursor))

    return [Operation("GET", "/api/runs", "List the runs, newest first", RunsQuery, response=Runs, handle=list_runs)]


def _run_id(run: RunView) -> str:
    return run.run_id
