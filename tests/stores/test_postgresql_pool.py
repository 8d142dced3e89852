"""The pool of connections: a task that waits for one can be cancelled at any moment, and no connection is lost."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from kit.postgres import Database
from milepost.stores.open import open_reader, open_store
from milepost.stores.postgresql import connection as connecting
from milepost.stores.postgresql.connection import MAX_CONNECTIONS, Connection, connected
from milepost.stores.postgresql.reader import MAX_READERS, listening
from milepost.stores.reader import load_statements
from stores.histories import live, stream

STEPS = 40  # of the event loop, more than it takes to hand a connection over


@pytest.fixture
async def pooled(database: Database) -> AsyncIterator[connecting.Database]:
    async with connected(database.store_url, load_statements("postgresql")) as pooled:
        yield pooled


async def test_a_task_that_is_cancelled_as_its_connection_arrives_is_cancelled(
    pooled: connecting.Database,
) -> None:
    """`asyncio.wait_for`, with which the pool waits, may lose a cancellation on Python 3.11."""

    async def ask_for_ever() -> None:
        while True:
            await pooled.rows("answers")
            await asyncio.sleep(3600)

    for steps in range(STEPS):
        async with AsyncExitStack() as all_but_one:
            for _ in range(MAX_CONNECTIONS - 1):
                await all_but_one.enter_async_context(pooled.connection())
            async with pooled.connection():
                asking = asyncio.create_task(ask_for_ever())
                while not pooled.pool.get_stats()["requests_waiting"]:  # noqa: ASYNC110  (the pool has no event of it)
                    await asyncio.sleep(0)
            for _ in range(steps):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking], timeout=60)
            assert asking.cancelled(), f"it goes on, cancelled {steps} steps after a connection was free"


async def test_a_task_that_is_cancelled_while_a_connection_is_checked_returns_it(
    pooled: connecting.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()

    async def silent(_: Connection) -> bool:
        tried.set()
        await asyncio.sleep(3600)
        return True

    with monkeypatch.context() as frozen:
        frozen.setattr(connecting, "_answers", silent)
        for _ in range(MAX_CONNECTIONS + 1):
            tried.clear()
            asking = asyncio.create_task(pooled.rows("answers"))
            async with asyncio.timeout(60):
                await tried.wait()
            asking.cancel()
            await asyncio.wait([asking])

    await pooled.rows("answers")


OPEN = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND usename = 'milepost'
"""


async def test_store_readers_and_queue_share_their_connections(database: Database) -> None:
    """This holds for any number of concurrent users. The listener has one connection besides the pool's."""

    async def ask_often(ask: Callable[[], Awaitable[object]]) -> None:
        for _ in range(5):
            await asyncio.gather(*(ask() for _ in range(10)))

    store_url = database.store_url
    async with (
        open_store(database.store_url) as store,
        open_reader(database.store_url) as reader,
        connected(store_url, load_statements("postgresql")) as queue,
        listening(database.store_url, lambda: None),
    ):
        await asyncio.gather(
            ask_often(store.answers),
            ask_often(lambda: reader.latest(limit=1)),
            ask_often(lambda: queue.rows("answers")),
            *(live(store, stream(number), 3) for number in range(16)),
        )
        async with asyncio.timeout(60):  # the server may still be ending one that was closed
            while database.sql(OPEN)[0][0] > MAX_CONNECTIONS + 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    # The pool is another one after the last left.
    async with connected(store_url, load_statements("postgresql")) as alone:
        assert alone.pool is not queue.pool
        await alone.rows("answers")


async def test_readers_leave_connections_for_the_commits(database: Database) -> None:
    async with open_store(database.store_url) as store, open_reader(database.store_url) as reader:
        with database.connect() as other:
            other.execute("BEGIN; LOCK TABLE runs")
            reading = [asyncio.ensure_future(reader.runs(limit=1)) for _ in range(2 * MAX_CONNECTIONS)]
            async with asyncio.timeout(60):
                while database.sql(f"{OPEN} AND wait_event_type = 'Lock'") != [(MAX_READERS,)]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert await store.checkpoints() == []
            other.execute("COMMIT")
        await asyncio.gather(*reading)
