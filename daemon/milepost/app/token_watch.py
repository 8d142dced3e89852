"""Asks once a day how every page's token stands, so that its end is known before it comes."""

import asyncio
from datetime import timedelta

import structlog
from msgspec import Struct

from milepost.app.pages import PageRegistry
from milepost.core.commands import RecordTokenHealth
from milepost.core.errors import MilepostError
from milepost.core.model import TokenHealth
from milepost.core.ports import Clock
from milepost.engine.interrupt import Stop
from milepost.engine.supervisor import Supervisor

LOOK_SECONDS = 30.0  # until the first call, which must not hold up the first batch, and between looks for new tokens
CHECK_SECONDS = 86_400.0
CHECK_AGAIN_SECONDS = 3_600.0  # where the question was not answered
MAX_AT_ONCE = 8

log = structlog.get_logger("milepost")


class _Asked(Struct, frozen=True):
    """The token that was asked about, and when to ask again, by the steady clock."""

    token: str
    again_at: float


class TokenWatch:
    """Has the journal keep how tokens stand; a new token is asked about soon. What cannot be told does no harm."""

    def __init__(self, registry: PageRegistry, supervisor: Supervisor) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._asked: dict[str, _Asked] = {}
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def run(self, clock: Clock, stop: Stop) -> None:
        """Watch until a stop is asked for."""
        async with stop.interruptible():
            while True:
                await clock.sleep_until(clock.now() + timedelta(seconds=LOOK_SECONDS))
                await self.look(clock)

    async def look(self, clock: Clock) -> None:
        """Ask about the tokens that are new, and those whose time has come."""
        tokens = self._registry.tokens()
        async with asyncio.TaskGroup() as tasks:
            for page_id, token in tokens.items():
                asked = self._asked.get(page_id)
                if asked is None or asked.token != token or asked.again_at <= clock.steady():
                    tasks.create_task(self._ask(page_id, token, clock), name=f"token of page {page_id}")

    async def _ask(self, page_id: str, token: str, clock: Clock) -> None:
        async with self._slots:
            found = await self._registry.token_health(page_id)
        seconds = CHECK_SECONDS if isinstance(found, TokenHealth) else CHECK_AGAIN_SECONDS
        self._asked[page_id] = _Asked(token, clock.steady() + seconds)
        if not isinstance(found, TokenHealth):
            log.debug("token not checked", page=page_id, reason=str(found))
            return
        for stream in self._registry.streams_of(page_id):
            try:
                await self._supervisor.ask(stream, RecordTokenHealth(found))
            except MilepostError as error:
                log.debug("token not noted", stream=stream.key, reason=error.message)
