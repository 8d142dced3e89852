"""Rate limits: how long to wait, and whose calls are held back meanwhile."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from milepost.core.checkpoint import RateLimit, is_ahead
from milepost.core.model import Scope, Stream
from milepost.core.problems import Problem
from milepost.core.remedies import Rule, rule_for

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
