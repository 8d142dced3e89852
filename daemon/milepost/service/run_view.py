"""A run as it is shown: the columns of `runs`, by their names."""

from datetime import datetime

from msgspec import Struct

from milepost.core.checkpoint import Run
from milepost.core.events import Mode, Reason, RunStatus
from milepost.core.problems import Problem


class RunView(Struct, frozen=True):
    """One bounded slice of work on a stream; `ended_at` is null while it is under way.

    `mode` is that of its sweep, `reason` why it ended before the sweep did, `problem` the last that made a batch or the
    run fail. The counts are of what it read and wrote: conversations `inserted`, `updated` and `unchanged`, rows of
    `contacts` and of `interaction_events`, dead letters opened.
    """

    run_id: str
    stream: str
    mode: Mode | None
    status: RunStatus
    reason: Reason | None
    started_at: datetime
    ended_at: datetime | None
    batches: int
    inserted: int
    updated: int
    unchanged: int
    dead_lettered: int
    contacts: int
    interaction_events: int
    retries: int
    failed_batches: int
    problem: Problem | None


def run_view(stream: str, run: Run) -> RunView:
    """Show a run of a stream."""
    tally = run.tally
    return RunView(
        run_id=run.run_id,
        stream=stream,
        mode=run.mode,
        status=run.status,
        reason=run.reason,
        started_at=run.started_at,
        ended_at=run.ended_at,
        batches=tally.batches,
        inserted=tally.inserted,
        updated=tally.updated,
        unchanged=tally.unchanged,
        dead_lettered=tally.dead_lettered,
        contacts=tally.contacts,
        interaction_events=tally.interaction_events,
        retries=run.retries,
        failed_batches=run.failed_batches,
        problem=run.problem,
    )
