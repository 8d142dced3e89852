"""Works off webhook events: the streams that they are about are read soon."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import structlog

from milepost.core.errors import MilepostError
from milepost.core.model import Stream
from milepost.core.ports import Clock
from milepost.core.webhooks import WebhookInbox
from milepost.engine.interrupt import Interrupt, Stop

LOOK_SECONDS = 5.0  # for events that are due again, and for those that another worker took
MIN_SECONDS = 0.25  # between two looks, however many events arrive
TRIM_SECONDS = 60.0
KEPT_SECONDS = 2 * 86_400.0  # the platform repeats what was not acknowledged for 36 hours (Meta, "Webhooks")
MAX_EVENTS = 100_000

log = structlog.get_logger("milepost")


class WebhookWorker:
    """Works off the events of an inbox, through `prompt`, which has a stream read soon.

    `expire` is called with the number of events that were never worked off: the list has not shown their messages for
    days.
    """

    def __init__(
        self, inbox: WebhookInbox, prompt: Callable[[Stream], None], clock: Clock, expire: Callable[[int], None]
    ) -> None:
        self._inbox = inbox
        self._prompt = prompt
        self._clock = clock
        self._arrived = Interrupt()
        self._trim_at = clock.now()
        self._is_away = False
        self._expire = expire

    def notify(self) -> None:
        """Note that events have arrived."""
        self._arrived.set()

    async def run(self, stop: Stop) -> None:
        """Work events off as they arrive, until a stop is requested."""
        while not stop.is_requested:
            self._arrived.clear()
            await self._look()
            async with stop.interruptible():
                await asyncio.sleep(MIN_SECONDS)
            async with stop.interruptible(), self._arrived.interruptible():
                await self._clock.sleep_until(self._clock.now() + timedelta(seconds=LOOK_SECONDS))

    async def _look(self) -> None:
        """Work off what is due. What is not, because the database is unavailable, is the next time."""
        now = self._clock.now()
        try:
            for stream in await self._inbox.claim(now):
                self._prompt(stream)
            if now >= self._trim_at:
                self._expire(await self._inbox.trim(now - timedelta(seconds=KEPT_SECONDS), MAX_EVENTS))
                self._trim_at = now + timedelta(seconds=TRIM_SECONDS)
        except MilepostError as error:
            if not self._is_away:
                log.warning("database unavailable, retrying", part="webhooks", reason=error.message)
            self._is_away = True
        else:
            self._is_away = False
