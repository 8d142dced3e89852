"""Time and luck, handed to whoever needs them, so that hours can be tested in milliseconds."""

import asyncio
import random
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where time and luck come from."""

    def now(self) -> datetime:
        """Give the time, in UTC."""
        ...

    def luck(self) -> float:
        """Draw a number from [0, 1)."""
        ...

    async def sleep_until(self, instant: datetime) -> None:
        """Return at `instant`, or at once if it has passed."""
        ...


class SystemClock:
    """The machine's clock. A sleep is measured on the monotonic one: setting the time does not prolong it."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def now(self) -> datetime:
        """Give the time, in UTC."""
        return datetime.now(UTC)

    def luck(self) -> float:
        """Draw a number from [0, 1)."""
        return self._random.random()

    async def sleep_until(self, instant: datetime) -> None:
        """Return at `instant`, or at once if it has passed."""
        await asyncio.sleep(max(0.0, (instant - self.now()).total_seconds()))
