"""Time and randomness as a dependency, so that hours can be tested in milliseconds.

There are two clocks. The wall clock dates entries, and may be set at any moment. Waits are measured by the steady
clock, which nobody can set.
"""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from milepost.core.ports import Clock

MIN_STEP_SECONDS = 1.0  # a smaller offset does no harm, and slewing the clock is not a step
LOGGED_STEP_SECONDS = 5.0
MAX_NAP_SECONDS = 30.0
MAX_READINGS, MAX_READING_SECONDS = 10, 0.1  # of both clocks: the process may be suspended in between

log = structlog.get_logger("milepost")


class SystemClock:
    """The machine's clocks. A step of the wall clock is logged once."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311  (spreads retries and distinguishes runs: guessing it does no harm)
        self._offset_seconds = _offset_seconds(self._read, self.steady)

    def now(self) -> datetime:
        """Return the time by the wall clock, in UTC."""
        steady, wall = self.steady(), self._read()
        offset_seconds = wall.timestamp() - steady
        if abs(offset_seconds - self._offset_seconds) < LOGGED_STEP_SECONDS:
            self._offset_seconds = offset_seconds
            return wall
        self._check_for_step()  # unless the process was suspended between the two readings
        return self._read()

    def steady(self) -> float:
        """Return the seconds of a clock that nobody can set. It goes on while the machine is suspended."""
        return time.clock_gettime(_STEADY)

    def random(self) -> float:
        """Return a random number in [0, 1)."""
        return self._random.random()

    async def sleep_until(self, instant: datetime) -> None:
        """Sleep for the time that is now left until `instant`, in naps: the event loop's clock stops when suspended."""
        ends = self.steady() + (instant - self.now()).total_seconds()
        if ends <= self.steady():
            await asyncio.sleep(0)  # a loop of waits that are over must not block the event loop
        while (seconds := ends - self.steady()) > 0:
            await asyncio.sleep(min(seconds, MAX_NAP_SECONDS))
            self._check_for_step()

    def _read(self) -> datetime:
        return datetime.now(UTC)

    def _check_for_step(self) -> None:
        before, self._offset_seconds = self._offset_seconds, _offset_seconds(self._read, self.steady)
        seconds = self._offset_seconds - before
        if abs(seconds) >= LOGGED_STEP_SECONDS:
            log.warning(
                "clock set back" if seconds < 0 else "clock set forward",
                seconds=round(abs(seconds)),
                hint="waits are not affected; check the machine's time synchronization (timedatectl)",
            )


class Anchor:
    """Measures by how much the wall clock was adjusted since a moment, so that instants in memory can be shifted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_seconds = _offset_seconds(clock.now, clock.steady)

    def moved(self) -> timedelta:
        """Return by how much the wall clock was adjusted; forward is positive."""
        seconds = _offset_seconds(self._clock.now, self._clock.steady) - self._offset_seconds
        return timedelta(seconds=seconds) if abs(seconds) >= MIN_STEP_SECONDS else timedelta()

    def take_moved(self) -> timedelta:
        """Return by how much the wall clock was adjusted since the last call."""
        moved = self.moved()
        self._offset_seconds += moved.total_seconds()
        return moved


class Deadline:
    """An instant that comes after a fixed time, even if the wall clock is adjusted meanwhile.

    `at` is by the clock's setting when `anchor` was made: now, if none is given.
    """

    def __init__(self, clock: Clock, at: datetime, anchor: Anchor | None = None) -> None:
        self._clock = clock
        self._at = at
        self.anchor = anchor or Anchor(clock)

    @property
    def at(self) -> datetime:
        """The instant by the wall clock's current setting."""
        return self._at + self.anchor.moved()

    @property
    def has_passed(self) -> bool:
        """Whether the instant has passed."""
        return self._clock.now() >= self.at


_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # only Linux has a clock that goes on while suspended


def _offset_seconds(now: Callable[[], datetime], steady: Callable[[], float]) -> float:
    """Return how far the wall clock is ahead of the steady one, both read at one moment."""
    readings = 0
    while True:
        before, wall, after = steady(), now(), steady()
        readings += 1
        if after - before <= MAX_READING_SECONDS or readings == MAX_READINGS:
            return wall.timestamp() - (before + after) / 2
