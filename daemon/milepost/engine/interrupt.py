"""What ends work: interrupts of waits and fetches, but never of a commit; errors of a task; and shutdown."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import structlog

from milepost.core.errors import MilepostError
from milepost.core.ports import Clock

Result = TypeVar("Result")

log = structlog.get_logger("milepost")


class Interrupt:
    """An event that interrupts every `interruptible()` block while it is set."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.scopes: dict[asyncio.Timeout, None] = {}  # of the open blocks, in the order of entry

    @property
    def is_set(self) -> bool:
        """Whether it is set."""
        return self._event.is_set()

    def set(self) -> None:
        """Set it, which ends all blocks at once. Setting it again changes nothing."""
        if self._event.is_set():
            return
        self._event.set()
        for scope in tuple(self.scopes):
            if not scope.expired():  # a block that is about to end cannot be rescheduled
                scope.reschedule(asyncio.get_running_loop().time())

    def clear(self) -> None:
        """Clear it: blocks that begin from now on are not interrupted."""
        self._event.clear()

    async def wait(self) -> None:
        """Wait until it is set."""
        await self._event.wait()

    @asynccontextmanager
    async def interruptible(self, *others: "Interrupt") -> AsyncIterator[None]:
        """Run the block until it ends or this or one of the others is set, whichever comes first."""
        interrupts = (self, *others)
        scope = asyncio.timeout(0 if any(each.is_set for each in interrupts) else None)
        try:
            async with scope:
                for each in interrupts:
                    each.scopes[scope] = None
                try:
                    yield
                finally:
                    for each in interrupts:
                        each.scopes.pop(scope, None)
        except TimeoutError:
            if not scope.expired():  # the timeout is the block's own
                raise

    async def sleep(self, clock: Clock, seconds: float, *others: "Interrupt") -> None:
        """Sleep until the seconds are over or this or one of the others is set, whichever comes first."""
        async with self.interruptible(*others):
            await clock.sleep_until(clock.now() + timedelta(seconds=seconds))


class Stop(Interrupt):
    """The request to shut down, which is final."""

    is_requested = Interrupt.is_set
    request = Interrupt.set


# --- tasks ------------------------------------------------------------------------------------------------------------

RESTART_SECONDS = 60.0  # after an error


async def bulkhead(part: str, work: Awaitable[Result]) -> Result | Exception:
    """Await `work` and return its result, or the exception that it raised, which is logged. Cancellation passes.

    This is the one place that catches every exception, so that a failing task stops no other.
    """
    try:
        return await work
    except MilepostError as error:
        log.error("task failed", part=part, error=error.message, hint=error.hint)  # noqa: TRY400  (nothing to trace)
        return error
    except Exception as error:
        log.exception("task failed unexpectedly", part=part, hint="this is a bug in Milepost: please report it")
        return error


@asynccontextmanager
async def running(name: str, work: Coroutine[Any, Any, object]) -> AsyncIterator[asyncio.Task[object]]:
    """Do work during the block, in a task that is cancelled at its end."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def kept_up(part: str, work: Callable[[], Awaitable[None]], clock: Clock, stop: Stop) -> None:
    """Do work that goes on until a stop is requested. If an error ends it, restart it a minute later."""
    while await bulkhead(part, work()) is not None and not stop.is_requested:
        await stop.sleep(clock, RESTART_SECONDS)


# --- shutdown ---------------------------------------------------------------------------------------------------------

GRACE_SECONDS = 20.0
LINGER_SECONDS = 2.0  # for which probes and API answer 503 with the reason before the service ends
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedHard(MilepostError):
    """The current work was cancelled; what was committed is safe."""


@asynccontextmanager
async def stopping_on_signals(stop: Stop, *, grace_seconds: float = GRACE_SECONDS) -> AsyncIterator[None]:
    """Request shutdown at the first SIGTERM or SIGINT; cancel the block at the second, or `grace_seconds` later.

    Raises StoppedHard if the block had to be cancelled.
    """
    loop = asyncio.get_running_loop()
    grace = asyncio.timeout(None)

    def on_signal(number: signal.Signals) -> None:
        if stop.is_requested:
            log.warning("stopping at once", signal=number.name)
            if not grace.expired():  # otherwise the block is cancelled already
                grace.reschedule(loop.time())
            return
        log.info("stopping", signal=number.name, patience_seconds=grace_seconds, again="stops at once")
        stop.request()
        grace.reschedule(loop.time() + grace_seconds)

    try:
        async with grace:
            for number in SIGNALS:
                loop.add_signal_handler(number, on_signal, number)
            try:
                yield
            finally:
                for number in SIGNALS:
                    loop.remove_signal_handler(number)
    except TimeoutError as error:
        if not grace.expired():
            raise
        raise StoppedHard(
            "stopped before the current work was finished",
            hint="what was committed is safe; the next start continues from there",
        ) from error


@asynccontextmanager
async def stopping_when_lost(watch: Callable[[], Awaitable[MilepostError]], stop: Stop) -> AsyncIterator[None]:
    """Log that the database is lost once `watch` returns why, and request the stop LINGER_SECONDS later.

    Until then, the store refuses every call, so that nothing more is recorded.
    """
    name = "watch of the database"

    async def end() -> None:
        lost = await watch()
        log.critical("database lost", reason=lost.message, hint=lost.hint)
        await asyncio.sleep(LINGER_SECONDS)
        stop.request()

    async def watched() -> None:  # may be cancelled before it begins, and then `end` must not exist
        await bulkhead(name, end())

    async with running(name, watched()):
        yield
