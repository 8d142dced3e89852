"""`/api/runs`: the runs of the streams, the newest first."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from milepost.service.api.endpoint import AnyOperation, Call, Operation, Reply
from milepost.service.api.paging import FROM, Limit, StreamKey, page_of
from milepost.service.run_view import RunView, run_view
from milepost.stores.reader import JournalReader


class RunsAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Which runs are listed."""

    stream: StreamKey | None = None
    after: Annotated[str, Meta(max_length=100, description=FROM)] | None = None
    limit: Limit = 100


class Runs(Struct, frozen=True):
    """Runs, the newest first. `next` is null on the last page."""

    runs: tuple[RunView, ...]
    next: str | None


def runs(journal_reader: JournalReader) -> Sequence[AnyOperation]:
    """Declare what can be asked about runs."""

    async def list_runs(call: Call[RunsAsked, None]) -> Reply[Runs]:
        asked = call.asked
        found = await journal_reader.runs(before=asked.after, limit=asked.limit + 1, stream=asked.stream)
        page, following = page_of([run_view(each.stream, each.run) for each in found], asked.limit, _id_of)
        return Reply(Runs(page, following))

    return [
        Operation("GET", "/api/runs", "List the runs, the newest first", asked=RunsAsked, answer=Runs, handle=list_runs)
    ]


def _id_of(run: RunView) -> str:
    return run.run_id
