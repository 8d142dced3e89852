"""When to try again: after a failure, a dead letter, a run or a rate limit, and whose calls that limit holds back."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from milepost.core.checkpoint import RateLimit, Run, is_ahead
from milepost.core.events import Reason, RunStatus
from milepost.core.model import Stream
from milepost.core.problems import Problem, Rule, Scope, rule_for


def backoff_seconds(attempt: int, jitter: float, *, base_delay_seconds: float, max_delay_seconds: float) -> float:
    """Return the delay after attempt number `attempt` (1, 2, …) failed, for a `jitter` in [0, 1).

    Full jitter draws from all of [0, ceiling), so that clients which failed together don't return together (Brooker,
    "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
    """
    doublings = min(attempt - 1, 63)  # 2.0**1024 overflows; no delay is that long
    return jitter * min(max_delay_seconds, base_delay_seconds * 2.0**doublings)


# --- dead letters -----------------------------------------------------------------------------------------------------

REDRIVE_BASE_SECONDS = 900.0
MAX_REDRIVE_SECONDS = 86_400.0
MAX_REDRIVES = 10


def latest_redrive(now: datetime) -> datetime:
    """Return the latest instant at which a redrive can be due; a later one was set by a clock that was ahead."""
    return now + timedelta(seconds=MAX_REDRIVE_SECONDS)


def redrive_seconds(failures: int) -> float | None:
    """Return the delay before a dead letter's automatic redrive after `failures` failures (1: it was just opened).

    It starts at 15 minutes and doubles up to a day; None after ten redrives, which take four days.
    """
    if failures > MAX_REDRIVES:
        return None
    return min(MAX_REDRIVE_SECONDS, REDRIVE_BASE_SECONDS * 2.0 ** (failures - 1))


# --- runs -------------------------------------------------------------------------------------------------------------

JITTER = 0.1  # of the interval, either way, so that streams that started together drift apart
MAX_STEP_SECONDS = 1.0  # and no more than the jitter, or streams that started together would never drift apart
MAX_PARK_SECONDS = 900.0  # after a failure, however long the interval: an outage lasts about an hour
AUTHORIZATION_PROBE_SECONDS = 1800.0
CONFIGURATION_PROBE_SECONDS = 3600.0  # one such error was an incident at the platform that lasted for days
_ENDED_WELL = {RunStatus.COMPLETE, RunStatus.COMPLETE_WITH_ERRORS, RunStatus.PAUSED}
PROMPTED_SECONDS = 3.0  # from the start of a run to the next that a webhook prompts, however many there are


def next_run_at(
    run: Run | None,
    now: datetime,
    jitter: float,
    *,
    interval_seconds: float,
    held_until: datetime | None = None,
    is_prompted: bool = False,
) -> datetime:
    """Return when the stream's next run is due after `run`, for a `jitter` in [0, 1), and not before `held_until`.

    A run that made progress before its time or batch limit continues at once, behind the streams that wait for a slot.
    A stream that needs an operator is probed slowly; one that failed is parked for minutes. Any other is due an
    interval after its run started; a start in the future, by a clock that was ahead, counts as now. If there is news
    (`is_prompted`), the interval is a few seconds, unless the run ended in an error.
    """
    ended_well = run is None or run.status in _ENDED_WELL
    if is_prompted and ended_well:
        interval_seconds = min(interval_seconds, PROMPTED_SECONDS)
    due_at = _due_at(run, now, jitter, interval_seconds)
    return due_at if held_until is None else max(due_at, held_until)


def in_step(due_at: datetime, ended_at: datetime, interval_seconds: float) -> datetime:
    """Return when a run begins that is due then: on the second, together with others that are due about then.

    A processor that wakes up for each of them finds its caches cold, and each commit waits for the disk: together they
    take a quarter less. A run that follows at once on the one that `ended_at` does not wait for others.
    """
    step = min(MAX_STEP_SECONDS, JITTER * interval_seconds)
    if (due_at - ended_at).total_seconds() <= step:
        return due_at
    return datetime.fromtimestamp(round(due_at.timestamp() / step) * step, due_at.tzinfo)


def _due_at(run: Run | None, now: datetime, jitter: float, interval_seconds: float) -> datetime:
    if run is not None and run.tally.batches and run.reason in {Reason.TIME_LIMIT, Reason.BATCH_LIMIT}:
        return now
    if run is not None and run.reason is Reason.RATE_LIMIT:
        return now  # or as soon as the rate limit is over
    started_at = min(run.started_at, now) if run is not None else now
    seconds = _seconds_after(run, interval_seconds) * (1 + JITTER * (2 * jitter - 1))
    return max(now, started_at + timedelta(seconds=seconds))


def _seconds_after(run: Run | None, interval_seconds: float) -> float:
    match run:
        case Run(status=RunStatus.STOPPED, reason=Reason.AUTHORIZATION):
            return max(interval_seconds, AUTHORIZATION_PROBE_SECONDS)
        case Run(status=RunStatus.STOPPED):
            return max(interval_seconds, CONFIGURATION_PROBE_SECONDS)
        case Run(status=RunStatus.FAILED | RunStatus.INTERRUPTED):
            return min(interval_seconds, MAX_PARK_SECONDS)
        case _:
            return interval_seconds


# --- rate limits ------------------------------------------------------------------------------------------------------

PROBE_LEAD_SECONDS = 5.0
MAX_FLOOR_SECONDS = 900.0  # the floor grows up to this; a wait that the server names may be longer


def rate_limit_seconds(
    attempts: int, *, named_seconds: float | None, least_seconds: float, floor_seconds: float
) -> float:
    """Return how long to wait after `attempts` rate limits in a row (1, 2, …).

    It is the longest of what the server named, the least for this kind of limit, and a floor that doubles each time:
    calls during a rate limit prolong it (Meta, "Rate limits"), and many limits name no time.
    """
    floor = min(floor_seconds * 2.0 ** min(attempts - 1, 63), max(floor_seconds, MAX_FLOOR_SECONDS))
    return max(named_seconds or 0.0, least_seconds, floor)


def next_rate_limit(
    before: RateLimit | None, problem: Problem, rule: Rule, now: datetime, *, floor_seconds: float
) -> RateLimit:
    """Return the rate limit of a problem. `before` is the previous one, if the stream has made no progress since."""
    attempts, since = (before.attempts + 1, min(before.since, now)) if before else (1, now)
    length = _length(attempts, problem, rule, floor_seconds)
    return RateLimit(rule.scope, attempts, since, now + length, problem)


def has_begun(rate_limit: RateLimit, now: datetime, *, floor_seconds: float) -> bool:
    """Return whether the rate limit can have begun by now.

    If not, the clock was ahead when it was hit, and nobody knows when it ends: it counts as over, and the next call
    shows whether it is.
    """
    rule = rule_for(rate_limit.problem, has_cursor=False)
    return not is_ahead(rate_limit.until - _length(rate_limit.attempts, rate_limit.problem, rule, floor_seconds), now)


def _length(attempts: int, problem: Problem, rule: Rule, floor_seconds: float) -> timedelta:
    seconds = rate_limit_seconds(
        attempts,
        named_seconds=problem.wait_seconds,
        least_seconds=rule.least_wait_seconds,
        floor_seconds=floor_seconds,
    )
    return timedelta(seconds=seconds)


def held_until(stream: Stream, rate_limits: Mapping[Stream, RateLimit]) -> datetime | None:
    """Return when `stream` may call again, given the rate limit of every stream; None if nothing forbids it.

    Only one stream probes whether a limit is over: the one whose rate limit ends last. The others in its scope follow a
    little later, once its response is known or has prolonged the limit.
    """
    holder = holder_of(stream, rate_limits)
    if holder is None:
        return None
    until = rate_limits[holder].until
    return until if holder == stream else until + timedelta(seconds=PROBE_LEAD_SECONDS)


def holder_of(stream: Stream, rate_limits: Mapping[Stream, RateLimit]) -> Stream | None:
    """Return the stream whose rate limit holds `stream`: of all limits that apply to it, the one that ends last."""
    holders = [owner for owner, rate_limit in rate_limits.items() if _applies(stream, owner, rate_limit)]
    return max(holders, key=lambda owner: (rate_limits[owner].until, owner.key), default=None)


def by_page(rate_limits: Mapping[Stream, RateLimit]) -> Callable[[Stream], Mapping[Stream, RateLimit]]:
    """Return a lookup of the rate limits that may hold a stream: a thousand streams may have hit one each.

    Of those that apply to all pages, only the one that ends last matters.
    """
    of_app = (stream for stream, rate_limit in rate_limits.items() if rate_limit.scope is Scope.APP)
    latest = max(of_app, key=lambda stream: (rate_limits[stream].until, stream.key), default=None)
    everywhere = {} if latest is None else {latest: rate_limits[latest]}
    near: dict[str, dict[Stream, RateLimit]] = {}
    for stream, rate_limit in rate_limits.items():
        if rate_limit.scope is not Scope.APP:
            near.setdefault(stream.page_id, dict(everywhere))[stream] = rate_limit
    return lambda stream: near.get(stream.page_id, everywhere)


def _applies(stream: Stream, owner: Stream, rate_limit: RateLimit) -> bool:
    match rate_limit.scope:
        case Scope.APP:
            return True
        case Scope.PAGE:
            return owner.page_id == stream.page_id
        case Scope.STREAM:
            return owner == stream
