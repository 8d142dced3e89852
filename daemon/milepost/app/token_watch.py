"""Checks every page's token once a day, so that its expiry is known before it comes."""

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

LOOK_SECONDS = 30.0  # before the first call, which must not delay the first batch, and between looks for new tokens
CHECK_SECONDS = 86_400.0
CHECK_AGAIN_SECONDS = 3_600.0  # after a check that failed
MAX_AT_ONCE = 8

log = structlog.get_logger("milepost")


class _Checked(Struct, frozen=True):
    """The token that was checked, and when to check again, by the steady clock."""

    token: str
    next_at: float


class TokenWatch:
    """Records the health of every token in the journal. A new token is checked soon; a failed check does no harm."""

    def __init__(self, registry: PageRegistry, supervisor: Supervisor) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._checked: dict[str, _Checked] = {}
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def run(self, clock: Clock, stop: Stop) -> None:
        """Check tokens until a stop is requested."""
        async with stop.interruptible():
            while True:
                await clock.sleep_until(clock.now() + timedelta(seconds=LOOK_SECONDS))
                await self.check_due(clock)

    async def check_due(self, clock: Clock) -> None:
        """Check the tokens that are new, and those whose check is due."""
        tokens = self._registry.tokens()
        async with asyncio.TaskGroup() as tasks:
            for page_id, token in tokens.items():
                checked = self._checked.get(page_id)
                if checked is None or checked.token != token or checked.next_at <= clock.steady():
                    tasks.create_task(self._check(page_id, token, clock), name=f"token of page {page_id}")

    async def _check(self, page_id: str, token: str, clock: Clock) -> None:
        async with self._slots:
            found = await self._registry.fetch_token_health(page_id)
        seconds = CHECK_SECONDS if isinstance(found, TokenHealth) else CHECK_AGAIN_SECONDS
        self._checked[page_id] = _Checked(token, clock.steady() + seconds)
        if not isinstance(found, TokenHealth):
            log.debug("token not checked", page=page_id, reason=str(found))
            return
        for stream in self._registry.streams_of(page_id):
            try:
                await self._supervisor.ask(stream, RecordTokenHealth(found))
            except MilepostError as error:
                log.debug("token health not recorded", stream=stream.key, reason=error.message)
