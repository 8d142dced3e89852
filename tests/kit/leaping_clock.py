"""A clock for loops that only sleep and check: its time leaps."""

import asyncio
from datetime import datetime

from kit.builders import NOON
from milepost.engine.interrupt import Stop


class LeapingClock:
    """A clock that moves only when somebody sleeps, and then at once; at `ends_at` it requests the stop."""

    def __init__(self, stop: Stop) -> None:
        self.time = NOON
        self.ends_at = NOON
        self._stop = stop

    def now(self) -> datetime:
        return self.time

    def steady(self) -> float:
        return (self.time - NOON).total_seconds()

    def random(self) -> float:
        return 0.5

    async def sleep_until(self, instant: datetime) -> None:
        self.time = max(self.time, instant)
        if self.time >= self.ends_at:
            self._stop.request()
        await asyncio.sleep(0)
