"""Calls to the Graph API: paced, not made during a rate limit, and with the reported budgets passed on at once.

Calls that request fields leave out those that the API's version refuses by name.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import partial
from typing import Generic, TypeVar

import structlog
from aiolimiter import AsyncLimiter
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.ports import Gate, Held, Refused, Usage
from milepost.core.problems import INDISPENSABLE, MAX_MESSAGE_CHARACTERS, Problem, ProblemKind, Scope
from milepost.facebook.client import GraphClient, GraphResponse, Method
from milepost.facebook.responses import problem_of, usages, wait_seconds

T = TypeVar("T")

Decoder = Callable[[GraphResponse], T | Problem]  # of a successful response

SLOW_FROM_RATIO = 0.8
MAX_SLOWDOWN_SECONDS = 10.0
RECENT_SECONDS = 300.0
NOTABLE_SECONDS = 1.0  # a longer spacing is reported to people
SPACING = 1.02  # slightly more than the rate requires, because calls that are made evenly arrive unevenly

log = structlog.get_logger("milepost")


# --- the pace ---------------------------------------------------------------------------------------------------------


def slowdown_seconds(ratio: float, age_seconds: float = 0.0) -> float:
    """Return the extra spacing between calls after a report that this much of a budget is used up.

    It grows gradually with the ratio, and shrinks as the report ages: few calls are made meanwhile, and the platform
    counts those of a rolling hour (Meta, "Rate limits").
    """
    share = (min(ratio, 1.0) - SLOW_FROM_RATIO) / (1 - SLOW_FROM_RATIO)
    fresh = 1 - age_seconds / RECENT_SECONDS
    return MAX_SLOWDOWN_SECONDS * (max(share, 0.0) * max(fresh, 0.0)) ** 2


class Slowdown(Struct, frozen=True):
    """Calls are `seconds` apart, since `since`, because a `ratio` of the budget of `scope` was reported as used up."""

    scope: Scope
    seconds: float
    ratio: float
    since: float


class Budget:
    """The recent usage of a budget. The app's is shared by all pages.

    The latest report of each reporter counts, less and less as it ages. Instants are by the event loop's clock.
    """

    def __init__(self, scope: Scope = Scope.APP) -> None:
        self._scope = scope
        self._reports: dict[str, tuple[float, float]] = {}
        self._slow_since: float | None = None

    def report(self, reporter: str, ratio: float, now: float) -> None:
        """Record which part of the budget is used up."""
        self._reports[reporter] = (ratio, now)
        self.slowdown(now)

    def slowdown_seconds(self, now: float) -> float:
        """Return the extra spacing between calls."""
        return self._slowest(now)[0]

    def slowdown(self, now: float) -> Slowdown | None:
        """Return the slowdown if it is notable. Logs when one begins and ends."""
        seconds, ratio = self._slowest(now)
        if seconds < NOTABLE_SECONDS:
            if self._slow_since is not None:
                self._slow_since = None
                log.info("calls no longer slowed down", budget=self._scope.value)
            return None
        if self._slow_since is None:
            self._slow_since = now
            log.warning(
                "calls slowed down",
                budget=self._scope.value,
                used=f"{ratio:.0%}",
                apart_seconds=round(seconds, 1),
                hint="nothing to do: the spacing wears off within minutes, and keeps calls from being refused",
            )
        return Slowdown(self._scope, seconds, ratio, self._slow_since)

    def _slowest(self, now: float) -> tuple[float, float]:
        """Return the longest spacing, and the ratio of the report that causes it."""
        return max(
            ((slowdown_seconds(ratio, now - at), ratio) for ratio, at in self._reports.values()), default=(0.0, 0.0)
        )


class RateLimiter:
    """Spaces the calls of one page; all its streams share it. A rate of 0 spaces them only when a budget runs out.

    Calls are made one by one and not in bursts, so that no second has more calls than the rate, whenever it begins.
    """

    def __init__(self, calls_per_second: float, app: Budget) -> None:
        self._app = app
        self._page = Budget(Scope.PAGE)
        self._lock = asyncio.Lock()
        self._called_at = float("-inf")
        self.set_rate(calls_per_second)

    def set_rate(self, calls_per_second: float) -> None:
        """Change the rate from the next call on."""
        self._limiter = AsyncLimiter(1, SPACING / calls_per_second) if calls_per_second else None
        self._is_first_call = True

    async def wait(self) -> None:
        """Wait until the caller may make a call. Callers are served in the order of arrival."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            while True:
                wait_seconds = self._called_at + self._slowdown_seconds(loop.time()) - loop.time()
                if wait_seconds <= 0:
                    break
                await asyncio.sleep(wait_seconds)  # and check again: another page may have reported on the app's budget
            if self._limiter is not None:
                # The limiter does not know of earlier calls: those at another rate, or of a process that has died.
                if self._is_first_call:
                    self._is_first_call = False
                    await self._limiter.acquire()
                await self._limiter.acquire()
            self._called_at = loop.time()

    def observe(self, reporter: str, usages: tuple[Usage, ...], now: float) -> None:
        """Record the usage of the budgets that was reported to one of the page's streams."""
        for scope, budget, name in ((Scope.APP, self._app, "app"), (Scope.PAGE, self._page, reporter)):
            ratios = [usage.ratio for usage in usages if usage.scope is scope]
            if ratios:
                budget.report(name, max(ratios), now)

    def slowdown(self, now: float) -> Slowdown | None:
        """Return the slowdown of the page's calls by its own budget or the app's, if it is notable."""
        found = [each for each in (self._app.slowdown(now), self._page.slowdown(now)) if each is not None]
        return max(found, key=lambda each: each.seconds, default=None)

    def _slowdown_seconds(self, now: float) -> float:
        return max(self._app.slowdown_seconds(now), self._page.slowdown_seconds(now))


# --- the calls --------------------------------------------------------------------------------------------------------


class Access(Struct, eq=False):
    """A page's token and pace, which all its calls use.

    The token may be replaced at any time; the next call uses the new one. While there is a `problem`, no calls are made
    and the problem is their outcome. The repr leaves the token out.
    """

    token: str
    rate_limiter: RateLimiter
    problem: Problem | None = None

    def __repr__(self) -> str:
        return f"Access(problem={self.problem!r})"


class Decoded(Struct, Generic[T], frozen=True):
    """A decoded response, when it was requested, and how long the request took (see core/ports.py, Fetched).

    `left_out` are the fields that the request left out because the API refuses them, sorted.
    """

    value: T
    asked_at: datetime
    took_seconds: float
    left_out: tuple[str, ...] = ()


class Calls:
    """Makes the calls of one stream, or of page discovery; `name` identifies the caller to the rate limiter.

    `own_ids` are the known ids of the page and its Instagram account; the budgets under these ids are ours.
    """

    def __init__(self, client: GraphClient, access: Access, gate: Gate, name: str) -> None:
        self.own_ids: frozenset[str] = frozenset()
        self._client = client
        self._access = access
        self._gate = gate
        self._name = name

    async def make(
        self, path: str, parameters: Mapping[str, str], decode: Decoder[T], method: Method = "GET"
    ) -> Decoded[T] | Refused | Held:
        """Wait for the pace, make one call unless it is forbidden by then, and decode the response."""
        await self._access.rate_limiter.wait()
        # Nothing is awaited between here and the call: a rate limit that begins later could not be known.
        if self._access.problem is not None:
            return Refused(self._access.problem, 0.0)
        if self._gate.is_closed():
            return Held()
        answer = await self._client.call(path, parameters, self._access.token, partial(_answer, decode), method)
        outcome = answer if isinstance(answer, Refused) else self._decoded(*answer)
        if isinstance(outcome, Refused):
            return replace(outcome, refused_at=self._gate.refused(outcome.problem))
        return outcome

    def _decoded(self, head: GraphResponse, value: T | Problem) -> Decoded[T] | Refused:
        used = usages(head.headers, self.own_ids)
        self._access.rate_limiter.observe(self._name, used, asyncio.get_running_loop().time())
        self._gate.used(used)
        if isinstance(value, Problem):
            waits = wait_seconds(head.headers, value.code, self.own_ids)
            return Refused(replace(value, wait_seconds=waits), head.took_seconds)
        return Decoded(value, head.asked_at, head.took_seconds)


def plain(outcome: Decoded[T] | Refused | Held) -> T | Problem | Held:
    """Return the value or the problem of a call without its times."""
    if isinstance(outcome, Held):
        return outcome
    return outcome.value if isinstance(outcome, Decoded) else outcome.problem


def _answer(decode: Decoder[T], response: GraphResponse) -> tuple[GraphResponse, T | Problem]:
    """Return a response without its body, and what the body says."""
    value = problem_of(response.body, response.status) if response.status >= 300 else decode(response)
    return replace(response, body=b""), value


# --- fields that the API refuses --------------------------------------------------------------------------------------

# Captured: "(#100) Tried accessing nonexisting field (X) on node type (Y)", "(#12) X field is deprecated for versions
# v3.3 and higher"; reported: "X is not a valid field", "Unknown fields: X". The first group is the field, at the end of
# its path.
_NAME = r"[\"'(`]*(?:\w+[.{])*(\w+)[}\"')`]*"
_REFUSALS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"non-?exist(?:ing|ent) field:? {_NAME}",
        rf"(?:invalid|unknown|unsupported|deprecated|retired) fields?:? {_NAME}",
        rf"{_NAME} is not an? (?:valid|known|supported|existing) field",
        rf"{_NAME} field (?:is|was|has been) (?:deprecated|retired|removed)",
        rf"field {_NAME} (?:is|was|has been) (?:deprecated|retired|removed|not supported|unsupported|not available)",
        rf"field {_NAME} (?:does not exist|is unknown|is invalid)",
    )
)


TRIED_AGAIN_SECONDS = 86_400.0  # an incident may refuse a field as well


class FieldCalls:
    """Makes calls that request fields. A field that the API refuses is left out of this and later calls, for a day."""

    def __init__(self, calls: Calls, essential: Collection[str]) -> None:
        self._left_out = frozenset[str]()
        self._tries_again_at = float("-inf")
        self._calls = calls
        self._essential = essential

    async def make(self, path: str, parameters: Mapping[str, str], decode: Decoder[T]) -> Decoded[T] | Refused | Held:
        """Make a call. If the API refuses an essential field, the problem says so."""
        now = asyncio.get_running_loop().time()
        if now >= self._tries_again_at:
            self._tries_again_at = now + TRIED_AGAIN_SECONDS
            self._left_out = frozenset()
        while True:
            left_out = self._left_out  # other calls may change it meanwhile
            fields = without(parameters["fields"], left_out)
            outcome = await self._calls.make(path, {**parameters, "fields": fields}, decode)
            if isinstance(outcome, Decoded):
                return replace(outcome, left_out=tuple(sorted(left_out)))
            name = refused_field(outcome.problem, fields) if isinstance(outcome, Refused) else None
            if name is None or isinstance(outcome, Held):
                return outcome
            if name in self._essential:
                return replace(outcome, problem=_indispensable(name, outcome.problem))
            self._left_out |= {name}


def refused_field(problem: Problem, requested: str) -> str | None:
    """Return the requested field that a problem names as refused; None if it names none."""
    if problem.kind is not ProblemKind.API:
        return None
    names = set(re.findall(r"[a-z_]+", requested)) - {"limit"}
    found = (match[1].lower() for pattern in _REFUSALS for match in pattern.finditer(problem.message))
    return next((name for name in found if name in names), None)


def without(fields: str, left_out: Collection[str]) -> str:
    """Return these fields, which may be nested, without the ones in `left_out`, which have no nested fields."""
    for name in left_out:
        fields = re.sub(rf"(?<![^,{{]){re.escape(name)}(?:,|(?=}}|$))", "", fields)
    return re.sub(r",(?=}|$)", "", fields) if left_out else fields


def _indispensable(name: str, problem: Problem) -> Problem:
    """Return the problem of a refused field without which no conversation can be stored."""
    message = f"the API refuses the field {name} by name, {INDISPENSABLE}: {problem.message}"
    return Problem(ProblemKind.MISCONFIGURED, message[:MAX_MESSAGE_CHARACTERS], http_status=problem.http_status)
