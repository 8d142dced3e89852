"""Who works on a PostgreSQL database: the workers that have given a sign of life."""

import psycopg

from milepost.stores.place import Place
from milepost.stores.postgresql.address import address_of
from milepost.stores.postgresql.failures import errors_of
from milepost.stores.queries import load

ALIVE_SECONDS = 20.0  # since the last heartbeat; after that a worker counts as dead


async def are_at_work(place: Place) -> bool:
    """Whether any worker is at work. Raises StoreRefused or StoreAway where that cannot be told."""
    address, sql = address_of(place), load("postgresql") | load("postgresql", "queue")
    with errors_of(address.name):
        async with await psycopg.AsyncConnection.connect(address.conninfo, **address.connect_kwargs()) as connection:
            await connection.execute(sql["settings"], {"schema": address.schema, "statement_timeout": "30s"})
            (has_queue,) = await (await connection.execute(sql["has_queue_schema"])).fetchone() or (False,)
            if not has_queue:
                return False
            (alive,) = await (await connection.execute(sql["workers_at_work"], (ALIVE_SECONDS,))).fetchone() or (0,)
            return bool(alive)
