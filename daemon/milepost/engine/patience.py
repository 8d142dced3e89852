"""Waits while the store is away: the one thing that the journal cannot record while it lasts.

Readers are told of each attempt without a seq, and the next commit that succeeds carries how long it lasted.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from milepost.core.errors import StoreAway
from milepost.core.events import StoreReturned
from milepost.core.retry import backoff_seconds
from milepost.engine.feed import StoreRetried
from milepost.engine.shared import Shared

Answer = TypeVar("Answer")


class Patience:
    """One turn's patience with the store: it waits until `give_up_at`, or until a stop is asked for."""

    def __init__(self, shared: Shared, stream: str, give_up_at: datetime) -> None:
        self._shared = shared
        self._stream = stream
        self._give_up_at = give_up_at
        self._away_since: datetime | None = None
        self._attempts = 0

    async def insist(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask the store until it answers. Raises StoreAway if it stays away."""
        while True:
            try:
                return await attempt()
            except StoreAway as error:
                await self._wait_or_give_up(error)

    def absence(self, now: datetime) -> tuple[StoreReturned, ...]:
        """Give what there is to record of an absence that is over with the commit at hand."""
        if self._away_since is None:
            return ()
        return (StoreReturned((now - self._away_since).total_seconds(), self._attempts),)

    def is_recorded(self) -> None:
        """Hear that the absence, if any, is on record."""
        self._away_since, self._attempts = None, 0

    async def _wait_or_give_up(self, error: StoreAway) -> None:
        now = self._shared.clock.now()
        self._away_since = self._away_since or now
        self._attempts += 1
        if self._shared.stop.is_requested or now >= self._give_up_at:
            raise error
        wait_seconds = backoff_seconds(
            self._attempts,
            self._shared.clock.luck(),
            base_delay_seconds=self._shared.policy.base_delay_seconds,
            max_delay_seconds=self._shared.policy.max_delay_seconds,
        )
        away_seconds = (now - self._away_since).total_seconds()
        self._shared.feed.publish(StoreRetried(self._stream, self._attempts, away_seconds, wait_seconds, str(error)))
        async with self._shared.stop.cut_short():
            await self._shared.clock.sleep_until(now + timedelta(seconds=wait_seconds))
