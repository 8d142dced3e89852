"""The turns of streams as jobs of Procrastinate: a job a stream and turn, with the stream as its lock.

Procrastinate gives each job to one worker, holds back a stream's second job while the first is done, and knows which
workers are alive. What is due is not in it: that is in the journal, so that no chain of jobs can break.
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
from milepost.stores.postgresql.notify import ALIVE_SECONDS
from milepost.stores.postgresql.rights import kept_private

TASK = "milepost.turn"


class Lease(Struct, frozen=True):
    """A stream that is this worker's to work. `worker_id` is who it was given to."""

    stream: str
    job_id: int
    worker_id: int


class Leases(Protocol):
    """The queue as one worker uses it. Its methods raise StoreAway or StoreRefused."""

    async def keep_alive(self) -> None:
        """Say that this worker is alive; it joins where it has not, or was taken for dead."""
        ...

    async def recover(self) -> list[str]:
        """Have the streams of dead workers worked by others, and name them. One worker at a time looks for them."""
        ...

    async def offer(self, streams: Iterable[str]) -> None:
        """Have each of these streams worked once, by whoever is free; one that has a job already is left alone."""
        ...

    async def take(self, streams: Collection[str]) -> Lease | None:
        """Take the turn of one of these streams, if one waits."""
        ...

    async def give_back_all_but(self, job_ids: Collection[int]) -> None:
        """Have others work the streams whose turns are this worker's without its knowing: an answer was lost."""
        ...

    async def end(self, lease: Lease) -> None:
        """Say that the turn is over. Of a worker that was taken for dead meanwhile it is another one's by now."""
        ...


class _Connector(PsycopgConnector):
    """Procrastinate's queries, each in a transaction that brings its settings: nothing of a session is relied on."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    async def execute_query_async(self, query: str, **arguments: Any) -> None:  # noqa: ANN401  (as Procrastinate has it)
        await self.execute_query_all_async(query, **arguments)  # all of its statements give rows, if only empty ones

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
    """A Queue in PostgreSQL. Made by `open_queue`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs = JobManager(_Connector(database))
        self._worker_id: int | None = None

    async def join(self) -> int:
        """Count as a worker that is alive, from now on. Who was taken for dead comes back as another one."""
        with self._errors():
            self._worker_id = await self._jobs.register_worker()
        return self._worker_id

    async def leave(self) -> None:
        """Count as a worker no more. Where the database does not answer, silence tells the others."""
        worker_id, self._worker_id = self._worker_id, None
        if worker_id is not None:
            with suppress(MilepostError), self._errors():
                await self._jobs.unregister_worker(worker_id)

    async def keep_alive(self) -> None:
        """Say that this worker is alive; it joins where it has not, or was taken for dead."""
        worker_id = self._worker_id
        if worker_id is None or not await self._is_known(worker_id):
            await self.join()
            return
        with self._errors():
            await self._jobs.update_heartbeat(worker_id)

    async def recover(self) -> list[str]:
        """Have the streams of dead workers worked by others, and name them. One worker at a time looks for them."""
        async with self._database.transaction() as connection:
            locked = await connection.execute(self._database.sql["try_lock_recovery"])
            if await locked.fetchone() != (True,):
                return []
            with self._errors():
                stalled = list(await self._jobs.get_stalled_jobs(seconds_since_heartbeat=ALIVE_SECONDS))
                for job in stalled:
                    await self._give_back(job)
                await self._jobs.prune_stalled_workers(ALIVE_SECONDS)
        return [job.queue for job in stalled]

    async def offer(self, streams: Iterable[str]) -> None:
        """Have each of these streams worked once, by whoever is free; one that has a job already is left alone."""
        wanted = set(streams)
        if not wanted:
            return
        with self._errors():
            busy = {job.queue for job in await self._jobs.list_jobs_async(task=TASK)}
            for stream in sorted(wanted - busy):
                job = Job(queue=stream, lock=stream, queueing_lock=stream, task_name=TASK)
                try:
                    await self._jobs.defer_job_async(job)
                except exceptions.AlreadyEnqueued:  # by another worker, just now
                    continue

    async def take(self, streams: Collection[str]) -> Lease | None:
        """Take the turn of one of these streams, if one waits."""
        worker_id = self._worker_id
        if worker_id is None or not streams:
            return None
        with self._errors():
            job = await self._jobs.fetch_job(queues=list(streams), worker_id=worker_id)
        return None if job is None or job.id is None else Lease(job.queue, job.id, worker_id)

    async def give_back_all_but(self, job_ids: Collection[int]) -> None:
        """Have others work the streams whose turns are this worker's without its knowing: an answer was lost."""
        if self._worker_id is None:
            return
        with self._errors():
            ours = await self._jobs.list_jobs_async(task=TASK, status=Status.DOING.value, worker_id=self._worker_id)
            for job in ours:
                if job.id not in job_ids:
                    await self._give_back(job)

    async def end(self, lease: Lease) -> None:
        """Say that the turn is over. Of a worker that was taken for dead meanwhile it is another one's by now."""
        with self._errors():
            if await self._jobs.list_jobs_async(id=lease.job_id, worker_id=lease.worker_id):
                await self._jobs.finish_job_by_id_async(lease.job_id, Status.SUCCEEDED, delete_job=True)

    async def _give_back(self, job: Job) -> None:
        try:
            await self._jobs.retry_job(job)
        except exceptions.UniqueViolation:  # another job waits for the stream already
            await self._jobs.finish_job(job, Status.ABORTED, delete_job=True)

    async def _is_known(self, worker_id: int) -> bool:
        return bool(await self._database.rows("is_worker", (worker_id,)))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ConnectorException as error:
            raise _meaning(error.__cause__ or error, self._database.dsn.name) from error


def _meaning(error: BaseException, name: str) -> MilepostError:
    match error:
        case psycopg.errors.ForeignKeyViolation():
            return StoreAway("this worker was taken for dead", hint="it joins the others again")
        case psycopg.errors.RaiseException():
            return StoreAway("a turn was ended by another worker just now", hint="it is looked at again")
        case psycopg.Error() | OSError():
            return translated(error, name)
        case _:
            return StoreAway(f"the queue in {name} does not answer: {error}", hint="it is tried again")


@asynccontextmanager
async def open_queue(database: Database) -> AsyncIterator[StreamLeases]:
    """Make Procrastinate's tables where they are missing, and leave the queue in the end."""
    async with database.transaction() as connection:
        await connection.execute(database.sql["lock_queue_schema"])
        found = await connection.execute(database.sql["has_queue_schema"])
        if await found.fetchone() == (False,):
            async with kept_private(connection, database.dsn.schema):
                await connection.execute(SchemaManager.get_schema())
    queue = StreamLeases(database)
    await queue.join()
    try:
        yield queue
    finally:
        await queue.leave()
