"""Time that passes only when there is nothing left to do, and then at once: hours are tested in milliseconds."""

import asyncio
import selectors
from datetime import datetime, timedelta

from kit.builders import NOON
from milepost.engine.interrupt import Stop


class VirtualTime:
    """Seconds since the loop began. A test may let them pass, too, as if the process had been held up."""

    def __init__(self) -> None:
        self.seconds = 0.0


class _Selector(selectors.DefaultSelector):
    """Never waits: if nothing is ready, the loop's time leaps to the next timer."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self.time = time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise AssertionError("deadlock: all tasks wait, and no timer is set")
        if not events and timeout is not None:
            self.time.seconds += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, which begins at 0 unless another time is shared with it."""

    def __init__(self, time: VirtualTime | None = None) -> None:
        self.draws = 0  # of random numbers
        self._time = time or VirtualTime()
        super().__init__(_Selector(self._time))

    def time(self) -> float:
        return self._time.seconds


class VirtualClock:
    """A Clock of the running loop's time; it is noon when the loop begins. `set_by` is how far a test has set it since.

    Its random numbers hardly change, but never repeat, not even where a loop has several clocks. `slept` lists the
    sleeps in seconds, interrupted or not.
    """

    def __init__(self, jitter: float = 0.5) -> None:
        self.slept: list[float] = []
        self.set_by = timedelta()
        self._jitter = jitter

    def now(self) -> datetime:
        return NOON + self.set_by + timedelta(seconds=_loop().time())

    def steady(self) -> float:
        return _loop().time()

    def random(self) -> float:
        _loop().draws += 1
        return self._jitter + _loop().draws * 1e-9

    async def sleep_until(self, instant: datetime) -> None:
        seconds = max(0.0, (instant - self.now()).total_seconds())
        self.slept.append(seconds)
        await asyncio.sleep(seconds)


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


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
