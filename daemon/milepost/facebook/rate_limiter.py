"""The pace of a page's calls: evenly spaced, and slower as a budget runs out."""

import asyncio

from aiolimiter import AsyncLimiter

from milepost.core.model import Scope
from milepost.core.ports import Usage

SLOW_FROM_RATIO = 0.8
MAX_SLOWDOWN_SECONDS = 10.0
RECENT_SECONDS = 300.0
SPACING = 1.02  # a little more than the rate demands: calls that are made evenly arrive a little unevenly


def slowdown_seconds(ratio: float) -> float:
    """Return the extra spacing between calls when this much of a budget is used up; it sets in softly."""
    share = (min(ratio, 1.0) - SLOW_FROM_RATIO) / (1 - SLOW_FROM_RATIO)
    return MAX_SLOWDOWN_SECONDS * max(share, 0.0) ** 2


class Budget:
    """The recent usage of a budget. The app's is shared by all pages.

    The latest report of each reporter counts, and for a few minutes only: a budget recovers while nobody calls.
    Instants are of the event loop's clock.
    """

    def __init__(self) -> None:
        self._reports: dict[str, tuple[float, float]] = {}

    def report(self, reporter: str, ratio: float, now: float) -> None:
        """Note how much is used up."""
        self._reports[reporter] = (ratio, now)

    def slowdown_seconds(self, now: float) -> float:
        """Return the extra spacing between calls."""
        recent = (ratio for ratio, at in self._reports.values() if now - at < RECENT_SECONDS)
        return max(map(slowdown_seconds, recent), default=0.0)


class RateLimiter:
    """Spaces the calls of one page; all its streams share it. A rate of 0 spaces them only when a budget runs out.

    Calls come one by one, not in bursts, so that no second sees more than the rate, whenever it begins.
    """

    def __init__(self, calls_per_second: float, app: Budget) -> None:
        self._app = app
        self._page = Budget()
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
        now = asyncio.get_running_loop().time()
        for scope, budget, name in ((Scope.APP, self._app, "app"), (Scope.PAGE, self._page, reporter)):
            ratios = [usage.ratio for usage in usages if usage.scope is scope]
            if ratios:
                budget.report(name, max(ratios), now)

    def _slowdown_seconds(self, now: float) -> float:
        return max(self._app.slowdown_seconds(now), self._page.slowdown_seconds(now))
