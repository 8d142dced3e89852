"""The fold of the journal into checkpoints."""

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from milepost.core.checkpoint import (
    BatchUnchanged,
    Checkpoint,
    FailureStreak,
    GivenUp,
    OperatorPause,
    RateLimit,
    ReducedRequest,
    RetryState,
    Run,
    Sweep,
    is_same_sweep,
)
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
    FieldsLeftOut,
    Mode,
    Position,
    RateLimited,
    RedriveFailed,
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
from milepost.core.model import Detail
from milepost.core.problems import Problem

MAX_GIVEN_UP = 32  # that are remembered: the latest


def skip_unchanged(checkpoint: Checkpoint, unchanged: BatchUnchanged) -> Checkpoint:
    """Return the checkpoint, in memory only, after a batch that changed nothing."""
    is_recorded = checkpoint.sweep_is_recorded and is_same_sweep(checkpoint.sweep, unchanged.sweep)
    return replace(
        checkpoint,
        sweep=unchanged.sweep,
        retry=None,
        rate_limit=None,
        failure_streak=None,
        unrecorded=checkpoint.unrecorded + unchanged.tally,
        sweep_is_recorded=is_recorded,
    )


def fold(entries: Iterable[Entry], checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint after these entries, given the one before them."""
    for entry in entries:
        checkpoint = evolve(checkpoint, entry)
    return checkpoint


def evolve(checkpoint: Checkpoint, entry: Entry) -> Checkpoint:
    """Return the checkpoint after an entry."""
    after = replace(checkpoint, version=entry.version, hash=entry.hash, updated_at=entry.recorded_at, removed_at=None)
    match entry.event:
        case BatchStored() as event:
            after = _after_batch(after, event)
        case RunStarted(started_at=started_at):
            run = Run(entry.run_id or "", started_at, mode=after.sweep.mode if after.sweep else None)
            after = replace(after, run=run)
        case SweepStarted() as event:
            after = _after_sweep_start(after, event)
        case SweepCompleted() as event:
            after = _after_sweep(after, entry, event)
        case RunEnded() as event:
            after = _after_run(after, entry, event)
        case FetchFailed() | BatchFailed() | RateLimited() | BatchShrunk() | CursorLost() | FieldsLeftOut() as event:
            after = _after_refusal(after, event)
        case DeadLetterOpened() | RedriveFailed() | DeadLetterClosed() as event:
            after = _after_dead_letter(after, event)
        case StreamPaused() | StreamResumed() | SyncRequested() | TokenChecked() | StreamRemoved() as event:
            after = _after_stream_event(after, entry, event)
        case StoreReturned():
            pass
        case unknown:
            assert_never(unknown)
    return after


def _after_refusal(
    checkpoint: Checkpoint, event: FetchFailed | BatchFailed | RateLimited | BatchShrunk | CursorLost | FieldsLeftOut
) -> Checkpoint:
    """Apply a remedy: retry, give up, wait, send a smaller request, restart at the head, or leave fields out."""
    match event:
        case FetchFailed() as failed:
            retry = RetryState(failed.attempt, failed.problem, failed.retry_at, failed.suspect, failed.confirmed)
            return replace(checkpoint, retry=retry, run=_count(checkpoint.run, retries=1))
        case BatchFailed(problem=problem):
            run = _count(checkpoint.run, failed_batches=1, problem=problem)
            return replace(checkpoint, retry=None, reduced_request=_worked(checkpoint.reduced_request), run=run)
        case RateLimited(scope=scope, attempts=attempts, since=since, until=until, problem=problem):
            return replace(checkpoint, rate_limit=RateLimit(scope, attempts, since, until, problem))
        case BatchShrunk() as shrunk:
            return replace(checkpoint, retry=None, reduced_request=_shrunk(checkpoint.reduced_request, shrunk))
        case CursorLost():
            return replace(checkpoint, retry=None, sweep=_without_cursor(checkpoint.sweep))
        case FieldsLeftOut(fields=fields):
            return replace(checkpoint, left_out_fields=fields)


def _after_dead_letter(
    checkpoint: Checkpoint, event: DeadLetterOpened | RedriveFailed | DeadLetterClosed
) -> Checkpoint:
    """Count the open dead letters and the rows of redrives, which belong to no run."""
    match event:
        case DeadLetterOpened() as opened:
            open_now = checkpoint.open_dead_letters + 1
            return replace(checkpoint, open_dead_letters=open_now, given_up=_given_up(checkpoint, opened))
        case RedriveFailed(tally=tally):
            return replace(checkpoint, total=checkpoint.total + tally)
        case DeadLetterClosed(tally=tally):
            open_now, total = checkpoint.open_dead_letters - 1, checkpoint.total + tally
            left = tuple(each for each in checkpoint.given_up if each.dead_letter_id != event.dead_letter_id)
            return replace(checkpoint, open_dead_letters=open_now, given_up=left, total=total)


def _after_stream_event(checkpoint: Checkpoint, entry: Entry, event: StreamEvent) -> Checkpoint:
    """Apply a command of an operator, or news of the token."""
    match event:
        case StreamPaused(by=by):
            return replace(checkpoint, operator_pause=OperatorPause(entry.recorded_at, by))
        case StreamResumed():
            return replace(checkpoint, operator_pause=None)
        case TokenChecked(health=health):
            return replace(checkpoint, token=health)
        case SyncRequested():
            return checkpoint
        case StreamRemoved():  # a rate limit stays: it is the platform's and may apply to the whole app
            at = entry.recorded_at
            return Checkpoint(
                entry.stream, entry.version, entry.hash, at, rate_limit=checkpoint.rate_limit, removed_at=at
            )


def _after_batch(checkpoint: Checkpoint, event: BatchStored) -> Checkpoint:
    return replace(
        checkpoint,
        sweep=_advance(checkpoint.sweep, event.position, event.tally) if checkpoint.sweep else None,
        run=_count(checkpoint.run, tally=event.tally),
        retry=None,
        rate_limit=None,
        reduced_request=_grown(checkpoint.reduced_request, event.tally),
        given_up_in_a_row=0 if event.position.cursor is None else _given_up_in_a_row(checkpoint, event.tally),
        failure_streak=None,
        total=checkpoint.total + event.tally,
        unrecorded=NO_TALLY,
    )


def _after_sweep_start(checkpoint: Checkpoint, event: SweepStarted) -> Checkpoint:
    sweep = Sweep(event.mode, event.walk_started_at, event.catch_up_until, event.walk_until)
    run = replace(checkpoint.run, mode=event.mode) if checkpoint.run is not None else None
    return replace(checkpoint, sweep=sweep, run=run, sweep_is_recorded=True)


def _after_sweep(checkpoint: Checkpoint, entry: Entry, event: SweepCompleted) -> Checkpoint:
    run = checkpoint.run
    if run is None or run.run_id != entry.run_id:  # this one entry is the whole run
        run = Run(entry.run_id or "", event.run_started_at)
    tally = run.tally + event.tally
    sweep = checkpoint.sweep
    before = sweep.tally if sweep is not None and is_same_sweep(sweep, event) else NO_TALLY
    has_errors = event.has_errors or (before + event.tally).dead_lettered  # older entries lack the field
    status = RunStatus.COMPLETE_WITH_ERRORS if has_errors else RunStatus.COMPLETE
    return replace(
        checkpoint,
        sweep=None,
        retry=None,
        rate_limit=None,
        reduced_request=_grown(checkpoint.reduced_request, event.tally),
        given_up_in_a_row=0,
        failure_streak=None,
        run=replace(run, mode=event.mode, status=status, ended_at=entry.recorded_at, tally=tally),
        watermark=event.walk_started_at,
        last_success_at=entry.recorded_at,
        last_full_sweep_at=entry.recorded_at if event.mode is Mode.FULL else checkpoint.last_full_sweep_at,
        total=checkpoint.total + event.tally,
        unrecorded=NO_TALLY,
        sweep_is_recorded=True,
    )


def _after_run(checkpoint: Checkpoint, entry: Entry, event: RunEnded) -> Checkpoint:
    run = _count(checkpoint.run, tally=event.tally, problem=event.problem)
    if run is not None:
        run = replace(run, status=event.status, reason=event.reason, ended_at=entry.recorded_at)
    sweep = checkpoint.sweep
    if sweep is not None and event.position is not None:
        sweep = _advance(sweep, event.position, event.tally)
    if sweep is not None and sweep.resets:  # counted per run
        sweep = replace(sweep, resets=0)
    if event.tally.batches:  # unchanged batches were read since, so earlier problems are over
        checkpoint = replace(checkpoint, retry=None, rate_limit=None, failure_streak=None)
    return replace(
        checkpoint,
        sweep=sweep,
        reduced_request=_grown(checkpoint.reduced_request, event.tally),
        given_up_in_a_row=_given_up_in_a_row(checkpoint, event.tally),
        failure_streak=_failure_streak(checkpoint.failure_streak, entry, event),
        run=run,
        total=checkpoint.total + event.tally,
        unrecorded=NO_TALLY,
    )


def _failure_streak(before: FailureStreak | None, entry: Entry, event: RunEnded) -> FailureStreak | None:
    """Count consecutive runs that failed or stopped for the same reason."""
    if event.status not in {RunStatus.FAILED, RunStatus.STOPPED}:
        return before
    if before is None or before.reason is not event.reason:
        return FailureStreak(event.reason, entry.recorded_at, 1, event.problem)
    return replace(before, runs=before.runs + 1, problem=event.problem)


def _without_cursor(sweep: Sweep | None) -> Sweep | None:
    if sweep is None:
        return None
    position = Position(sweep.position.phase)
    return replace(sweep, position=position, lost_cursor=sweep.position.cursor, resets=sweep.resets + 1)


def _grown(reduced_request: ReducedRequest | None, tally: Tally) -> ReducedRequest | None:
    """Count the good batches at a reduced size. Stepping over a batch removes what made it necessary."""
    if reduced_request is None or not tally.batches:
        return reduced_request
    if reduced_request.detail is Detail.POSITION or reduced_request.suspect:
        return None
    return replace(reduced_request, good=reduced_request.good + tally.batches)


def _shrunk(before: ReducedRequest | None, shrunk: BatchShrunk) -> ReducedRequest:
    worked = _worked(before)
    relapses = 0
    if before is not None and before.limit >= shrunk.limit:
        relapses = before.relapses + (before.good > 0 and before.limit == shrunk.limit)
    return ReducedRequest(
        shrunk.limit,
        shrunk.detail,
        shrunk.problem,
        suspect=shrunk.suspect,
        worked=worked.limit if worked is not None else 0,
        relapses=relapses,
    )


def _worked(reduced: ReducedRequest | None) -> ReducedRequest | None:
    """Return the reduced request that worked last: a search that proved nothing begins again from there."""
    if reduced is None:
        return None
    if reduced.good:
        if not reduced.detail.leaves_out:
            return reduced
        return replace(reduced, detail=Detail.SEPARATE, suspect="", good=reduced.good - 1)
    if not reduced.worked:
        return None
    return ReducedRequest(reduced.worked, Detail.NESTED, reduced.problem, relapses=reduced.relapses)


def _given_up(checkpoint: Checkpoint, opened: DeadLetterOpened) -> tuple[GivenUp, ...]:
    """Remember a thread that becomes a dead letter because lists with it fail."""
    reduced = checkpoint.reduced_request
    if reduced is None or not reduced.detail.leaves_out or not reduced.suspect:
        return checkpoint.given_up
    if opened.stage is not Stage.FETCH or opened.subject.removesuffix("/messages") != reduced.suspect:
        return checkpoint.given_up
    given_up = GivenUp(opened.dead_letter_id, reduced.suspect, reduced.detail)
    others = (each for each in checkpoint.given_up if each.conversation_id != reduced.suspect)
    return (*others, given_up)[-MAX_GIVEN_UP:]


def _given_up_in_a_row(checkpoint: Checkpoint, tally: Tally) -> int:
    """Count the threads that became dead letters because a list failed; one that was read ends the row."""
    reduced = checkpoint.reduced_request
    leaves_out = reduced is not None and reduced.detail.leaves_out and not reduced.good
    if leaves_out and tally.unreadable:
        return checkpoint.given_up_in_a_row + tally.dead_lettered
    return 0 if tally.conversations else checkpoint.given_up_in_a_row


def _advance(sweep: Sweep, position: Position, tally: Tally) -> Sweep:
    return replace(sweep, position=position, tally=sweep.tally + tally, lost_cursor=None)


def _count(
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
