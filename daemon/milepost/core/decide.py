"""What an outcome means: what to record and what to store, together."""

from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.chain import seal
from milepost.core.checkpoint import (
    BatchPassed,
    Checkpoint,
    Sweep,
    fold,
    is_same_sweep,
    overlap_before,
    reaches_back,
)
from milepost.core.codec import Codec
from milepost.core.events import (
    NO_TALLY,
    BatchFailed,
    BatchStored,
    Event,
    FetchFailed,
    Phase,
    Position,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    SweepCompleted,
    SweepStarted,
)
from milepost.core.merge import Difference, difference
from milepost.core.model import Batch, Changes, Known, Stream
from milepost.core.plan import Policy, Slice, next_mode, open_sweep, walk_limit
from milepost.core.ports import Commit, Fetched, Outcome, Refused
from milepost.core.problems import Problem, ProblemKind
from milepost.core.remedies import Remedy, remedy
from milepost.core.retry import backoff_seconds

NOTHING_KNOWN = Known()


class Record(Struct, frozen=True):
    """Store these rows and append these events, in one transaction."""

    events: tuple[Event, ...]
    changes: Changes = Changes()


Decision = Record | BatchPassed


class Circumstances(Struct, frozen=True):
    """What a decision depends on beside the stream: the time, a luck in [0, 1), the run and the settings."""

    now: datetime
    luck: float
    work: Slice
    policy: Policy


def decide(
    checkpoint: Checkpoint, outcome: Outcome, circumstances: Circumstances, known: Known = NOTHING_KNOWN
) -> Decision:
    """Say what an outcome means. `known` is what the store holds of the rows in a Fetched outcome."""
    match outcome:
        case Fetched() if problem := _loop(checkpoint, outcome.batch, circumstances.work):
            return _refused(checkpoint, problem, circumstances)
        case Fetched():
            return _fetched(checkpoint, outcome, circumstances, known)
        case Refused(problem=problem):
            return _refused(checkpoint, problem, circumstances)


def conclude(checkpoint: Checkpoint, reason: Reason, work: Slice) -> Record | None:
    """End a run at a limit or for a shutdown. None where it has nothing to record: it read nothing."""
    has_started = checkpoint.run is not None and checkpoint.run.run_id == work.run_id
    if not has_started and checkpoint.unrecorded == NO_TALLY:
        return None
    position = checkpoint.sweep.position if checkpoint.sweep else None
    ended = RunEnded(RunStatus.PAUSED, reason, position, checkpoint.unrecorded)
    return Record((*_opening(checkpoint, checkpoint.sweep, work), ended))


def recover(checkpoint: Checkpoint, own_run_id: str | None = None) -> Record | None:
    """Close the run that was left open. None where there is none.

    `own_run_id` is the latest run of this process on the stream: any other one was left by a process that died.
    """
    run = checkpoint.run
    if run is None or run.ended_at is not None:
        return None
    reason = Reason.BROKE_OFF if run.run_id == own_run_id else Reason.PROCESS_DIED
    return Record((RunEnded(RunStatus.INTERRUPTED, reason),))


def prepare(checkpoint: Checkpoint, record: Record, run_id: str | None, now: datetime, codec: Codec) -> Commit:
    """Turn a decision into what the store writes: sealed entries, rows, and the projections after them."""
    entries = seal(checkpoint, record.events, run_id, now, codec)
    after = fold(entries, checkpoint)
    return Commit(entries, record.changes, after, after.run)


# --- a batch was read -------------------------------------------------------------------------------------------------


def _fetched(checkpoint: Checkpoint, fetched: Fetched, circumstances: Circumstances, known: Known) -> Decision:
    work = circumstances.work
    sweep = open_sweep(checkpoint, work) or _new_sweep(checkpoint, fetched, circumstances)
    found = difference(Stream.parse(checkpoint.stream), fetched.batch, known, circumstances.now)
    tally = checkpoint.unrecorded + found.tally
    position = _next_position(sweep, fetched.batch, read_batches=sweep.tally.batches + tally.batches)
    if position is None:
        return _completed(checkpoint, sweep, found, work)
    if found.is_empty:
        return BatchPassed(replace(sweep, position=position), found.tally)
    opening = _opening(checkpoint, sweep, work)
    return Record((*opening, *found.dead_letters, BatchStored(position, tally)), found.changes)


def _new_sweep(checkpoint: Checkpoint, fetched: Fetched, circumstances: Circumstances) -> Sweep:
    policy = circumstances.policy
    mode = next_mode(checkpoint, circumstances.now, circumstances.work, policy)
    return Sweep(
        mode,
        walk_started_at=fetched.asked_at,
        catch_up_until=overlap_before(fetched.asked_at, policy.watermark_overlap_seconds),
        walk_until=walk_limit(checkpoint, mode, policy),
    )


def _next_position(sweep: Sweep, batch: Batch, *, read_batches: int) -> Position | None:
    """Say where the sweep goes on after a batch; None where that was its last.

    A walk that took a single batch saw the inbox at one instant: nothing can have moved behind it, so that it needs no
    catch-up scan.
    """
    times = [each.updated_time for each in batch.conversations]
    match sweep.position.phase:
        case Phase.WALK:
            if batch.next_cursor is not None and not reaches_back(times, sweep.walk_until):
                return Position(Phase.WALK, batch.next_cursor)
            return None if read_batches == 1 else Position(Phase.CATCH_UP)
        case Phase.CATCH_UP:
            if batch.next_cursor is not None and not reaches_back(times, sweep.catch_up_until):
                return Position(Phase.CATCH_UP, batch.next_cursor)
            return None


def _completed(checkpoint: Checkpoint, sweep: Sweep, found: Difference, work: Slice) -> Record:
    completed = SweepCompleted(sweep.mode, sweep.walk_started_at, work.started_at, checkpoint.unrecorded + found.tally)
    opening = _opening(checkpoint, sweep, work) if found.dead_letters else ()
    return Record((*opening, *found.dead_letters, completed), found.changes)


def _opening(checkpoint: Checkpoint, sweep: Sweep | None, work: Slice) -> tuple[Event, ...]:
    """Give the beginnings that are not yet on record: of the run, and of the sweep."""
    opening: list[Event] = []
    if checkpoint.run is None or checkpoint.run.run_id != work.run_id:
        opening.append(RunStarted(work.started_at))
    if sweep is not None and not (checkpoint.sweep_is_recorded and is_same_sweep(checkpoint.sweep, sweep)):
        opening.append(SweepStarted(sweep.mode, sweep.walk_started_at, sweep.catch_up_until, sweep.walk_until))
    return tuple(opening)


# --- a batch was refused ----------------------------------------------------------------------------------------------


def _loop(checkpoint: Checkpoint, batch: Batch, work: Slice) -> Problem | None:
    """Find the cursor that leads to itself: following it would never end."""
    sweep = open_sweep(checkpoint, work)
    cursor = sweep.position.cursor if sweep else None
    if cursor is None or batch.next_cursor != cursor:
        return None
    return Problem(ProblemKind.CURSOR_LOOP, "the cursor of the next batch is the one just used")


def _refused(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances) -> Record:
    match remedy(problem):
        case Remedy.RETRY:
            return _retry(checkpoint, problem, circumstances)
        case Remedy.WAIT:
            return _end(checkpoint, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=problem), circumstances.work)
        case Remedy.STOP_AUTHORIZATION:
            ended = RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=problem)
            return _end(checkpoint, ended, circumstances.work)
        case Remedy.STOP_CONFIGURATION:
            ended = RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION, problem=problem)
            return _end(checkpoint, ended, circumstances.work)


def _retry(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances) -> Record:
    policy = circumstances.policy
    attempt = checkpoint.trouble.attempts + 1 if checkpoint.trouble else 1
    if attempt >= policy.attempts:
        failed = BatchFailed(Stage.FETCH, attempt, problem)
        ended = RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=problem)
        return _end(checkpoint, ended, circumstances.work, failed)
    delay_seconds = backoff_seconds(
        attempt,
        circumstances.luck,
        base_delay_seconds=policy.base_delay_seconds,
        max_delay_seconds=policy.max_delay_seconds,
    )
    retried = FetchFailed(attempt, problem, circumstances.now + timedelta(seconds=delay_seconds))
    return Record((*_opening(checkpoint, checkpoint.sweep, circumstances.work), *_passed(checkpoint), retried))


def _end(checkpoint: Checkpoint, ended: RunEnded, work: Slice, *before: Event) -> Record:
    """End the run with its place saved, whatever was passed over included."""
    position = checkpoint.sweep.position if checkpoint.sweep else None
    ended = replace(ended, position=position, tally=checkpoint.unrecorded)
    return Record((*_opening(checkpoint, checkpoint.sweep, work), *before, ended))


def _passed(checkpoint: Checkpoint) -> tuple[Event, ...]:
    """Record the batches that were passed over, before something is recorded that does not carry them itself."""
    if checkpoint.unrecorded == NO_TALLY or checkpoint.sweep is None:
        return ()
    return (BatchStored(checkpoint.sweep.position, checkpoint.unrecorded),)
