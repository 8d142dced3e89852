"""Where a stream stands: the fold of its journal entries, and nothing that is not in them.

One thing is held back on purpose. A batch that changes nothing gets no entry (a quiet sweep of a large inbox would fill
the journal with them); the run passes over it, and the next entry carries what was passed. Until then the checkpoint
in memory is ahead of the journal by `unrecorded`, and a crash costs no more than reading those batches again.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.events import (
    NO_TALLY,
    BatchFailed,
    BatchStored,
    DeadLetterOpened,
    Entry,
    FetchFailed,
    Mode,
    Position,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    StoreReturned,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.core.problems import Problem


class Sweep(Struct, frozen=True, omit_defaults=True):
    """The open sweep: how far it walks, where it goes on, what it brought. The instants are as in SweepStarted."""

    mode: Mode
    walk_started_at: datetime
    catch_up_until: datetime
    walk_until: datetime | None = None
    position: Position = Position()
    tally: Tally = NO_TALLY


class Trouble(Struct, frozen=True, omit_defaults=True):
    """The batch at the sweep's position could not be read `attempts` times so far."""

    attempts: int
    problem: Problem
    retry_at: datetime


class Run(Struct, frozen=True, omit_defaults=True):
    """The stream's latest run, open or ended."""

    run_id: str
    started_at: datetime
    status: RunStatus = RunStatus.RUNNING
    mode: Mode | None = None
    reason: Reason | None = None
    ended_at: datetime | None = None
    tally: Tally = NO_TALLY
    retries: int = 0
    failed_batches: int = 0
    problem: Problem | None = None


class DeadLetter(Struct, frozen=True, omit_defaults=True):
    """What the journal says of a dead letter; its payload is kept apart."""

    dead_letter_id: str
    stream: str
    stage: str
    subject: str
    reason: str
    opened_at: datetime


class Checkpoint(Struct, frozen=True, omit_defaults=True):
    """Where a stream stands after entry number `version`, whose hash is `hash`.

    `unrecorded` and `sweep_is_recorded` concern what was passed over since that entry; both are at rest in every
    checkpoint that is stored.
    """

    stream: str
    version: int = 0
    hash: str = ""
    updated_at: datetime | None = None
    sweep: Sweep | None = None
    trouble: Trouble | None = None
    run: Run | None = None
    watermark: datetime | None = None
    last_success_at: datetime | None = None
    last_full_sweep_at: datetime | None = None
    open_dead_letters: int = 0
    total: Tally = NO_TALLY
    unrecorded: Tally = NO_TALLY
    sweep_is_recorded: bool = True


class BatchPassed(Struct, frozen=True):
    """A batch that changed nothing was read; `sweep` is the open sweep, standing after it. Not journaled."""

    sweep: Sweep
    tally: Tally


def pass_over(checkpoint: Checkpoint, passed: BatchPassed) -> Checkpoint:
    """Move on in memory after a batch that changed nothing."""
    is_recorded = checkpoint.sweep_is_recorded and is_same_sweep(checkpoint.sweep, passed.sweep)
    return replace(
        checkpoint,
        sweep=passed.sweep,
        trouble=None,
        unrecorded=checkpoint.unrecorded + passed.tally,
        sweep_is_recorded=is_recorded,
    )


def is_same_sweep(one: Sweep | None, other: Sweep | SweepCompleted) -> bool:
    """Whether both are the same walk over the stream, at whatever position."""
    return one is not None and (one.mode, one.walk_started_at) == (other.mode, other.walk_started_at)


def fold(entries: Iterable[Entry], checkpoint: Checkpoint) -> Checkpoint:
    """Fold entries, in order, into the checkpoint before them."""
    for entry in entries:
        checkpoint = evolve(checkpoint, entry)
    return checkpoint


def evolve(checkpoint: Checkpoint, entry: Entry) -> Checkpoint:  # noqa: PLR0911  (one line for each kind of event)
    """Say what an entry means for where the stream stands."""
    after = replace(checkpoint, version=entry.version, hash=entry.hash, updated_at=entry.recorded_at)
    match entry.event:
        case BatchStored() as event:
            return _batch_stored(after, event)
        case RunStarted(started_at=started_at):
            return replace(
                after, run=Run(entry.run_id or "", started_at, mode=after.sweep.mode if after.sweep else None)
            )
        case SweepStarted() as event:
            return _sweep_started(after, event)
        case FetchFailed() as event:
            trouble = Trouble(event.attempt, event.problem, event.retry_at)
            return replace(after, trouble=trouble, run=_with(after.run, retries=1))
        case BatchFailed(problem=problem):
            return replace(after, trouble=None, run=_with(after.run, failed_batches=1, problem=problem))
        case DeadLetterOpened():
            return replace(after, open_dead_letters=after.open_dead_letters + 1)
        case SweepCompleted() as event:
            return _sweep_completed(after, entry, event)
        case RunEnded() as event:
            return _run_ended(after, entry, event)
        case StoreReturned():
            return after
        case unknown:
            assert_never(unknown)


def _batch_stored(checkpoint: Checkpoint, event: BatchStored) -> Checkpoint:
    return replace(
        checkpoint,
        sweep=_walked(checkpoint.sweep, event.position, event.tally),
        run=_with(checkpoint.run, tally=event.tally),
        trouble=None,
        total=checkpoint.total + event.tally,
        unrecorded=NO_TALLY,
    )


def _sweep_started(checkpoint: Checkpoint, event: SweepStarted) -> Checkpoint:
    sweep = Sweep(event.mode, event.walk_started_at, event.catch_up_until, event.walk_until)
    run = replace(checkpoint.run, mode=event.mode) if checkpoint.run is not None else None
    return replace(checkpoint, sweep=sweep, run=run, sweep_is_recorded=True)


def _sweep_completed(checkpoint: Checkpoint, entry: Entry, event: SweepCompleted) -> Checkpoint:
    run = checkpoint.run
    if run is None or run.run_id != entry.run_id:  # the whole run is this one entry
        run = Run(entry.run_id or "", event.run_started_at)
    tally = run.tally + event.tally
    before = checkpoint.sweep.tally if checkpoint.sweep and is_same_sweep(checkpoint.sweep, event) else NO_TALLY
    status = RunStatus.COMPLETE_WITH_ERRORS if (before + event.tally).dead_lettered else RunStatus.COMPLETE
    return replace(
        checkpoint,
        sweep=None,
        trouble=None,
        run=replace(run, mode=event.mode, status=status, ended_at=entry.recorded_at, tally=tally),
        watermark=event.walk_started_at,
        last_success_at=entry.recorded_at,
        last_full_sweep_at=entry.recorded_at if event.mode is Mode.FULL else checkpoint.last_full_sweep_at,
        total=checkpoint.total + event.tally,
        unrecorded=NO_TALLY,
        sweep_is_recorded=True,
    )


def _run_ended(checkpoint: Checkpoint, entry: Entry, event: RunEnded) -> Checkpoint:
    run = _with(checkpoint.run, tally=event.tally)
    if run is not None:
        run = replace(
            run,
            status=event.status,
            reason=event.reason,
            ended_at=entry.recorded_at,
            problem=event.problem or run.problem,
        )
    sweep = checkpoint.sweep
    if event.position is not None:
        sweep = _walked(sweep, event.position, event.tally)
    return replace(
        checkpoint,
        sweep=sweep,
        # A batch that was in trouble still is, unless batches were passed over since: the next run goes on counting.
        trouble=None if event.tally.batches else checkpoint.trouble,
        run=run,
        total=checkpoint.total + event.tally,
        unrecorded=NO_TALLY,
    )


def _walked(sweep: Sweep | None, position: Position, tally: Tally) -> Sweep | None:
    return None if sweep is None else replace(sweep, position=position, tally=sweep.tally + tally)


def _with(
    run: Run | None,
    *,
    tally: Tally = NO_TALLY,
    retries: int = 0,
    failed_batches: int = 0,
    problem: Problem | None = None,
) -> Run | None:
    """Add to the counts of the run, if there is one."""
    if run is None:
        return None
    return replace(
        run,
        tally=run.tally + tally,
        retries=run.retries + retries,
        failed_batches=run.failed_batches + failed_batches,
        problem=problem or run.problem,
    )


def reaches_back(updated_times: Iterable[datetime], until: datetime | None) -> bool:
    """Whether a batch is wholly older than `until`, which is where a walk to that instant may end.

    One old row is not enough: the order of the edge is seen everywhere and promised nowhere. An empty batch says
    nothing.
    """
    if until is None:
        return False
    seen = False
    for updated_time in updated_times:
        if updated_time >= until:
            return False
        seen = True
    return seen


def overlap_before(instant: datetime, overlap_seconds: float) -> datetime:
    """The instant from which rows are read again, to make up for clocks and order that are not exact."""
    return instant - timedelta(seconds=overlap_seconds)
