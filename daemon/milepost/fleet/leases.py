"""Leases on streams as jobs of Procrastinate: one job for each run of a stream, with the stream as its lock.

Procrastinate gives each job to one worker, holds back a stream's second job while the first runs, and knows which
workers are alive. The schedule comes from the journal and not from the queue, so that no chain of jobs can break.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

import psycopg
from msgspec import Struct
from procrastinate import exceptions
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.psycopg_connector import PsycopgConnector
from procrastinate.schema import SchemaManager

from milepost.core.errors import MilepostError, StoreAway
from milepost.stores.postgresql.connection import Database
from milepost.stores.postgresql.errors import translated
from milepost.stores.postgresql.reader import ALIVE_SECONDS
from milepost.stores.postgresql.rights import kept_private

TASK = "milepost.turn"  # never change it: it is stored in the queue


class Lease(Struct, frozen=True):
    """The right to run a stream, held by the worker `worker_id`."""

    stream: str
    job_id: int
    worker_id: int


class Leases(Protocol):
    """The queue as one worker sees it. Its methods raise StoreAway or StoreRefused."""

    async def keep_alive(self) -> None:
        """Send a heartbeat; join first if this worker has not joined, or was declared dead."""
        ...

    async def recover(self) -> list[str]:
        """Release the leases of dead workers and return their streams. One worker at a time does this."""
        ...

    async def offer(self, streams: Iterable[str]) -> None:
        """Queue a job for each of these streams, unless it has one."""
        ...

    async def take(self, streams: Collection[str]) -> Lease | None:
        """Take the lease of one of these streams, if one is queued."""
        ...

    async def release_all_but(self, job_ids: Collection[int]) -> None:
        """Release leases that this worker holds without knowing, because an answer of the database was lost."""
        ...

    async def end(self, lease: Lease) -> None:
        """End a lease. If this worker was declared dead meanwhile, the lease belongs to another one and stays."""
        ...

    async def is_held_elsewhere(self, stream: str) -> bool:
        """Return whether another worker has the lease of a stream."""
        ...

    async def is_first(self) -> bool:
        """Return whether no worker that is alive has joined before this one."""
        ...


class _Connector(PsycopgConnector):
    """Runs each query of Procrastinate in a transaction with its own settings, independent of any session."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    async def execute_query_async(self, query: str, **arguments: Any) -> None:  # noqa: ANN401  (Procrastinate's signature)
        await self.execute_query_all_async(query, **arguments)  # all its statements return rows, if only empty ones

    async def execute_query_one_async(self, query: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
        async with self._database.transaction() as connection:
            row: dict[str, Any] = await self.execute_query_one_async_with_connection(connection, query, **arguments)
            return row

    async def execute_query_all_async(self, query: str, **arguments: Any) -> list[dict[str, Any]]:  # noqa: ANN401
        async with self._database.transaction() as connection:
            rows: list[dict[str, Any]]
            rows = await self.execute_query_all_async_with_connection(connection, query, **arguments)
            return rows


class StreamLeases:
    """Leases in PostgreSQL. Made by `open_leases`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs = JobManager(_Connector(database))
        self._worker_id: int | None = None

    async def join(self) -> int:
        """Register as a live worker. A worker that was declared dead returns under a new id."""
        with self._errors():
            self._worker_id = await self._jobs.register_worker()
        return self._worker_id

    async def leave(self) -> None:
        """Deregister. If the database is unavailable, the missing heartbeat has the same effect."""
        worker_id, self._worker_id = self._worker_id, None
        if worker_id is not None:
            with suppress(MilepostError), self._errors():
                await self._jobs.unregister_worker(worker_id)

    async def keep_alive(self) -> None:
        """Send a heartbeat; join first if this worker has not joined, or was declared dead."""
        worker_id = self._worker_id
        if worker_id is None or not await self._database.rows("is_worker", (worker_id,)):
            await self.join()
            return
        with self._errors():
            await self._jobs.update_heartbeat(worker_id)

    async def recover(self) -> list[str]:
        """Release the leases of dead workers and return their streams. One worker at a time does this."""
        async with self._database.transaction() as connection:
            locked = await connection.execute(self._database.sql["try_lock_recovery"])
            if await locked.fetchone() != (True,):
                return []
            with self._errors():
                stalled = list(await self._jobs.get_stalled_jobs(seconds_since_heartbeat=ALIVE_SECONDS))
                for job in stalled:
                    await self._release(job)
                await self._jobs.prune_stalled_workers(ALIVE_SECONDS)
        return [job.queue for job in stalled]

    async def offer(self, streams: Iterable[str]) -> None:
        """Queue a job for each of these streams, unless it has one."""
        wanted = set(streams)
        if not wanted:
            return
        with self._errors():
            queued = {job.queue for job in await self._jobs.list_jobs_async(task=TASK)}
            for stream in sorted(wanted - queued):
                job = Job(queue=stream, lock=stream, queueing_lock=stream, task_name=TASK)
                try:
                    await self._jobs.defer_job_async(job)
                except exceptions.AlreadyEnqueued:  # another worker was faster
                    continue

    async def take(self, streams: Collection[str]) -> Lease | None:
        """Take the lease of one of these streams, if one is queued."""
        worker_id = self._worker_id
        if worker_id is None or not streams:
            return None
        with self._errors():
            job = await self._jobs.fetch_job(queues=list(streams), worker_id=worker_id)
        return None if job is None or job.id is None else Lease(job.queue, job.id, worker_id)

    async def release_all_but(self, job_ids: Collection[int]) -> None:
        """Release leases that this worker holds without knowing, because an answer of the database was lost."""
        if self._worker_id is None:
            return
        with self._errors():
            ours = await self._jobs.list_jobs_async(task=TASK, status=Status.DOING.value, worker_id=self._worker_id)
            for job in ours:
                if job.id not in job_ids:
                    await self._release(job)

    async def end(self, lease: Lease) -> None:
        """End a lease. If this worker was declared dead meanwhile, the lease belongs to another one and stays."""
        with self._errors():
            if await self._jobs.list_jobs_async(id=lease.job_id, worker_id=lease.worker_id):
                await self._jobs.finish_job_by_id_async(lease.job_id, Status.SUCCEEDED, delete_job=True)

    async def is_held_elsewhere(self, stream: str) -> bool:
        """Return whether another worker has the lease of a stream."""
        with self._errors():
            jobs = await self._jobs.list_jobs_async(task=TASK, queue=stream, status=Status.DOING.value)
        return any(job.worker_id != self._worker_id for job in jobs)

    async def is_first(self) -> bool:
        """Return whether no worker that is alive has joined before this one."""
        ((first,),) = await self._database.rows("first_worker", (ALIVE_SECONDS,))
        return first is not None and first == self._worker_id

    async def _release(self, job: Job) -> None:
        try:
            await self._jobs.retry_job(job)
        except exceptions.UniqueViolation:  # another job for the stream is queued already
            await self._jobs.finish_job(job, Status.ABORTED, delete_job=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ConnectorException as error:
            raise _translated(error.__cause__ or error, self._database.name) from error


def _translated(error: BaseException, name: str) -> MilepostError:
    match error:
        case psycopg.errors.ForeignKeyViolation():
            return StoreAway("this worker was declared dead", hint="it rejoins")
        case psycopg.errors.RaiseException():
            return StoreAway("another worker has ended this lease", hint="it is retried")
        case psycopg.Error() | OSError():
            return translated(error, name)
        case _:
            return StoreAway(f"the queue in {name} does not answer: {error}", hint="it is retried")


@asynccontextmanager
async def open_leases(database: Database) -> AsyncIterator[StreamLeases]:
    """Create Procrastinate's tables if they are missing, join, and leave at the end."""
    async with database.transaction() as connection:
        await connection.execute(database.sql["lock_queue_schema"])
        found = await connection.execute(database.sql["has_queue_schema"])
        if await found.fetchone() == (False,):
            async with kept_private(connection, database.store_url.schema):
                await connection.execute(SchemaManager.get_schema())
    leases = StreamLeases(database)
    await leases.join()
    try:
        yield leases
    finally:
        await leases.leave()
