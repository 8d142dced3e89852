"""The store, waited for while it is away: the one thing that the journal cannot record while it lasts.

Readers are told of each attempt without a seq, and the next commit that succeeds carries how long it lasted.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from milepost.core.checkpoint import Checkpoint
from milepost.core.codec import Codec
from milepost.core.decide import Record, prepare
from milepost.core.errors import StoreAway
from milepost.core.events import StoreReturned
from milepost.core.model import Keys, Known
from milepost.core.ports import Commit, Committed
from milepost.core.retry import backoff_seconds
from milepost.engine.feed import StoreRetried
from milepost.engine.shared import Shared

Answer = TypeVar("Answer")


class PatientStore:
    """One run's way to the store. While the store is away it waits, until `give_up_at` or until a stop is asked for."""

    def __init__(self, shared: Shared, stream: str, give_up_at: datetime) -> None:
        self._shared = shared
        self._stream = stream
        self._give_up_at = give_up_at
        self._codec = Codec()
        self._away_since: datetime | None = None
        self._attempts = 0

    async def recall(self) -> Checkpoint:
        """Give the stream's checkpoint. Raises StoreAway if the store stays away."""
        return await self._insist(lambda: self._shared.store.recall(self._stream))

    async def known(self, keys: Keys) -> Known:
        """Give what is stored under the keys. Raises StoreAway if the store stays away."""
        return await self._insist(lambda: self._shared.store.known(keys))

    async def commit(self, checkpoint: Checkpoint, record: Record, run_id: str) -> tuple[Commit, Committed]:
        """Store a decision. Raises StoreAway if the store stays away, VersionConflict if another writer was first."""

        async def attempt() -> tuple[Commit, Committed]:
            commit = self._prepared(checkpoint, record, run_id)
            return commit, await self._shared.store.commit(commit)

        answer = await self._insist(attempt)
        self._away_since, self._attempts = None, 0
        return answer

    def _prepared(self, checkpoint: Checkpoint, record: Record, run_id: str) -> Commit:
        now = self._shared.clock.now()
        if self._away_since is not None:
            away_seconds = (now - self._away_since).total_seconds()
            record = Record((StoreReturned(away_seconds, self._attempts), *record.events), record.changes)
        return prepare(checkpoint, record, run_id, now, self._codec)

    async def _insist(self, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        while True:
            try:
                return await attempt()
            except StoreAway as error:
                await self._wait_or_give_up(error)

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
