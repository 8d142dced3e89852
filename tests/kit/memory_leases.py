"""The queue of leases in memory, for workers in one process, and a journal to follow."""

import asyncio
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualClock
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import StoreAway
from milepost.fleet.leases import Lease
from milepost.stores import rows
from milepost.stores.postgresql.reader import ALIVE_SECONDS
from milepost.stores.reader import StoredEntry

ROUND_TRIP_SECONDS = 0.001


class Jobs:
    """The database: which worker has the lease of a stream (0: nobody yet), and the last heartbeats."""

    def __init__(self) -> None:
        self.leases: dict[str, tuple[int, int]] = {}  # by stream: the job and the worker
        self.alive_at: dict[int, datetime] = {}
        self.is_away = False
        self.calls = 0
        self.numbers = iter(range(1, 1_000_000))


class MemoryLeases:
    """Leases of one worker. The next `losses` calls of `end` fail without effect."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.losses = 0
        self.most = 0  # the most leases that it ever had at once
        self._clock = VirtualClock()
        self.worker_id = next(jobs.numbers)
        jobs.alive_at[self.worker_id] = self._clock.now()

    async def keep_alive(self) -> None:
        await self._answer()
        if self.worker_id not in self.jobs.alive_at:
            self.worker_id = next(self.jobs.numbers)
        self.jobs.alive_at[self.worker_id] = self._clock.now()

    async def recover(self) -> list[str]:
        await self._answer()
        silent_since = self._clock.now() - timedelta(seconds=ALIVE_SECONDS)
        for worker_id in [each for each, at in self.jobs.alive_at.items() if at < silent_since]:
            del self.jobs.alive_at[worker_id]
        leases = self.jobs.leases
        left = [stream for stream, (_, by) in leases.items() if by and by not in self.jobs.alive_at]
        leases.update({stream: (leases[stream][0], 0) for stream in left})
        return left

    async def is_first(self) -> bool:
        await self._answer()
        return self.worker_id == min(self.jobs.alive_at, default=0)

    async def offer(self, streams: Iterable[str]) -> None:
        await self._answer()
        for stream in streams:
            self.jobs.leases.setdefault(stream, (next(self.jobs.numbers), 0))

    async def take(self, streams: Collection[str]) -> Lease | None:
        await self._answer()
        for stream, (job_id, by) in self.jobs.leases.items():
            if stream in streams and not by:
                self.jobs.leases[stream] = job_id, self.worker_id
                self.most = max(self.most, sum(each == self.worker_id for _, each in self.jobs.leases.values()))
                return Lease(stream, job_id, self.worker_id)
        return None

    async def end(self, lease: Lease) -> None:
        await self._answer()
        if self.losses:
            self.losses -= 1
            raise StoreAway("the server restarts")
        if self.jobs.leases.get(lease.stream) == (lease.job_id, lease.worker_id):
            del self.jobs.leases[lease.stream]

    async def is_held_elsewhere(self, stream: str) -> bool:
        await self._answer()
        _, by = self.jobs.leases.get(stream, (0, 0))
        return by not in (0, self.worker_id)

    async def release_all_but(self, job_ids: Collection[int]) -> None:
        await self._answer()
        for stream, (job_id, by) in self.jobs.leases.items():
            if by == self.worker_id and job_id not in job_ids:
                self.jobs.leases[stream] = job_id, 0

    async def _answer(self) -> None:
        await asyncio.sleep(ROUND_TRIP_SECONDS)
        self.jobs.calls += 1
        if self.jobs.is_away:
            raise StoreAway("the server restarts")


class MemoryJournal:
    """The part of a store that a follower reads."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def checkpoints(self) -> list[Checkpoint]:
        return [rows.checkpoint(each) for each in self._store.checkpoints.values()]

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        rows = self._store.journal[after : after + limit]
        return [StoredEntry(after + number, self._store._entry(row)) for number, row in enumerate(rows, start=1)]

    async def latest(self, *, limit: int, stream: str | None = None) -> list[StoredEntry]:
        return await self.entries(after=max(0, len(self._store.journal) - limit), limit=limit)
