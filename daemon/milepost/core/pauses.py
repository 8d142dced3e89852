"""Rate limits: how long a limit is waited out, and whose calls it forbids meanwhile."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from milepost.core.checkpoint import Pause
from milepost.core.model import Scope, Stream
from milepost.core.problems import Problem
from milepost.core.remedies import Rule, rule_for
from milepost.core.retry import pause_seconds
from milepost.core.skew import is_ahead

PROBE_LEAD_SECONDS = 5.0


def next_pause(before: Pause | None, problem: Problem, rule: Rule, now: datetime, *, floor_seconds: float) -> Pause:
    """Say for how long a limit has to be waited out. `before` is the pause after which it was still there, if any."""
    attempts, since = (before.attempts + 1, min(before.since, now)) if before else (1, now)
    length = _length(attempts, problem, rule, floor_seconds)
    return Pause(rule.scope, attempts, since, now + length, problem)


def has_begun(pause: Pause, now: datetime, *, floor_seconds: float) -> bool:
    """Return whether the pause can have begun by now.

    If not, the clock was ahead when it was met, and nobody knows when it ends: it counts as over; the next call tells.
    """
    rule = rule_for(pause.problem, has_cursor=False)
    return not is_ahead(pause.until - _length(pause.attempts, pause.problem, rule, floor_seconds), now)


def _length(attempts: int, problem: Problem, rule: Rule, floor_seconds: float) -> timedelta:
    seconds = pause_seconds(
        attempts,
        named_seconds=problem.wait_seconds,
        least_seconds=rule.least_wait_seconds,
        floor_seconds=floor_seconds,
    )
    return timedelta(seconds=seconds)


def held_until(stream: Stream, pauses: Mapping[Stream, Pause]) -> datetime | None:
    """Say when `stream` may call again, from the latest pause of every stream; None where nothing forbids it.

    One stream alone tries whether the limit is over: the one whose pause ends last. The others of the scope follow a
    little later, when its answer is known, or has prolonged the pause.
    """
    holder = holder_of(stream, pauses)
    if holder is None:
        return None
    until = pauses[holder].until
    return until if holder == stream else until + timedelta(seconds=PROBE_LEAD_SECONDS)


def holder_of(stream: Stream, pauses: Mapping[Stream, Pause]) -> Stream | None:
    """Say whose pause holds `stream`: of all that concern it, the one that ends last."""
    concerned = [owner for owner, pause in pauses.items() if _concerns(stream, owner, pause)]
    return max(concerned, key=lambda owner: (pauses[owner].until, owner.key), default=None)


def by_page(pauses: Mapping[Stream, Pause]) -> Callable[[Stream], Mapping[Stream, Pause]]:
    """Sort pauses so that those that may hold a stream are found at once: a thousand streams may have met one each.

    Of those that concern all pages, the one that ends last is all that matters.
    """
    of_app = (stream for stream, pause in pauses.items() if pause.scope is Scope.APP)
    latest = max(of_app, key=lambda stream: (pauses[stream].until, stream.key), default=None)
    everywhere = {} if latest is None else {latest: pauses[latest]}
    near: dict[str, dict[Stream, Pause]] = {}
    for stream, pause in pauses.items():
        if pause.scope is not Scope.APP:
            near.setdefault(stream.page_id, dict(everywhere))[stream] = pause
    return lambda stream: near.get(stream.page_id, everywhere)


def _concerns(stream: Stream, owner: Stream, pause: Pause) -> bool:
    match pause.scope:
        case Scope.APP:
            return True
        case Scope.PAGE:
            return owner.page_id == stream.page_id
        case Scope.STREAM:
            return owner == stream
