"""How the process ends: the first signal asks, the second, or the end of the patience, forces."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from milepost.core.errors import MilepostError
from milepost.engine.stop import Stop

GRACE_SECONDS = 20.0
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
