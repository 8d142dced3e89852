"""What a worker learns of others: their commits, as PostgreSQL announces them, and whether any is alive."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql

from milepost.stores.postgresql.connection import ANSWER_SECONDS, settings
from milepost.stores.postgresql.errors import errors_of
from milepost.stores.postgresql.liveness import answering_within
from milepost.stores.sql import load_statements
from milepost.stores.url import StoreUrl

RECONNECT_SECONDS = 2.0
POLL_SECONDS = 1.0  # for connections through a pooler, which cannot listen
LISTEN_SECONDS = 30.0  # after so long without a notification, the connection is checked
ALIVE_SECONDS = 20.0  # since the last heartbeat; after that a worker counts as dead


@asynccontextmanager
async def listening(store_url: StoreUrl, on_commit: Callable[[], None]) -> AsyncIterator[None]:
    """Call `on_commit` after every commit during the block, or once for several that come together.

    It is also called after a reconnection, as notifications may have been missed, and every second if the URL leads
    through a pooler.
    """
    task = asyncio.create_task(
        _poll(on_commit) if store_url.is_pooled else _listen_always(store_url, on_commit), name="listening"
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _poll(on_commit: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        on_commit()


async def _listen_always(store_url: StoreUrl, on_commit: Callable[[], None]) -> None:
    while True:
        try:
            await _listen(store_url, on_commit)
        except (psycopg.Error, OSError):  # the store reports it
            await asyncio.sleep(RECONNECT_SECONDS)


async def _listen(store_url: StoreUrl, on_commit: Callable[[], None]) -> None:
    async with await psycopg.AsyncConnection.connect(
        store_url.url, autocommit=True, **store_url.connect_kwargs()
    ) as connection:
        with answering_within(ANSWER_SECONDS, connection):
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(store_url.channel)))
        on_commit()
        while True:
            async for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                on_commit()
            with answering_within(ANSWER_SECONDS, connection):
                await connection.execute("SELECT 1")


async def are_at_work(store_url: StoreUrl) -> bool:
    """Return whether any worker is alive. Raises StoreRefused or StoreAway where that cannot be determined."""
    statements = load_statements("postgresql", "statements", "queue")
    with errors_of(store_url.name):
        connection = await psycopg.AsyncConnection.connect(store_url.url, **store_url.connect_kwargs())
        with answering_within(ANSWER_SECONDS, connection):
            async with connection:
                await connection.execute(statements["settings"], settings(store_url.schema))
                (has_queue,) = await (await connection.execute(statements["has_queue_schema"])).fetchone() or (False,)
                if not has_queue:
                    return False
                alive = await connection.execute(statements["workers_at_work"], (ALIVE_SECONDS,))
                (count,) = await alive.fetchone() or (0,)
                return bool(count)
