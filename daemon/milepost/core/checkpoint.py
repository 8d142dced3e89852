"""Where a stream stands: the fold of its journal entries, and nothing that is not in them.

One thing is held back on purpose. A batch that changes nothing gets no entry (a quiet sweep of a large inbox would fill
the journal with them); the run passes over it, and the next entry carries what was passed. Until then the checkpoint
in memory is ahead of the journal by `unrecorded`, and a crash costs no more than reading those batches again.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.events import (
    NO_TALLY,
    BatchFailed,
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Entry,
    FetchFailed,
    Mode,
    Position,
    RateLimited,
    Reason,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    StoreReturned,
    StreamEvent,
    StreamPaused,
    StreamRemoved,
    StreamResumed,
    SweepCompleted,
    SweepStarted,
    SyncRequested,
    Tally,
    TokenChecked,
)
from milepost.core.model import Detail, Scope, TokenHealth
from milepost.core.problems import Problem


class Sweep(Struct, frozen=True, omit_defaults=True):
    """The open sweep: how far it walks, where it goes on, what it brought. The instants are as in SweepStarted.

    `lost_cursor` was refused, and is kept until a batch shows that the sweep gets on without it; `resets` counts such
    losses in the run.
    """

    mode: Mode
    walk_started_at: datetime
    catch_up_until: datetime
    walk_until: datetime | None = None
    position: Position = Position()
    tally: Tally = NO_TALLY
    lost_cursor: str | None = None
    resets: int = 0


class Trouble(Struct, frozen=True, omit_defaults=True):
    """The batch at the sweep's position could not be read `attempts` times so far."""

    attempts: int
    problem: Problem
    retry_at: datetime


class Pause(Struct, frozen=True, omit_defaults=True):
    """A rate limit: no call in `scope` until `until`. It was reached `attempts` times in a row since `since`."""

    scope: Scope
    attempts: int
    since: datetime
    until: datetime
    problem: Problem


class Portion(Struct, frozen=True, omit_defaults=True):
    """Less than the whole is asked for, because of `problem`; `good` batches were read since."""

    limit: int
    detail: Detail
    problem: Problem
    good: int = 0


class Standstill(Struct, frozen=True, omit_defaults=True):
    """Run after run ends at the same problem, `runs` of them since `since`."""

    reason: Reason
    since: datetime
    runs: int
    problem: Problem | None = None


class OnHold(Struct, frozen=True, omit_defaults=True):
    """Somebody paused the stream: no call until it is resumed."""

    since: datetime
    by: str


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
    """What the journal says of a dead letter; its payload is kept apart.

    `reason` is that of the latest failure, `attempts` how many redrives failed, `redrive_at` when the next is due
    (None: never by itself). A letter that was closed stays closed: what fails again opens another.
    """

    dead_letter_id: str
    stream: str
    stage: Stage
    subject: str
    reason: str
    opened_at: datetime
    attempts: int = 0
    redrive_at: datetime | None = None
    closed_at: datetime | None = None
    resolution: Resolution | None = None
    note: str = ""
    fingerprint: str = ""


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
    pause: Pause | None = None
    portion: Portion | None = None
    standstill: Standstill | None = None
    on_hold: OnHold | None = None
    token: TokenHealth | None = None
    run: Run | None = None
    watermark: datetime | None = None
    last_success_at: datetime | None = None
    last_full_sweep_at: datetime | None = None
    open_dead_letters: int = 0
    total: Tally = NO_TALLY
    unrecorded: Tally = NO_TALLY
    sweep_is_recorded: bool = True
    removed_at: datetime | None = None  # set where that entry is its removal: nothing is stored of it


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
        pause=None,
        standstill=None,
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


def evolve(checkpoint: Checkpoint, entry: Entry) -> Checkpoint:
    """Say what an entry means for where the stream stands."""
    after = replace(checkpoint, version=entry.version, hash=entry.hash, updated_at=entry.recorded_at, removed_at=None)
    match entry.event:
        case BatchStored() as event:
            after = _batch_stored(after, event)
        case RunStarted(started_at=started_at):
            run = Run(entry.run_id or "", started_at, mode=after.sweep.mode if after.sweep else None)
            after = replace(after, run=run)
        case SweepStarted() as event:
            after = _sweep_started(after, event)
        case SweepCompleted() as event:
            after = _sweep_completed(after, entry, event)
        case RunEnded() as event:
            after = _run_ended(after, entry, event)
        case FetchFailed() | BatchFailed() | RateLimited() | BatchShrunk() | CursorLost() as event:
            after = _troubled(after, event)
        case DeadLetterOpened() | RedriveFailed() | DeadLetterClosed() as event:
            after = _lettered(after, event)
        case StreamPaused() | StreamResumed() | SyncRequested() | TokenChecked() | StreamRemoved() as event:
            after = _asked(after, entry, event)
        case StoreReturned():
            pass
        case unknown:
            assert_never(unknown)
    return after


def _troubled(
    checkpoint: Checkpoint, event: FetchFailed | BatchFailed | RateLimited | BatchShrunk | CursorLost
) -> Checkpoint:
    """Say what a refusal means, by its remedy: try again, give up, wait, ask for less, begin at the head."""
    match event:
        case FetchFailed(attempt=attempt, problem=problem, retry_at=retry_at):
            trouble = Trouble(attempt, problem, retry_at)
            return replace(checkpoint, trouble=trouble, run=_with(checkpoint.run, retries=1))
        case BatchFailed(problem=problem):
            run = _with(checkpoint.run, failed_batches=1, problem=problem)
            return replace(checkpoint, trouble=None, portion=None, run=run)
        case RateLimited(scope=scope, attempts=attempts, since=since, until=until, problem=problem):
            return replace(checkpoint, pause=Pause(scope, attempts, since, until, problem))
        case BatchShrunk(limit=limit, detail=detail, problem=problem):
            return replace(checkpoint, trouble=None, portion=Portion(limit, detail, problem))
        case CursorLost():
            return replace(checkpoint, trouble=None, sweep=_without_cursor(checkpoint.sweep))


def _lettered(checkpoint: Checkpoint, event: DeadLetterOpened | RedriveFailed | DeadLetterClosed) -> Checkpoint:
    """Count the open letters, and what a redrive wrote: that is no run's work."""
    match event:
        case DeadLetterOpened():
            return replace(checkpoint, open_dead_letters=checkpoint.open_dead_letters + 1)
        case RedriveFailed(tally=tally):
            return replace(checkpoint, total=checkpoint.total + tally)
        case DeadLetterClosed(tally=tally):
            open_now = checkpoint.open_dead_letters - 1
            return replace(checkpoint, open_dead_letters=open_now, total=checkpoint.total + tally)


def _asked(checkpoint: Checkpoint, entry: Entry, event: StreamEvent) -> Checkpoint:
    """Say what it means that somebody asked for something, or asked about the token."""
    match event:
        case StreamPaused(by=by):
            return replace(checkpoint, on_hold=OnHold(entry.recorded_at, by))
        case StreamResumed():
            return replace(checkpoint, on_hold=None)
        case TokenChecked(health=health):
            return replace(checkpoint, token=health)
        case SyncRequested():
            return checkpoint
        case StreamRemoved():  # a rate limit goes on: it is the platform's, and may hold for the whole app
            at = entry.recorded_at
            return Checkpoint(entry.stream, entry.version, entry.hash, at, pause=checkpoint.pause, removed_at=at)


def _batch_stored(checkpoint: Checkpoint, event: BatchStored) -> Checkpoint:
    return replace(
        checkpoint,
        sweep=_walked(checkpoint.sweep, event.position, event.tally) if checkpoint.sweep else None,
        run=_with(checkpoint.run, tally=event.tally),
        trouble=None,
        pause=None,
        portion=_grown(checkpoint.portion, event.tally),
        standstill=None,
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
        pause=None,
        portion=_grown(checkpoint.portion, event.tally),
        standstill=None,
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
    if sweep is not None and event.position is not None:
        sweep = _walked(sweep, event.position, event.tally)
    if sweep is not None and sweep.resets:  # of this run, however it ended
        sweep = replace(sweep, resets=0)
    if event.tally.batches:  # batches were passed over on the way, so that what was the matter before them is over
        checkpoint = replace(checkpoint, trouble=None, pause=None, standstill=None)
    return replace(
        checkpoint,
        sweep=sweep,
        portion=_grown(checkpoint.portion, event.tally),
        standstill=_standstill(checkpoint.standstill, entry, event),
        run=run,
        total=checkpoint.total + event.tally,
        unrecorded=NO_TALLY,
    )


def _standstill(before: Standstill | None, entry: Entry, event: RunEnded) -> Standstill | None:
    """Count the runs that fail or are stopped, one after the other, for the same reason."""
    if event.status not in {RunStatus.FAILED, RunStatus.STOPPED}:
        return before
    if before is None or before.reason is not event.reason:
        return Standstill(event.reason, entry.recorded_at, 1, event.problem)
    return replace(before, runs=before.runs + 1, problem=event.problem)


def _without_cursor(sweep: Sweep | None) -> Sweep | None:
    if sweep is None:
        return None
    position = Position(sweep.position.phase)
    return replace(sweep, position=position, lost_cursor=sweep.position.cursor, resets=sweep.resets + 1)


def _grown(portion: Portion | None, tally: Tally) -> Portion | None:
    """Count the good batches since less was asked for. One that was stepped over takes the reason with it."""
    if portion is None or not tally.batches:
        return portion
    if portion.detail is Detail.POSITION:
        return None
    return replace(portion, good=portion.good + tally.batches)


def _walked(sweep: Sweep, position: Position, tally: Tally) -> Sweep:
    return replace(sweep, position=position, tally=sweep.tally + tally, lost_cursor=None)


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
