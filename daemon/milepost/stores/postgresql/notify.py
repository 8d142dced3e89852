"""Hears of commits, whichever worker made them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql

from milepost.stores.postgresql.connection import ANSWER_SECONDS, answering_within
from milepost.stores.postgresql.dsn import Dsn, dsn_of
from milepost.stores.url import StoreUrl

RECONNECT_SECONDS = 2.0
POLL_SECONDS = 1.0  # through a pooler nobody can listen
LISTEN_SECONDS = 30.0  # then it is looked whether the connection is still one


@asynccontextmanager
async def listening(store_url: StoreUrl, tell: Callable[[], None]) -> AsyncIterator[None]:
    """Call `tell` after every commit during the block, at least once after several that come together.

    It is told as well when the connection is there again, as what happened meanwhile was not heard; and every second
    where the URL leads through a pooler.
    """
    dsn = dsn_of(store_url)
    task = asyncio.create_task(_polled(tell) if dsn.is_pooled else _heard(dsn, tell), name="listening")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _polled(tell: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        tell()


async def _heard(dsn: Dsn, tell: Callable[[], None]) -> None:
    while True:
        try:
            await _hear(dsn, tell)
        except (psycopg.Error, OSError):  # the store tells of it
            await asyncio.sleep(RECONNECT_SECONDS)


async def _hear(dsn: Dsn, tell: Callable[[], None]) -> None:
    async with await psycopg.AsyncConnection.connect(
        dsn.conninfo, autocommit=True, **dsn.connect_kwargs()
    ) as connection:
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(dsn.channel)))
        tell()
        while True:
            async for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                tell()
            with answering_within(ANSWER_SECONDS, connection):
                await connection.execute("SELECT 1")
