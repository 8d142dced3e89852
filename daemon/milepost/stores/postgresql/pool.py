"""One pool of connections for each database of a process: its store, its readers and its queue share it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from msgspec import Struct
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from milepost.stores.postgresql.dsn import Dsn
from milepost.stores.postgresql.errors import errors_of

Connection = psycopg.AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]

MAX_CONNECTIONS = 6
POOL_TIMEOUT_SECONDS = 10.0
MAX_IDLE_SECONDS = 120.0


class _Shared(Struct, eq=False):
    """A pool, and how many use it."""

    pool: Pool
    users: int = 0


_shared: dict[tuple[asyncio.AbstractEventLoop, Dsn], _Shared] = {}


@asynccontextmanager
async def shared_pool(dsn: Dsn) -> AsyncIterator[Pool]:
    """Yield the pool of a database; the last to leave closes it.

    Raises StoreAway or StoreRefused if no connection can be made.
    """
    key = asyncio.get_running_loop(), dsn
    if key not in _shared:
        await _demand_connection(dsn)
    if key not in _shared:  # nobody else was faster
        _shared[key] = _Shared(_new_pool(dsn))
    shared = _shared[key]
    shared.users += 1
    try:
        await shared.pool.open()
        yield shared.pool
    finally:
        shared.users -= 1
        if not shared.users:
            del _shared[key]
            await shared.pool.close()


async def _demand_connection(dsn: Dsn) -> None:
    """Make one connection by itself: it reports what is wrong, which the pool does not."""
    with errors_of(dsn.name):
        async with await psycopg.AsyncConnection.connect(dsn.conninfo, **dsn.connect_kwargs()):
            pass


def _new_pool(dsn: Dsn) -> Pool:
    return AsyncConnectionPool(
        dsn.conninfo,
        kwargs=dsn.connect_kwargs() | {"autocommit": True},  # psycopg would wait for its own BEGIN, even in a pipeline
        min_size=1,
        max_size=MAX_CONNECTIONS,
        max_idle=MAX_IDLE_SECONDS,
        timeout=POOL_TIMEOUT_SECONDS,
        reconnect_timeout=POOL_TIMEOUT_SECONDS,  # its waits double; the next request starts them over
        name=dsn.name,
        open=False,
    )
