"""The fold of the journal into checkpoints."""

from collections.abc import Iterable, Sequence
from typing import assert_never

from msgspec.structs import replace

from milepost.core.checkpoint import (
    BatchUnchanged,
    Checkpoint,
    FailureStreak,
    MissedSoFar,
    OperatorPause,
    RateLimit,
    RetryState,
    Run,
    Sweep,
    given_up_in_a_row,
    grown,
    is_same_sweep,
    shrunk_request,
    with_given_up,
)
from milepost.core.doubts import doubt_after, futile_runs_after, has_moved, lowest_of
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
    GapEvent,
    OwnIdChecked,
    RateLimited,
    Reason,
    RedriveFailed,
    RunEnded,
    RunStarted,
    RunStatus,
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
from milepost.core.missed import hints_after, window_after
from milepost.core.model import OwnId, OwnIdState
from milepost.core.position import (
    Gap,
    GapEnding,
    HistoryLeft,
    MessagesFailed,
    MessagesMissed,
    MessagesOwed,
    MessagesRead,
    Mode,
    Phase,
    Position,
)
from milepost.core.problems import Problem, ProblemKind
from milepost.core.walk import resumed, return_to_walk
from milepost.core.webhooks import FactsApplied


def skip_unchanged(checkpoint: Checkpoint, unchanged: BatchUnchanged) -> Checkpoint:
    """Return the checkpoint, in memory only, after a batch that changed nothing."""
    is_recorded = checkpoint.sweep_is_recorded and is_same_sweep(checkpoint.sweep, unchanged.sweep)
    if unchanged.sweep.position.is_after_head:  # a smaller request was for the head
        checkpoint = return_to_walk(checkpoint)
    return replace(
        checkpoint,
        sweep=unchanged.sweep,
        retry=None,
        rate_limit=None,
        failure_streak=_streak_after(checkpoint.failure_streak, unchanged.sweep.position),
        unrecorded=checkpoint.unrecorded + unchanged.tally,
        sweep_is_recorded=is_recorded,
    )


def fold(entries: Iterable[Entry], checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint after these entries, given the one before them."""
    for entry in entries:
        checkpoint = evolve(checkpoint, entry)
    return checkpoint


def evolve(checkpoint: Checkpoint, entry: Entry) -> Checkpoint:  # noqa: C901  (one case for each kind of event)
    """Return the checkpoint after an entry."""
    after = replace(checkpoint, version=entry.version, hash=entry.hash, updated_at=entry.recorded_at, removed_at=None)
    match entry.event:
        case BatchStored() as event:
            after = _after_batch(after, event)
        case RunStarted(started_at=started_at, continues=continues):
            run = Run(entry.run_id or "", started_at, mode=after.sweep.mode if after.sweep else None)
            after = replace(after, run=run, futile_runs=after.futile_runs + (continues is not None))
            after = resumed(after, continues, started_at)
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
        case MessagesOwed() | MessagesRead() | MessagesFailed() | MessagesMissed() as event:
            after = _after_gap_event(after, entry, event)
        case FactsApplied(edited=edited, unsent=unsent):  # as those of redrives, they belong to no run
            after = replace(after, total=after.total + Tally(edited=edited, unsent=unsent))
        case (
            StreamPaused() | StreamResumed() | SyncRequested() | TokenChecked() | OwnIdChecked() | StreamRemoved()
        ) as event:
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
    sweep = checkpoint.sweep
    if sweep is not None and sweep.position.is_after_head:  # the walk has had its turn
        checkpoint = replace(checkpoint, sweep=replace(sweep, position=replace(sweep.position, is_after_head=False)))
    match event:
        case FetchFailed() as failed:
            retry = RetryState(failed.attempt, failed.problem, failed.retry_at, failed.suspect, failed.confirmed)
            return replace(checkpoint, retry=retry, run=_count(checkpoint.run, retries=1))
        case BatchFailed(problem=problem):
            run = _count(checkpoint.run, failed_batches=1, problem=problem)
            reduced = checkpoint.reduced_request
            return replace(checkpoint, retry=None, reduced_request=reduced and reduced.proven, run=run)
        case RateLimited(scope=scope, attempts=attempts, since=since, until=until, problem=problem):
            return replace(checkpoint, rate_limit=RateLimit(scope, attempts, since, until, problem))
        case BatchShrunk() as shrunk:
            return replace(checkpoint, retry=None, reduced_request=shrunk_request(checkpoint.reduced_request, shrunk))
        case CursorLost() as lost:
            return _after_lost_cursor(checkpoint, lost)
        case FieldsLeftOut(fields=fields):
            return replace(checkpoint, left_out_fields=fields)


def _after_lost_cursor(checkpoint: Checkpoint, event: CursorLost) -> Checkpoint:
    """Restart the phase at the head of the inbox; if only the head was being read, return to the walk."""
    sweep = checkpoint.sweep
    if sweep is None:
        return replace(checkpoint, retry=None)
    if sweep.set_aside is not None:
        return return_to_walk(checkpoint)
    before = sweep.position
    sweep = replace(
        sweep,
        position=Position(before.phase, has_gap=before.has_gap, head_read_at=before.head_read_at, scan=before.scan),
        lost_cursor=before.cursor,
        resets=sweep.resets + 1,
        is_rewound=sweep.is_rewound or event.is_last,
    )
    return replace(checkpoint, retry=None, sweep=sweep)


def _after_dead_letter(
    checkpoint: Checkpoint, event: DeadLetterOpened | RedriveFailed | DeadLetterClosed
) -> Checkpoint:
    """Count the open dead letters and the rows of redrives, which belong to no run."""
    match event:
        case DeadLetterOpened() as opened:
            open_now = checkpoint.open_dead_letters + 1
            return replace(checkpoint, open_dead_letters=open_now, given_up=with_given_up(checkpoint, opened))
        case RedriveFailed(tally=tally):
            return replace(checkpoint, total=checkpoint.total + tally)
        case DeadLetterClosed(tally=tally):
            open_now, total = checkpoint.open_dead_letters - 1, checkpoint.total + tally
            left = tuple(each for each in checkpoint.given_up if each.dead_letter_id != event.dead_letter_id)
            return replace(checkpoint, open_dead_letters=open_now, given_up=left, total=total)


def _after_stream_event(checkpoint: Checkpoint, entry: Entry, event: StreamEvent) -> Checkpoint:
    """Apply an operator's command, or news about the token."""
    match event:
        case StreamPaused(by=by):
            return replace(checkpoint, operator_pause=OperatorPause(entry.recorded_at, by))
        case StreamResumed():
            return replace(checkpoint, operator_pause=None)
        case TokenChecked(health=health):
            return replace(checkpoint, token=health)
        case OwnIdChecked(found=found):
            return _after_own_id(checkpoint, found)
        case SyncRequested():
            return checkpoint
        case StreamRemoved():  # a rate limit stays: it is the platform's and may apply to the whole app
            removed = Checkpoint(entry.stream, entry.version, entry.hash, entry.recorded_at)
            return replace(removed, rate_limit=checkpoint.rate_limit, removed_at=entry.recorded_at)


def _after_own_id(checkpoint: Checkpoint, found: OwnId) -> Checkpoint:
    """Note which id is ours. The next sweep is a full one, to read again what was read before this was known."""
    if found.state is OwnIdState.UNKNOWN:
        return replace(checkpoint, own_id=found)
    sweep = checkpoint.sweep
    if sweep is not None and sweep.tally.batches:
        sweep = replace(sweep, was_unsure=True)
    own_id = None if found.state is OwnIdState.EXPECTED else found
    return replace(checkpoint, own_id=own_id, sweep=sweep, last_full_sweep_at=None)


def _after_batch(checkpoint: Checkpoint, event: BatchStored) -> Checkpoint:
    after = checkpoint if event.position.phase is Phase.HEAD else return_to_walk(checkpoint)
    if not event.position.is_after_head:  # otherwise the walk's earlier problems remain
        after = replace(after, retry=None, reduced_request=grown(after.reduced_request, event.tally))
    sweep = _advance(after.sweep, event.position, event.tally, event.problem) if after.sweep else None
    if not event.position.is_of_head:
        given_up = 0 if event.position.cursor is None else given_up_in_a_row(checkpoint, event.tally)
        after = replace(after, given_up_in_a_row=given_up)
    return replace(
        _counted(after, event.tally),
        sweep=sweep,
        futile_runs=futile_runs_after(after, event.position, event.tally),
        rate_limit=None,
        failure_streak=_streak_after(checkpoint.failure_streak, event.position),
    )


def _after_sweep_start(checkpoint: Checkpoint, event: SweepStarted) -> Checkpoint:
    sweep = Sweep(event.mode, event.walk_started_at, event.catch_up_until, event.walk_until)
    run = replace(checkpoint.run, mode=event.mode) if checkpoint.run is not None else None
    return replace(checkpoint, sweep=sweep, run=run, sweep_is_recorded=True)


def _after_sweep(checkpoint: Checkpoint, entry: Entry, event: SweepCompleted) -> Checkpoint:
    checkpoint = return_to_walk(checkpoint)
    run = checkpoint.run
    if run is None or run.run_id != entry.run_id:  # this one entry is the whole run
        run = Run(entry.run_id or "", event.run_started_at)
    sweep = checkpoint.sweep if is_same_sweep(checkpoint.sweep, event) else None
    whole = event.tally + (sweep.tally if sweep is not None else NO_TALLY)
    is_empty = event.problem is not None and event.problem.kind is ProblemKind.EMPTY_INBOX  # it has read nothing
    is_full = event.mode is Mode.FULL and not is_empty and not (sweep is not None and sweep.was_unsure)
    # Other conversations that moved here may lie below the watermark, so the next sweep is a full one.
    last_full_sweep_at = None if whole.moved else checkpoint.last_full_sweep_at
    has_errors = event.has_errors or whole.dead_lettered  # older entries lack the field
    status = RunStatus.COMPLETE_WITH_ERRORS if has_errors else RunStatus.COMPLETE
    problem = event.problem or run.problem
    after = replace(
        checkpoint,
        sweep=None,
        retry=None,
        rate_limit=None,
        reduced_request=grown(checkpoint.reduced_request, event.tally),
        given_up_in_a_row=0,
        failure_streak=None,
        run=replace(run, mode=event.mode, status=status, ended_at=entry.recorded_at, problem=problem),
        watermark=checkpoint.watermark if is_empty else event.walk_started_at,
        doubt=doubt_after(checkpoint.doubt, entry, event),
        futile_runs=0,
        last_success_at=entry.recorded_at,
        last_full_sweep_at=entry.recorded_at if is_full else last_full_sweep_at,
        sweep_is_recorded=True,
    )
    return _counted(after, event.tally)


def _after_run(checkpoint: Checkpoint, entry: Entry, event: RunEnded) -> Checkpoint:
    checkpoint = return_to_walk(checkpoint)
    run = _count(checkpoint.run, problem=event.problem)
    if run is not None:
        run = replace(run, status=event.status, reason=event.reason, ended_at=entry.recorded_at)
    sweep, futile_runs = checkpoint.sweep, checkpoint.futile_runs
    if sweep is not None:
        sweep = replace(sweep, resets=0)  # counted per run
    if sweep is not None and event.position is not None:
        futile_runs = futile_runs_after(checkpoint, event.position, event.tally)
        sweep = _advance(sweep, event.position, event.tally)
    if event.tally.batches:  # unchanged batches were read since, so earlier problems are over
        streak = _streak_after(checkpoint.failure_streak, event.position)
        checkpoint = replace(checkpoint, rate_limit=None, failure_streak=streak)
    if event.tally.batches and not (event.position is not None and event.position.is_after_head):
        checkpoint = replace(
            checkpoint,
            retry=None,
            reduced_request=grown(checkpoint.reduced_request, event.tally),
            given_up_in_a_row=given_up_in_a_row(checkpoint, event.tally),
        )
    streak = _failure_streak(checkpoint.failure_streak, entry, event)
    after = replace(checkpoint, sweep=sweep, futile_runs=futile_runs, failure_streak=streak, run=run)
    return _counted(after, event.tally)


def _streak_after(before: FailureStreak | None, position: Position | None) -> FailureStreak | None:
    """Return the failure streak after a batch: reading the head does not end that of the walk."""
    is_of_walk = before is not None and before.reason is Reason.RETRIES_EXHAUSTED
    return before if is_of_walk and position is not None and position.is_of_head else None


def _failure_streak(before: FailureStreak | None, entry: Entry, event: RunEnded) -> FailureStreak | None:
    """Count consecutive runs that failed or stopped for the same reason."""
    if event.status not in {RunStatus.FAILED, RunStatus.STOPPED}:
        return before
    if before is None or before.reason is not event.reason:
        return FailureStreak(event.reason, entry.recorded_at, 1, event.problem)
    return replace(before, runs=before.runs + 1, problem=event.problem)


def _advance(sweep: Sweep, position: Position, tally: Tally, problem: Problem | None = None) -> Sweep:
    lowest = lowest_of(position) if has_moved(sweep, position, NO_TALLY) else None
    set_aside = sweep.set_aside if position.phase is Phase.HEAD else None
    return replace(
        sweep,
        position=position,
        tally=sweep.tally + tally,
        lost_cursor=None,
        set_aside=set_aside,
        lowest=lowest or sweep.lowest,
        problem=problem or sweep.problem,
    )


def _counted(checkpoint: Checkpoint, tally: Tally) -> Checkpoint:
    """Add the counts of an entry's batches to the run and to the total."""
    run, total = _count(checkpoint.run, tally=tally), checkpoint.total + tally
    return replace(checkpoint, run=run, total=total, unrecorded=NO_TALLY)


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


# --- messages that are owed, read or missed ---------------------------------------------------------------------------


def _after_gap_event(checkpoint: Checkpoint, entry: Entry, event: GapEvent) -> Checkpoint:
    """Count the open gaps, the messages read and not readable in the run, and the missed messages."""
    match event:
        case MessagesOwed(gaps=gaps, left_out=left_out):
            checkpoint = replace(checkpoint, left_out=left_out or checkpoint.left_out)
            return _with_owed(checkpoint, [gap for gap in gaps if not gap.is_at_limit])
        case MessagesMissed(messages=messages):
            before = checkpoint.missed.messages if checkpoint.missed is not None else 0
            return replace(checkpoint, missed=MissedSoFar(before + messages, entry.recorded_at))
        case MessagesRead(gap=gap, stored=stored, dead_lettered=dead_lettered, ending=ending) as read:
            is_withheld = ending is GapEnding.WITHHELD and not read.is_hint
            window_at = window_after(checkpoint.window_at, gap, entry.recorded_at, is_withheld=is_withheld)
            hints = hints_after(checkpoint.window_hints, read)
            checkpoint = replace(checkpoint, rate_limit=None, window_at=window_at, window_hints=hints)
            tally = Tally(
                interaction_events=stored, dead_lettered=dead_lettered, edited=read.edited, unsent=read.unsent
            )
        case MessagesFailed(ending=ending):
            tally = Tally(dead_lettered=int(ending is GapEnding.DEAD_LETTER))
        case unknown:
            assert_never(unknown)
    run, is_of_run = checkpoint.run, checkpoint.run is not None and checkpoint.run.run_id == entry.run_id
    after = replace(checkpoint, run=_count(run, tally=tally) if is_of_run else run, total=checkpoint.total + tally)
    return after if ending is None else _with_one_less(after, event.gap)


def _with_owed(checkpoint: Checkpoint, gaps: Sequence[Gap]) -> Checkpoint:
    """Count gaps that were opened or reopened."""
    histories = sum(gap.is_history for gap in gaps)
    before = checkpoint.history or HistoryLeft(0, 0)
    history = HistoryLeft(before.left + histories, before.total + histories) if histories else checkpoint.history
    return replace(checkpoint, backlog=checkpoint.backlog + len(gaps), history=history)


def _with_one_less(checkpoint: Checkpoint, gap: Gap) -> Checkpoint:
    """Count a gap that was closed. When no history is left, the count of histories starts anew."""
    history = checkpoint.history
    if gap.is_history and history is not None:
        history = replace(history, left=history.left - 1) if history.left > 1 else None
    return replace(checkpoint, backlog=checkpoint.backlog - 1, history=history)
