"""Interrupts waits and fetches, never a commit: a change of plan, not a cancellation; and shutdown by signals."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from milepost.core.errors import MilepostError
from milepost.engine.bulkhead import bulkhead


class Interrupt:
    """While it rings, everything under `interruptible` ends at once."""

    def __init__(self) -> None:
        self._rings = asyncio.Event()
        self._scopes: dict[asyncio.Timeout, None] = {}  # in the order in which they were entered

    @property
    def is_set(self) -> bool:
        """Whether it was rung and not silenced since."""
        return self._rings.is_set()

    def set(self) -> None:
        """Begin to ring. Ringing again changes nothing."""
        if self._rings.is_set():
            return
        self._rings.set()
        for scope in tuple(self._scopes):
            if not scope.expired():  # one that is about to end cannot be rescheduled
                scope.reschedule(asyncio.get_running_loop().time())

    def clear(self) -> None:
        """Stop ringing: what begins from now on runs its course."""
        self._rings.clear()

    async def wait(self) -> None:
        """Wait until it rings."""
        await self._rings.wait()

    @asynccontextmanager
    async def interruptible(self) -> AsyncIterator[None]:
        """Run the block until it ends or the bell rings, whichever comes first."""
        scope = asyncio.timeout(0 if self.is_set else None)
        try:
            async with scope:
                self._scopes[scope] = None
                try:
                    yield
                finally:
                    self._scopes.pop(scope, None)
        except TimeoutError:
            if not scope.expired():  # the block's own
                raise


class Stop(Interrupt):
    """The stop that is asked for, once and for all."""

    @property
    def is_requested(self) -> bool:
        """Whether the stop was asked for."""
        return self.is_set

    def request(self) -> None:
        """Ask for the stop. Asking again changes nothing."""
        self.set()


GRACE_SECONDS = 20.0
LINGER_SECONDS = 2.0  # in which who asks is told that the database is lost, before there is nobody to ask
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedHard(MilepostError):
    """The work in hand was cut off; what was committed is safe."""


@asynccontextmanager
async def stopping_on_signals(stop: Stop, *, grace_seconds: float = GRACE_SECONDS) -> AsyncIterator[None]:
    """Ask for the stop at the first SIGTERM or SIGINT; cancel the block at the second, or `grace_seconds` later.

    Raises StoppedHard where the block had to be cancelled.
    """
    log = structlog.get_logger("milepost")
    loop = asyncio.get_running_loop()
    patience = asyncio.timeout(None)

    def heard(number: signal.Signals) -> None:
        if stop.is_requested:
            log.warning("stopping at once", signal=number.name)
            patience.reschedule(loop.time())
            return
        log.info("stopping", signal=number.name, patience_seconds=grace_seconds, again="stops at once")
        stop.request()
        patience.reschedule(loop.time() + grace_seconds)

    try:
        async with patience:
            for number in SIGNALS:
                loop.add_signal_handler(number, heard, number)
            try:
                yield
            finally:
                for number in SIGNALS:
                    loop.remove_signal_handler(number)
    except TimeoutError as error:
        if not patience.expired():
            raise
        raise StoppedHard(
            "stopped before the work in hand was finished",
            hint="what was committed is safe; the next start goes on there",
        ) from error


@asynccontextmanager
async def stopping_when_lost(watch: Callable[[], Awaitable[MilepostError]], stop: Stop) -> AsyncIterator[None]:
    """Say that the database is lost when `watch` gives why, and ask for the stop a moment later.

    Until then the store refuses all that is asked of it, and so nothing is recorded any more.
    """

    async def end() -> None:
        lost = await watch()
        structlog.get_logger("milepost").critical("database lost", reason=lost.message, hint=lost.hint)
        await asyncio.sleep(LINGER_SECONDS)
        stop.request()

    watching = asyncio.create_task(bulkhead("watch of the database", end()), name="watch of the database")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])
