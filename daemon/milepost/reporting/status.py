"""What a stream is at, and what it waits for: since when, until when, and what a person can do.

The one vocabulary for `milepost status`, the metric of states and the API. Texts name no instants: those are values,
which each reader writes in its own way.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, RateLimit, Run
from milepost.core.events import NO_TALLY, Reason, RunStatus
from milepost.core.model import Detail, Scope, Stream, TokenHealth
from milepost.core.plan import Policy, Size, size_now, whole
from milepost.core.problems import Problem
from milepost.core.rate_limits import held_until, holder_of
from milepost.core.retry import next_run_at
from milepost.reporting.advice import advice_on

MEAN_JITTER = 0.5  # nobody can tell the jitter of the next turn
OPEN_DEAD_LETTERS = "what could not be read or written is kept as dead letters: `milepost dead-letters list` shows them"


class State(StrEnum):
    """What a stream is at, or how its latest run left it."""

    NEVER_SYNCED = "never_synced"
    SYNCING = "syncing"
    RETRYING = "retrying"  # the source or the store failed; the same work is tried again
    RATE_LIMITED = "rate_limited"  # there is more to read, and a limit forbids to ask for it
    COMPLETE = "complete"  # the latest sweep is
    COMPLETE_WITH_ERRORS = "complete_with_errors"  # the latest sweep is, and left dead letters
    PAUSED = "paused"  # at a limit of the run or for a shutdown; the next run goes on there
    FAILED = "failed"  # retries used up; the next run goes on there
    STOPPED = "stopped"  # somebody has to mend a token, a permission or a setting
    INTERRUPTED = "interrupted"  # the run broke off; the next one goes on there
    ON_HOLD = "on_hold"  # somebody paused it; it is not worked until somebody resumes it


class ConditionContext(Struct, frozen=True):
    """What a stream's standing depends on beside its checkpoint. `is_at_work`: whether a Milepost is.

    `rate_limits` are the latest ones of all streams: a limit that one has met may hold up others.
    """

    now: datetime
    is_at_work: bool
    interval_seconds: float
    batch_size: int
    rate_limits: Mapping[Stream, RateLimit] = {}


class Wait(Struct, frozen=True):
    """What keeps a stream from going on. `until` is None where nobody can tell, and an estimate for a next run."""

    waits_for: str
    since: datetime | None
    until: datetime | None
    problem: Problem | None = None


class Condition(Struct, frozen=True):
    """Where a stream stands, in words for people.

    `wait` is None where nothing but the interval keeps the stream from its next run, which begins at `next_run_at`
    (None: one is under way, or no Milepost is at work). `advice` says what a person can do, `remark` what is out of the
    ordinary and needs nobody.
    """

    state: State
    wait: Wait | None
    advice: str | None
    remark: str | None
    next_run_at: datetime | None


def condition(checkpoint: Checkpoint, around: ConditionContext) -> Condition:
    """Say where a stream stands."""
    stream = Stream.parse(checkpoint.stream)
    hold = limit_on(stream, around.rate_limits, around.now)
    state = state_of(checkpoint, is_at_work=around.is_at_work)
    if hold is not None and (around.is_at_work or state is not State.INTERRUPTED):
        state = held_up(state)
    is_due = state is not State.ON_HOLD and not is_running(checkpoint)
    next_run_at = _next_run_at(checkpoint.run, hold, around) if is_due else None
    wait = _wait(checkpoint, state, hold, next_run_at)
    if checkpoint.operator_pause is not None:
        wait = Wait("somebody to resume it", checkpoint.operator_pause.since, None)
    return Condition(state, wait, _advice(checkpoint, stream, wait), _remark(checkpoint, around), next_run_at)


# --- the state --------------------------------------------------------------------------------------------------------


def state_of(checkpoint: Checkpoint, *, is_at_work: bool) -> State:
    """Say what a stream is at by itself, whatever limit holds it up. `is_at_work`: whether a Milepost is."""
    if checkpoint.operator_pause is not None:
        return State.ON_HOLD
    if not is_running(checkpoint):
        return State.NEVER_SYNCED if checkpoint.run is None else State(checkpoint.run.status.value)
    if not is_at_work:  # the process died
        return State.INTERRUPTED
    return State.SYNCING if checkpoint.retry is None else State.RETRYING


def is_running(checkpoint: Checkpoint) -> bool:
    """Whether a run is under way: one that is on record, or has passed over all that it read so far."""
    is_on_record = checkpoint.run is not None and checkpoint.run.status is RunStatus.RUNNING
    return is_on_record or checkpoint.unrecorded != NO_TALLY


def held_up(state: State) -> State:
    """Say what a stream is at that was at `state` and may not call now. One with nothing left to read is not held."""
    with_more_to_read = {State.SYNCING, State.RETRYING, State.PAUSED, State.INTERRUPTED}
    return State.RATE_LIMITED if state in with_more_to_read else state


# --- what it waits for ------------------------------------------------------------------------------------------------


def rate_limits_of(checkpoints: Iterable[Checkpoint]) -> dict[Stream, RateLimit]:
    """Collect the latest pause of every stream."""
    return {Stream.parse(each.stream): each.rate_limit for each in checkpoints if each.rate_limit is not None}


def limit_on(stream: Stream, rate_limits: Mapping[Stream, RateLimit], now: datetime) -> Wait | None:
    """Say which rate limit forbids `stream` to call now; None where none does."""
    holder, until = holder_of(stream, rate_limits), held_until(stream, rate_limits)
    if holder is None or until is None or until <= now:
        return None
    rate_limit = rate_limits[holder]
    who_met_it = "" if holder == stream else f" (which {holder.key} met)"
    return Wait(f"{limit_in_words(rate_limit.scope)}{who_met_it}", rate_limit.since, until, rate_limit.problem)


def _next_run_at(run: Run | None, hold: Wait | None, around: ConditionContext) -> datetime | None:
    if not around.is_at_work:
        return None
    held_until = hold.until if hold is not None else None
    if run is None:  # its first turn is about to come
        return held_until or around.now
    return next_run_at(run, around.now, MEAN_JITTER, interval_seconds=around.interval_seconds, held_until=held_until)


def _wait(checkpoint: Checkpoint, state: State, hold: Wait | None, next_run_at: datetime | None) -> Wait | None:
    run, retry = checkpoint.run, checkpoint.retry
    ended_at = run.ended_at if run is not None else None
    problem = retry.problem if retry is not None else run.problem if run is not None else None
    match state:
        case State.RATE_LIMITED:
            return hold
        case State.RETRYING:
            retry_at = retry.retry_at if retry is not None else None
            return Wait("the next attempt at a batch that could not be read", checkpoint.updated_at, retry_at, problem)
        case State.STOPPED | State.FAILED:
            still = checkpoint.failure_streak
            since = still.since if still is not None else ended_at
            return Wait(_mending(state, checkpoint), since, next_run_at, problem)
        case State.PAUSED | State.INTERRUPTED:
            return hold or Wait("the next run, which goes on where the last one ended", ended_at, next_run_at, problem)
        case State.SYNCING | State.ON_HOLD:
            return None
        case State.NEVER_SYNCED | State.COMPLETE | State.COMPLETE_WITH_ERRORS:
            is_delayed = hold is not None and hold.until is not None and (next_run_at or hold.until) <= hold.until
            return hold if is_delayed else None
        case unknown:
            assert_never(unknown)


def _mending(state: State, checkpoint: Checkpoint) -> str:
    """Name what has to happen before a stream that stands still goes on."""
    run, still = checkpoint.run, checkpoint.failure_streak
    match state, run.reason if run is not None else None:
        case State.STOPPED, Reason.AUTHORIZATION:
            return "somebody to mend the token or a permission"
        case State.STOPPED, _:
            return "somebody to mend the configuration"
        case _ if still is not None and still.runs > 1:
            return f"the next try, after {still.runs} runs in a row that failed"
        case _:
            return "the next try"


def _advice(checkpoint: Checkpoint, stream: Stream, wait: Wait | None) -> str | None:
    if checkpoint.operator_pause is not None:
        how = f"resume it on the status page, or with POST /api/streams/{stream.key}/resume"
        return f"{checkpoint.operator_pause.by} paused it: {how}"
    if wait is not None and wait.problem is not None:
        return advice_on(wait.problem, stream)
    return OPEN_DEAD_LETTERS if checkpoint.open_dead_letters else None


def _remark(checkpoint: Checkpoint, around: ConditionContext) -> str | None:
    policy = Policy(batch_size=around.batch_size)
    size = size_now(checkpoint, policy)
    if checkpoint.reduced_request is None or size == whole(policy):
        return None
    return f"asks for {size_in_words(size)}, because of this: {checkpoint.reduced_request.problem}"


# --- words that others use too ----------------------------------------------------------------------------------------


def limit_in_words(scope: Scope) -> str:
    """Name a rate limit by whose calls it counts."""
    return f"the {scope}'s rate limit"


def token_in_words(health: TokenHealth) -> str:
    """Say how a token stands."""
    if not health.is_valid:
        return "the token is not valid any more"
    ends_at = health.ends_at
    return (
        "the token is valid, and never expires" if ends_at is None else f"the token is valid until {ends_at:%Y-%m-%d}"
    )


def size_in_words(size: Size) -> str:
    """Say how much of the inbox is asked for."""
    match size.detail:
        case Detail.NESTED:
            return "1 conversation at a time" if size.limit == 1 else f"{size.limit} conversations at a time"
        case Detail.SEPARATE:
            return "1 conversation at a time, and for its messages by themselves"
        case Detail.BARE:
            return "1 conversation without its messages"
        case Detail.POSITION:
            return "the place of 1 conversation only, to step over it"
        case unknown:
            assert_never(unknown)
