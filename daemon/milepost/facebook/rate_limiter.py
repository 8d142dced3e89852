"""The pace of a page's calls: evenly spaced, and slower as a budget runs out."""

import asyncio

import structlog
from aiolimiter import AsyncLimiter
from msgspec import Struct

from milepost.core.model import Scope
from milepost.core.ports import Usage

SLOW_FROM_RATIO = 0.8
MAX_SLOWDOWN_SECONDS = 10.0
RECENT_SECONDS = 300.0
NOTABLE_SECONDS = 1.0  # slower than this is something to tell
SPACING = 1.02  # a little more than the rate demands: calls that are made evenly arrive a little unevenly


log = structlog.get_logger("milepost")


def slowdown_seconds(ratio: float, age_seconds: float = 0.0) -> float:
    """Return the extra spacing between calls after a report that this much of a budget is used up.

    It sets in softly, and wears off as the report ages: few calls are made meanwhile, and the platform counts those of
    a rolling hour (Meta, "Rate limits").
    """
    share = (min(ratio, 1.0) - SLOW_FROM_RATIO) / (1 - SLOW_FROM_RATIO)
    fresh = 1 - age_seconds / RECENT_SECONDS
    return MAX_SLOWDOWN_SECONDS * (max(share, 0.0) * max(fresh, 0.0)) ** 2


class Slowdown(Struct, frozen=True):
    """Calls are `seconds` apart because a `ratio` of the budget of `scope` was reported as used up; `since` when."""

    scope: Scope
    seconds: float
    ratio: float
    since: float


class Budget:
    """The recent usage of a budget. The app's is shared by all pages.

    The latest report of each reporter counts, and ages. Instants are of the event loop's clock.
    """

    def __init__(self, scope: Scope = Scope.APP) -> None:
        self._scope = scope
        self._reports: dict[str, tuple[float, float]] = {}
        self._slow_since: float | None = None

    def report(self, reporter: str, ratio: float, now: float) -> None:
        """Note how much is used up."""
        self._reports[reporter] = (ratio, now)
        self.slowdown(now)

    def slowdown_seconds(self, now: float) -> float:
        """Return the extra spacing between calls."""
        return self._slowest(now)[0]

    def slowdown(self, now: float) -> Slowdown | None:
        """Return the slowdown if it is notable. Its beginning and its end are logged."""
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
        """Return the spacing, and the report that it comes from."""
        return max(
            ((slowdown_seconds(ratio, now - at), ratio) for ratio, at in self._reports.values()), default=(0.0, 0.0)
        )


class RateLimiter:
    """Spaces the calls of one page; all its streams share it. A rate of 0 spaces them only when a budget runs out.

    Calls come one by one, not in bursts, so that no second sees more than the rate, whenever it begins.
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
        """Wait until the caller may call; callers are served in the order in which they came."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            while True:
                wait_seconds = self._called_at + self._slowdown_seconds(loop.time()) - loop.time()
                if wait_seconds <= 0:
                    break
                await asyncio.sleep(wait_seconds)  # and check again: another page may have reported on the app's budget
            if self._limiter is not None:
                # The limiter does not know of calls before it: those at another rate, or of a process that has died.
                if self._is_first_call:
                    self._is_first_call = False
                    await self._limiter.acquire()
                await self._limiter.acquire()
            self._called_at = loop.time()

    def update(self, reporter: str, usages: tuple[Usage, ...]) -> None:
        """Take over how much of the budgets is used up, as reported to one of the page's streams."""
        self.observe(reporter, usages, asyncio.get_running_loop().time())

    def observe(self, reporter: str, usages: tuple[Usage, ...], now: float) -> None:
        """Take over what was reported at an instant of the event loop's clock."""
        for scope, budget, name in ((Scope.APP, self._app, "app"), (Scope.PAGE, self._page, reporter)):
            ratios = [usage.ratio for usage in usages if usage.scope is scope]
            if ratios:
                budget.report(name, max(ratios), now)

    def slowdown(self, now: float) -> Slowdown | None:
        """Return the slowdown of the page's calls, if it is notable: by its own budget or the app's."""
        found = [each for each in (self._app.slowdown(now), self._page.slowdown(now)) if each is not None]
        return max(found, key=lambda each: each.seconds, default=None)

    def _slowdown_seconds(self, now: float) -> float:
        return max(self._app.slowdown_seconds(now), self._page.slowdown_seconds(now))
