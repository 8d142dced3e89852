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
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Mode,
    Phase,
    Position,
    RateLimited,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.core.letters import opened, recovered, subjects_of, unread, withhold
from milepost.core.merge import difference, keys_of, order_violations
from milepost.core.model import Batch, Changes, Detail, Keys, Known, RefusedRow, Stream, Stretch
from milepost.core.pauses import next_pause
from milepost.core.plan import Policy, Slice, next_mode, open_sweep, size_now, smaller, walk_limit, whole
from milepost.core.ports import Commit, Fetched, Outcome, Refused
from milepost.core.problems import Problem, ProblemKind
from milepost.core.remedies import Remedy, Rule, rule_for
from milepost.core.retry import backoff_seconds

NOTHING_KNOWN = Known()


class Record(Struct, frozen=True):
    """Store these rows and append these events, in one transaction.

    Rows that the store refuses go back to `decide`, as part of the circumstances.
    """

    events: tuple[Event, ...]
    changes: Changes = Changes()


Decision = Record | BatchPassed


class Circumstances(Struct, frozen=True):
    """What a decision depends on beside the stream: the time, a luck in [0, 1), the run and the settings.

    `refused` are the rows that the store would not take when the same outcome was decided before.
    """

    now: datetime
    luck: float
    work: Slice
    policy: Policy
    refused: tuple[RefusedRow, ...] = ()


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
    ended = RunEnded(RunStatus.PAUSED, reason, _place(checkpoint), checkpoint.unrecorded)
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


def keys_for(checkpoint: Checkpoint, fetched: Fetched, circumstances: Circumstances) -> Keys:
    """List what has to be known of the store before a batch is decided on."""
    batch, refused = fetched.batch, circumstances.refused
    sweep = open_sweep(checkpoint, circumstances.work) or _new_sweep(checkpoint, fetched, circumstances)
    size = size_now(checkpoint, circumstances.policy)
    may_have_letters = checkpoint.open_dead_letters or batch.unreadable or refused or size.detail is not Detail.NESTED
    keys = keys_of(Stream.parse(checkpoint.stream), batch)
    return replace(
        keys,
        subjects=subjects_of(batch, refused) if may_have_letters else (),
        full_sweep_at=sweep.walk_started_at if _notes_missed(checkpoint, sweep) else None,
        stretch=_stretch(checkpoint, sweep, batch),
    )


def _fetched(checkpoint: Checkpoint, fetched: Fetched, circumstances: Circumstances, known: Known) -> Decision:
    work, batch = circumstances.work, fetched.batch
    sweep = open_sweep(checkpoint, work) or _new_sweep(checkpoint, fetched, circumstances)
    found = _found(checkpoint, sweep, batch, circumstances, known)
    tally = checkpoint.unrecorded + found.tally
    position = _next_position(sweep, batch, read_batches=sweep.tally.batches + tally.batches)
    if position is None:
        return _completed(checkpoint, sweep, found, circumstances, known)
    if found.changes == Changes() and not found.letters:
        return BatchPassed(replace(sweep, position=position, lost_cursor=None), found.tally)
    opening = _opening(checkpoint, sweep, work)
    return Record((*opening, *found.letters, BatchStored(position, tally)), found.changes)


class _Found(Struct, frozen=True):
    """What a batch comes to: rows to write, letters that open or close, and the counts of both."""

    changes: Changes
    letters: tuple[DeadLetterOpened | DeadLetterClosed, ...]
    tally: Tally


def _found(checkpoint: Checkpoint, sweep: Sweep, batch: Batch, circumstances: Circumstances, known: Known) -> _Found:
    stream, now = Stream.parse(checkpoint.stream), circumstances.now
    detail = size_now(checkpoint, circumstances.policy).detail
    problem = checkpoint.portion.problem if checkpoint.portion else None
    readable = replace(batch, conversations=()) if detail is Detail.POSITION else batch
    written, unwritten = withhold(difference(stream, readable, known, now), circumstances.refused)
    failures = (*unread(batch, detail, problem, known), *unwritten)
    letters, payloads = opened(stream, failures, known, now)
    stretch = _stretch(checkpoint, sweep, batch)
    changes = replace(
        written.changes,
        payloads=payloads,
        missed=stretch if known.unseen else None,
        found=tuple(each.conversation_id for each in batch.conversations if each.conversation_id in known.missed),
    )
    tally = replace(
        written.tally,
        dead_lettered=len(letters),
        unreadable=len(failures),
        order_violations=order_violations(batch.conversations, sweep.position.reached_at),
    )
    return _Found(changes, (*letters, *recovered(readable, detail, failures, known)), tally)


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
    reached_at = times[-1] if times else sweep.position.reached_at
    match sweep.position.phase:
        case Phase.WALK:
            if batch.next_cursor is not None and not reaches_back(times, sweep.walk_until):
                return Position(Phase.WALK, batch.next_cursor, reached_at)
            return None if read_batches == 1 else Position(Phase.CATCH_UP)
        case Phase.CATCH_UP:
            if batch.next_cursor is not None and not reaches_back(times, sweep.catch_up_until):
                return Position(Phase.CATCH_UP, batch.next_cursor, reached_at)
            return None


def _completed(
    checkpoint: Checkpoint, sweep: Sweep, found: _Found, circumstances: Circumstances, known: Known
) -> Record:
    work = circumstances.work
    tally = checkpoint.unrecorded + found.tally
    changes = found.changes
    missed = known.all_missed + known.unseen - len(changes.found)
    if missed and _is_flawless(sweep.tally + tally):
        tally = replace(tally, deleted=missed)
        changes = replace(changes, missed_are_deleted_at=circumstances.now)
    elif known.all_missed or known.unseen:
        changes = replace(changes, forgets_missed=True)
    completed = SweepCompleted(sweep.mode, sweep.walk_started_at, work.started_at, tally)
    opening = _opening(checkpoint, sweep, work) if found.letters else ()
    return Record((*opening, *found.letters, completed), changes)


# --- what a full sweep does not see -----------------------------------------------------------------------------------


def _notes_missed(checkpoint: Checkpoint, sweep: Sweep) -> bool:
    """Whether a sweep can tell what was deleted: a full one of an inbox that was walked whole before."""
    return sweep.mode is Mode.FULL and checkpoint.watermark is not None


def _stretch(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> Stretch | None:
    """Say what a batch covers of the inbox, whose order is that of `updated_time`, the newest first.

    None where that is nothing, or cannot be told: not even by how far the walk had got when it took its cursor.
    """
    position = sweep.position
    is_silent = not batch.conversations and batch.next_cursor is not None
    is_adrift = position.cursor is not None and position.reached_at is None
    if position.phase is not Phase.WALK or is_silent or is_adrift or not _notes_missed(checkpoint, sweep):
        return None
    return Stretch(
        sweep.walk_started_at,
        older_than=position.reached_at,
        newer_than=batch.conversations[-1].updated_time if batch.next_cursor is not None else None,
        seen=tuple(each.conversation_id for each in batch.conversations),
    )


def _is_flawless(tally: Tally) -> bool:
    """Whether a sweep saw all there is, in order: only then is what it did not see gone."""
    return not (tally.unreadable or tally.dead_lettered or tally.order_violations)


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
    cursor = _cursor(checkpoint, work)
    if cursor is None or batch.next_cursor != cursor:
        return None
    return Problem(ProblemKind.CURSOR_LOOP, "the cursor of the next batch is the one just used")


def _cursor(checkpoint: Checkpoint, work: Slice) -> str | None:
    sweep = open_sweep(checkpoint, work)
    return sweep.position.cursor if sweep else None


def _refused(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances) -> Record:
    rule = rule_for(problem, has_cursor=_cursor(checkpoint, circumstances.work) is not None)
    match rule.remedy:
        case Remedy.RETRY:
            return _retried(checkpoint, problem, circumstances, rule)
        case Remedy.WAIT:
            return _paused(checkpoint, problem, circumstances, rule)
        case Remedy.SHRINK:
            return _shrunk(checkpoint, problem, circumstances)
        case Remedy.RESET:
            return _reset(checkpoint, problem, circumstances)
        case Remedy.STOP_AUTHORIZATION:
            return _stopped(checkpoint, problem, circumstances, Reason.AUTHORIZATION)
        case Remedy.STOP_CONFIGURATION:
            return _stopped(checkpoint, problem, circumstances, Reason.CONFIGURATION)


def _retried(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances, rule: Rule) -> Record:
    policy = circumstances.policy
    attempt = checkpoint.trouble.attempts + 1 if checkpoint.trouble else 1
    size = size_now(checkpoint, policy)
    if rule.then is Remedy.SHRINK and size != whole(policy) and smaller(size, policy) is not None:
        return _shrunk(checkpoint, problem, circumstances)  # the search for what fails is under way
    if attempt >= policy.attempts:
        return _after_retries(checkpoint, problem, circumstances, rule)
    delay_seconds = backoff_seconds(
        attempt,
        circumstances.luck,
        base_delay_seconds=policy.base_delay_seconds,
        max_delay_seconds=policy.max_delay_seconds,
    )
    retried = FetchFailed(attempt, problem, circumstances.now + timedelta(seconds=delay_seconds))
    return _recorded(checkpoint, circumstances.work, retried)


def _after_retries(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances, rule: Rule) -> Record:
    match rule.then:
        case Remedy.SHRINK:
            return _shrunk(checkpoint, problem, circumstances)
        case Remedy.RESET:
            return _reset(checkpoint, problem, circumstances)
        case Remedy.STOP_CONFIGURATION:
            return _stopped(checkpoint, problem, circumstances, Reason.CONFIGURATION)
        case _:
            return _failed(checkpoint, problem, circumstances)


def _failed(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances) -> Record:
    attempts = checkpoint.trouble.attempts + 1 if checkpoint.trouble else 1
    failed = BatchFailed(Stage.FETCH, attempts, problem)
    ended = RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=problem)
    return _end(checkpoint, ended, circumstances.work, failed)


def _paused(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances, rule: Rule) -> Record:
    """Stay away: in this run where the pause ends within it, else beyond it."""
    limited = rate_limited(checkpoint, problem, rule, circumstances)
    if limited.until < circumstances.work.deadline_at:
        return _recorded(checkpoint, circumstances.work, limited)
    ended = RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=problem)
    return _end(checkpoint, ended, circumstances.work, limited)


def rate_limited(checkpoint: Checkpoint, problem: Problem, rule: Rule, circumstances: Circumstances) -> RateLimited:
    """Say for how long a limit has to be waited out. It uses up no retry."""
    floor_seconds = circumstances.policy.rate_limit_floor_seconds
    pause = next_pause(checkpoint.pause, problem, rule, circumstances.now, floor_seconds=floor_seconds)
    return RateLimited(pause.scope, pause.attempts, pause.since, pause.until, problem)


def _shrunk(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances) -> Record:
    policy = circumstances.policy
    size = smaller(size_now(checkpoint, policy), policy)
    if size is None:  # not even a position can be read: it is not one thread that fails
        return _failed(checkpoint, problem, circumstances)
    return _recorded(checkpoint, circumstances.work, BatchShrunk(size.limit, size.detail, problem))


def _reset(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances) -> Record:
    """Begin again at the head, once in a run: a cursor that dies each time must not keep it going round."""
    sweep = open_sweep(checkpoint, circumstances.work)
    if sweep is not None and sweep.resets:
        return _failed(checkpoint, problem, circumstances)
    return _recorded(checkpoint, circumstances.work, CursorLost(problem))


def _stopped(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances, reason: Reason) -> Record:
    return _end(checkpoint, RunEnded(RunStatus.STOPPED, reason, problem=problem), circumstances.work)


def passed_before(checkpoint: Checkpoint, work: Slice) -> tuple[Event, ...]:
    """Give what has to be on record before something else is: the batches that were passed over, if there are any."""
    passed = _passed(checkpoint)
    return (*_opening(checkpoint, checkpoint.sweep, work), *passed) if passed else ()


def _recorded(checkpoint: Checkpoint, work: Slice, event: Event) -> Record:
    """Record what happened on the way, after whatever was passed over."""
    return Record((*_opening(checkpoint, checkpoint.sweep, work), *_passed(checkpoint), event))


def _end(checkpoint: Checkpoint, ended: RunEnded, work: Slice, *before: Event) -> Record:
    """End the run with its place saved, for the reason that `before` tells.

    What was passed over comes first: batches that were read end whatever was the matter before them, not this.
    """
    ended = replace(ended, position=_place(checkpoint))
    return Record((*_opening(checkpoint, checkpoint.sweep, work), *_passed(checkpoint), *before, ended))


def _place(checkpoint: Checkpoint) -> Position | None:
    """Say where the next run goes on; a lost cursor is tried once more, as long as the sweep has not got on without."""
    sweep = checkpoint.sweep
    if sweep is None:
        return None
    return sweep.position if sweep.lost_cursor is None else replace(sweep.position, cursor=sweep.lost_cursor)


def _passed(checkpoint: Checkpoint) -> tuple[Event, ...]:
    """Record the batches that were passed over, before something is recorded that does not carry them itself."""
    if checkpoint.unrecorded == NO_TALLY or checkpoint.sweep is None:
        return ()
    return (BatchStored(checkpoint.sweep.position, checkpoint.unrecorded),)
