"""Retries while the database is unavailable: the one condition that the journal cannot record while it lasts.

Readers get a notice of each attempt, without a seq; the next commit that succeeds records how long it lasted.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from milepost.core.errors import StoreAway
from milepost.core.events import StoreReturned
from milepost.core.model import Stream
from milepost.core.retry import backoff_seconds
from milepost.engine.clock import Deadline
from milepost.engine.context import EngineContext
from milepost.engine.feed import StoreRetried

Result = TypeVar("Result")


class StoreRetry:
    """Retries the store calls of one run until `give_up_at`, or until shutdown."""

    def __init__(self, engine: EngineContext, stream: Stream, give_up_at: datetime) -> None:
        self._engine = engine
        self._stream = stream
        self._deadline = Deadline(engine.clock, give_up_at)
        self._away_since: float | None = None  # by the steady clock
        self._attempts = 0

    async def call(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Call the store until it answers. Raises StoreAway if it stays unavailable."""
        while True:
            try:
                return await attempt()
            except StoreAway as error:
                await self._wait_or_give_up(error)

    def outage(self) -> tuple[StoreReturned, ...]:
        """Return the event that the next commit has to record: none if the store was available."""
        if self._away_since is None:
            return ()
        return (StoreReturned(self._engine.clock.steady() - self._away_since, self._attempts),)

    def reset(self) -> None:
        """Forget the outage: it is on record."""
        self._away_since, self._attempts = None, 0

    async def _wait_or_give_up(self, error: StoreAway) -> None:
        clock = self._engine.clock
        now, steady = clock.now(), clock.steady()
        self._away_since = steady if self._away_since is None else self._away_since
        self._attempts += 1
        if self._engine.stop.is_requested or self._deadline.has_passed:
            raise error
        wait_seconds = backoff_seconds(
            self._attempts,
            clock.random(),
            base_delay_seconds=self._engine.policy.base_delay_seconds,
            max_delay_seconds=self._engine.policy.max_delay_seconds,
        )
        away_seconds = steady - self._away_since
        self._engine.feed.publish(StoreRetried(self._stream, self._attempts, away_seconds, wait_seconds, str(error)))
        async with self._engine.stop.interruptible():
            await clock.sleep_until(now + timedelta(seconds=wait_seconds))
