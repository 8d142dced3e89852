"""The condition of a stream: its state, what it waits for, since when, until when, and what a person can do.

`milepost status`, the gauge of states, the API and the status page all use these words. Texts contain no instants:
those are separate values, which each output formats in its own way.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, RateLimit, RetryState, Run
from milepost.core.doubts import doubt_about
from milepost.core.events import NO_TALLY, Reason, RunStatus
from milepost.core.model import Detail, OwnId, OwnIdState, Stream, TokenHealth
from milepost.core.plan import Policy, Size, size_now, whole
from milepost.core.problems import Problem, Scope
from milepost.core.retry import held_until, holder_of, next_run_at
from milepost.reporting.advice import advice_on
from milepost.reporting.humanize import backlog_in_words, missed_in_words, on_one_line

MEAN_JITTER = 0.5  # the jitter of the next run is not known yet
OPEN_DEAD_LETTERS = "what could not be read or written is kept as dead letters: `milepost dead-letters list` shows them"
SET_OWN_ID = (
    "until that is clear, such threads have no contact, and all their messages count as received: set the page's "
    "instagram_account_id to the id that stands for it in the participants of its threads"
)


class State(StrEnum):
    """What a stream is doing, or how its latest run left it."""

    NEVER_SYNCED = "never_synced"
    QUEUED = "queued"  # it is due, or could continue, and waits for a slot
    SYNCING = "syncing"
    RETRYING = "retrying"  # the source or the store failed; the same work is retried
    RATE_LIMITED = "rate_limited"  # there is more to read, and a rate limit forbids it
    COMPLETE = "complete"  # the latest sweep is
    COMPLETE_WITH_ERRORS = "complete_with_errors"  # the latest sweep is, and left dead letters
    PAUSED = "paused"  # at a limit of the run or for a shutdown; the next run continues there
    FAILED = "failed"  # retries used up; the next run continues there
    STOPPED = "stopped"  # a person has to fix a token, a permission or a setting
    INTERRUPTED = "interrupted"  # the run broke off; the next one continues there
    ON_HOLD = "on_hold"  # an operator paused it; it does not run until it is resumed


class StoreOutage(Struct, frozen=True):
    """Since when the database has been unavailable, and why."""

    since: datetime
    reason: str


class ConditionContext(Struct, frozen=True):
    """Inputs to a stream's condition besides its checkpoint. `is_at_work` is whether a Milepost is running.

    `rate_limits` are the latest ones of all streams: a limit that one has met may hold up others. Only the daemon knows
    the rest: the outage of its database, since when the stream has been waiting for a slot, and in words, how far apart
    its calls are if they are slowed down.
    """

    now: datetime
    is_at_work: bool
    interval_seconds: float
    batch_size: int
    rate_limits: Mapping[Stream, RateLimit] = {}
    store_outage: StoreOutage | None = None
    queued_since: datetime | None = None
    slowed_down: str | None = None
    held_back: str | None = None


class Wait(Struct, frozen=True):
    """What a stream waits for. `until` is None if it is unknown, and an estimate for a next run.

    `scope` is that of the rate limit that it waits for, if it is one: the app's holds up every stream.
    """

    waits_for: str
    since: datetime | None
    until: datetime | None
    problem: Problem | None = None
    scope: Scope | None = None


class Condition(Struct, frozen=True):
    """The condition of a stream, in words for people.

    `wait` is None if the stream only waits for its next run, which begins at `next_run_at` (None: a run is under way,
    or no Milepost is running). `advice` is what a person can do, `remark` what is unusual but needs no action.
    """

    state: State
    wait: Wait | None
    advice: str | None
    remark: str | None
    next_run_at: datetime | None


def condition(checkpoint: Checkpoint, context: ConditionContext) -> Condition:
    """Return the condition of a stream."""
    stream = checkpoint.stream
    hold = limit_on(stream, context.rate_limits, context.now)
    state = state_of(checkpoint, is_at_work=context.is_at_work)
    if hold is not None and (context.is_at_work or state is not State.INTERRUPTED):
        state = held_up(state)
    if context.queued_since is not None:
        state = queued(state)
    if context.store_outage is not None:
        state = held_up_by_store(state)
    is_due = state is not State.ON_HOLD and not is_running(checkpoint)
    next_run_at = _next_run_at(checkpoint.run, hold, context) if is_due else None
    wait = _wait(checkpoint, state, hold, next_run_at)
    advice = _advice(checkpoint, stream, wait)
    if checkpoint.operator_pause is not None:
        wait = Wait("an operator to resume it", checkpoint.operator_pause.since, None)
    elif context.store_outage is not None and state is State.RETRYING:
        wait = Wait("the database", context.store_outage.since, None)
        advice = f"it is unavailable: {context.store_outage.reason}"
    elif context.queued_since is not None and state is State.QUEUED:
        wait = Wait("a free slot (sync.concurrency limits how many streams run at once)", context.queued_since, None)
    return Condition(state, wait, advice, _remark(checkpoint, context), next_run_at)


# --- the state --------------------------------------------------------------------------------------------------------


def state_of(checkpoint: Checkpoint, *, is_at_work: bool) -> State:
    """Return the state of a stream, rate limits aside. `is_at_work` is whether a Milepost is running."""
    if checkpoint.operator_pause is not None:
        return State.ON_HOLD
    if not is_running(checkpoint):
        return State.NEVER_SYNCED if checkpoint.run is None else State(checkpoint.run.status.value)
    if not is_at_work:  # the process died
        return State.INTERRUPTED
    return State.SYNCING if _due_retry(checkpoint) is None else State.RETRYING


def _due_retry(checkpoint: Checkpoint) -> RetryState | None:
    """Return the next attempt at a batch; None if it was due before the open run began, as that has not failed yet."""
    run, retry = checkpoint.run, checkpoint.retry
    if run is None or retry is None:
        return retry
    return retry if run.retries or retry.retry_at > run.started_at else None


def is_running(checkpoint: Checkpoint) -> bool:
    """Return whether a run is under way: on record, or with nothing but unchanged batches so far."""
    is_on_record = checkpoint.run is not None and checkpoint.run.status is RunStatus.RUNNING
    return is_on_record or checkpoint.unrecorded != NO_TALLY


_WITH_MORE_TO_READ = frozenset({State.SYNCING, State.RETRYING, State.PAUSED, State.INTERRUPTED})


def held_up(state: State) -> State:
    """Return the state of a stream that a rate limit forbids to call. It is not held up if nothing is left to read."""
    return State.RATE_LIMITED if state in _WITH_MORE_TO_READ else state


def queued(state: State) -> State:
    """Return the state of a stream that waits for a slot. A stop, a pause or a rate limit is more important."""
    with_something_to_say = {State.STOPPED, State.FAILED, State.ON_HOLD, State.RATE_LIMITED}
    return state if state in with_something_to_say else State.QUEUED


def held_up_by_store(state: State) -> State:
    """Return the state of a stream while the database is unavailable. One that is up to date is not held up yet."""
    return State.RETRYING if state in {*_WITH_MORE_TO_READ, State.QUEUED, State.NEVER_SYNCED} else state


# --- what it waits for ------------------------------------------------------------------------------------------------


def rate_limits_of(checkpoints: Iterable[Checkpoint]) -> dict[Stream, RateLimit]:
    """Return the latest rate limit of each stream that has met one."""
    return {each.stream: each.rate_limit for each in checkpoints if each.rate_limit is not None}


def limit_on(stream: Stream, rate_limits: Mapping[Stream, RateLimit], now: datetime) -> Wait | None:
    """Return the wait for the rate limit that forbids `stream` to call now; None if none does."""
    holder, until = holder_of(stream, rate_limits), held_until(stream, rate_limits)
    if holder is None or until is None or until <= now:
        return None
    rate_limit = rate_limits[holder]
    met_by = "" if holder == stream else f" (met by {holder.key})"
    return Wait(
        f"{limit_in_words(rate_limit.scope)}{met_by}", rate_limit.since, until, rate_limit.problem, rate_limit.scope
    )


def _next_run_at(run: Run | None, hold: Wait | None, context: ConditionContext) -> datetime | None:
    if not context.is_at_work:
        return None
    held_until = hold.until if hold is not None else None
    if run is None:  # its first run is about to start
        return held_until or context.now
    return next_run_at(run, context.now, MEAN_JITTER, interval_seconds=context.interval_seconds, held_until=held_until)


def _wait(checkpoint: Checkpoint, state: State, hold: Wait | None, next_run_at: datetime | None) -> Wait | None:
    run, retry = checkpoint.run, checkpoint.retry
    ended_at = run.ended_at if run is not None else None
    # The run's problem comes first: an earlier failed attempt is not why the run ended.
    problem = (run.problem if run is not None else None) or (retry.problem if retry is not None else None)
    match state:
        case State.RATE_LIMITED:
            return hold
        case State.RETRYING:
            retry_at = retry.retry_at if retry is not None else None
            cause = retry.problem if retry is not None else None
            return Wait("the next attempt at a batch that could not be read", checkpoint.updated_at, retry_at, cause)
        case State.STOPPED | State.FAILED:
            streak = checkpoint.failure_streak
            since = streak.since if streak is not None else ended_at
            return Wait(_recovery(state, checkpoint), since, next_run_at, problem)
        case State.PAUSED | State.INTERRUPTED:
            return hold or Wait(
                "the next run, which continues where the last one ended", ended_at, next_run_at, problem
            )
        case State.SYNCING | State.QUEUED | State.ON_HOLD:
            return None
        case State.NEVER_SYNCED | State.COMPLETE | State.COMPLETE_WITH_ERRORS:
            is_delayed = hold is not None and hold.until is not None and (next_run_at or hold.until) <= hold.until
            return hold if is_delayed else None
        case unknown:
            assert_never(unknown)


def _recovery(state: State, checkpoint: Checkpoint) -> str:
    """Return what has to happen before a failing stream continues."""
    run, streak = checkpoint.run, checkpoint.failure_streak
    match state, run.reason if run is not None else None:
        case State.STOPPED, Reason.AUTHORIZATION:
            return "the token or a permission to be fixed"
        case State.STOPPED, _:
            return "the configuration to be fixed"
        case _ if streak is not None and streak.runs > 1:
            return f"the next attempt, after {streak.runs} failed runs in a row"
        case _:
            return "the next attempt"


def _advice(checkpoint: Checkpoint, stream: Stream, wait: Wait | None) -> str | None:
    if checkpoint.operator_pause is not None:
        how = f"resume it on the status page, or with `milepost resume {stream.key}`"
        return f"{checkpoint.operator_pause.by} paused it: {how}"
    if wait is not None and wait.problem is not None:
        return advice_on(wait.problem, stream)
    if checkpoint.own_id is not None and checkpoint.own_id.state is OwnIdState.UNKNOWN:
        return SET_OWN_ID
    if (doubt := doubt_about(checkpoint)) is not None:
        return advice_on(doubt, stream)
    return OPEN_DEAD_LETTERS if checkpoint.open_dead_letters else None


def _remark(checkpoint: Checkpoint, context: ConditionContext) -> str | None:
    own_id = None if checkpoint.own_id is None else own_id_in_words(checkpoint.own_id)
    doubt = doubt_about(checkpoint)
    of_list = None if doubt is None else f"the list of conversations is not to be relied on: {doubt}"
    of_request, of_backlog = _request_remark(checkpoint, context), backlog_in_words(checkpoint)
    held_back = context.held_back if of_backlog is not None else None
    missed = None if checkpoint.missed is None else missed_in_words(checkpoint.missed)
    remarks = (own_id, of_list, of_request, context.slowed_down, of_backlog, held_back, missed)
    return "; ".join(each for each in remarks if each is not None) or None


def _request_remark(checkpoint: Checkpoint, context: ConditionContext) -> str | None:
    policy = Policy(batch_size=context.batch_size)
    size = size_now(checkpoint, policy)
    remarks: list[str] = []
    if checkpoint.reduced_request is not None and size != whole(policy):
        remarks.append(f"requests {size_in_words(size)}, because of this: {checkpoint.reduced_request.problem}")
    if checkpoint.left_out_fields:
        remarks.append(f"reads without {', '.join(checkpoint.left_out_fields)}, which the API refuses by name")
    return "; ".join(remarks) or None


# --- words that other modules use as well -----------------------------------------------------------------------------


def limit_in_words(scope: Scope) -> str:
    """Return the name of a rate limit, which says whose calls it counts."""
    return f"the {scope}'s rate limit"


def token_in_words(health: TokenHealth) -> str:
    """Return the health of a token in words."""
    if not health.is_valid:
        return "the token is no longer valid"
    ends_at = health.ends_at
    return (
        "the token is valid, and never expires" if ends_at is None else f"the token is valid until {ends_at:%Y-%m-%d}"
    )


def own_id_in_words(found: OwnId) -> str:
    """Return in words whether the participants of threads confirm our own id."""
    match found.state:
        case OwnIdState.EXPECTED:
            return "our own id is in the threads"
        case OwnIdState.ANOTHER:
            taken = on_one_line(found.own_id or "another")
            return f"our own id is in no thread, while {taken} is in each: that is taken as ours"
        case OwnIdState.UNKNOWN:
            return "our own id is in no thread, and it is unknown which participant is us"
        case unknown:
            assert_never(unknown)


def size_in_words(size: Size) -> str:
    """Return in words how much a request asks for."""
    match size.detail:
        case Detail.NESTED:
            return "1 conversation at a time" if size.limit == 1 else f"{size.limit} conversations at a time"
        case Detail.SEPARATE:
            return "1 conversation at a time, and its messages separately"
        case Detail.LEAN:
            return "1 conversation with its newest messages only"
        case Detail.BARE:
            return "1 conversation without its messages"
        case Detail.POSITION:
            return "only the position of 1 conversation, to skip it"
        case unknown:
            assert_never(unknown)
