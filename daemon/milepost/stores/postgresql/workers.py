"""Who works on a PostgreSQL database: the workers that have given a sign of life."""

import psycopg

from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.errors import errors_of
from milepost.stores.sql import load_statements
from milepost.stores.url import StoreUrl

ALIVE_SECONDS = 20.0  # since the last heartbeat; after that a worker counts as dead


async def are_at_work(store_url: StoreUrl) -> bool:
    """Whether any worker is at work. Raises StoreRefused or StoreAway where that cannot be told."""
    dsn, sql = dsn_of(store_url), load_statements("postgresql") | load_statements("postgresql", "queue")
    with errors_of(dsn.name):
        async with await psycopg.AsyncConnection.connect(dsn.conninfo, **dsn.connect_kwargs()) as connection:
            await connection.execute(sql["settings"], {"schema": dsn.schema, "statement_timeout": "30s"})
            (has_queue,) = await (await connection.execute(sql["has_queue_schema"])).fetchone() or (False,)
            if not has_queue:
                return False
            (alive,) = await (await connection.execute(sql["workers_at_work"], (ALIVE_SECONDS,))).fetchone() or (0,)
            return bool(alive)
