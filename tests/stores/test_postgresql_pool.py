"""The pool of connections: a task that waits for one can be cancelled at any moment, and no connection is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from kit.postgres import Database
from milepost.stores.postgresql import connection as connecting
from milepost.stores.postgresql.connection import MAX_CONNECTIONS, Connection, connected
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.sql import load_statements

STEPS = 40  # of the event loop, more than it takes to hand a connection over


@pytest.fixture
async def pooled(database: Database) -> AsyncIterator[connecting.Database]:
    async with connected(dsn_of(database.store_url), load_statements("postgresql")) as pooled:
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
            await asyncio.wait([asking], timeout=20)
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
