"""Measures the database from time to time: nothing that each scrape should wait for."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from milepost.core.errors import MilepostError
from milepost.core.ports import Clock
from milepost.engine.interrupt import Stop

MEASURE_SECONDS = 60.0


class StoreSize:
    """The size of the database, as last measured. `bytes` is None while it is unknown."""

    def __init__(self, measure: Callable[[], Awaitable[int]]) -> None:
        self._measure = measure
        self.bytes: int | None = None

    async def run(self, clock: Clock, stop: Stop) -> None:
        """Measure until a stop is requested."""
        async with stop.interruptible():
            while True:
                await self.measure()
                await clock.sleep_until(clock.now() + timedelta(seconds=MEASURE_SECONDS))

    async def measure(self) -> None:
        """Measure once."""
        try:
            self.bytes = await self._measure()
        except MilepostError:  # it is away, which the store watch reports
            self.bytes = None
