"""How the process ends: the first signal asks, the second, or the end of the patience, forces.

The loss of the database asks, too.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from milepost.core.errors import MilepostError
from milepost.engine.bulkhead import bulkhead
from milepost.engine.stop import Stop

GRACE_SECONDS = 20.0
LINGER_SECONDS = 2.0  # in which probes and API answer 503, with the reason, before nobody answers at all
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
    """Log that the database is lost once `watch` returns why, and request the stop LINGER_SECONDS later.

    In between the store refuses every call, so that nothing more is recorded.
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
