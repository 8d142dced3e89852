"""The pace of a page's calls: evenly spaced, and slower the nearer a budget is to its end."""

import asyncio

from aiolimiter import AsyncLimiter

from milepost.core.model import Scope
from milepost.core.ports import Usage

SLOW_FROM_RATIO = 0.8
MAX_SLOWDOWN_SECONDS = 10.0
HEARD_LATELY_SECONDS = 300.0
SPACING = 1.02  # a little more than the rate asks for: calls that were made evenly arrive a little unevenly


def slowdown_seconds(ratio: float) -> float:
    """Say by how much longer calls are to be apart where this much of a budget is used up; it sets in softly."""
    share = (min(ratio, 1.0) - SLOW_FROM_RATIO) / (1 - SLOW_FROM_RATIO)
    return MAX_SLOWDOWN_SECONDS * max(share, 0.0) ** 2


class Budget:
    """What was heard lately of a budget. The app's is shared by all pages.

    What was heard last counts, of each who told it apart, and for a few minutes only: a budget fills up again while
    nobody calls. Instants are of the event loop's clock.
    """

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, float]] = {}

    def hear(self, teller: str, ratio: float, now: float) -> None:
        """Hear that this much is used up."""
        self._heard[teller] = (ratio, now)

    def slowdown_seconds(self, now: float) -> float:
        """Say how much longer than usual calls are to be apart."""
        lately = (ratio for ratio, at in self._heard.values() if now - at < HEARD_LATELY_SECONDS)
        return max(map(slowdown_seconds, lately), default=0.0)


class RateLimiter:
    """Spaces the calls of one page; all its streams share it. A rate of 0 spaces them only where a budget runs out.

    Calls come one by one, not in bursts, so that no second sees more than the rate, whenever it is taken to begin.
    """

    def __init__(self, calls_per_second: float, app: Budget) -> None:
        self._app = app
        self._page = Budget()
        self._is_next = asyncio.Lock()
        self._called_at = float("-inf")
        self.change(calls_per_second)

    def change(self, calls_per_second: float) -> None:
        """Space by another rate from the next call on."""
        self._limiter = AsyncLimiter(1, SPACING / calls_per_second) if calls_per_second else None
        self._is_first_call = True

    async def turn(self) -> None:
        """Wait until it is the caller's turn; callers take turns in the order in which they came."""
        loop = asyncio.get_running_loop()
        async with self._is_next:
            while True:
                wait_seconds = self._called_at + self._slowdown_seconds(loop.time()) - loop.time()
                if wait_seconds <= 0:
                    break
                await asyncio.sleep(wait_seconds)  # and look again: another page may have heard of the app's budget
            if self._limiter is not None:
                # The limiter knows nothing of calls before it: of those by another rate, or of a process that has died.
                if self._is_first_call:
                    self._is_first_call = False
                    await self._limiter.acquire()
                await self._limiter.acquire()
            self._called_at = loop.time()

    def heed(self, teller: str, usages: tuple[Usage, ...]) -> None:
        """Hear from one of the page's streams how much of the budgets is used up."""
        now = asyncio.get_running_loop().time()
        for scope, budget, name in ((Scope.APP, self._app, "app"), (Scope.PAGE, self._page, teller)):
            ratios = [usage.ratio for usage in usages if usage.scope is scope]
            if ratios:
                budget.hear(name, max(ratios), now)

    def _slowdown_seconds(self, now: float) -> float:
        return max(self._app.slowdown_seconds(now), self._page.slowdown_seconds(now))
