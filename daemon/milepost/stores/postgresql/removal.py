"""Removing a stream from PostgreSQL: its entry and the deletion of its rows are one transaction."""

from contextlib import AsyncExitStack
from datetime import datetime

from psycopg.rows import TupleRow

from milepost.core.journal import Codec
from milepost.core.model import Changes, Stream
from milepost.stores.postgresql.commit import Prepared, write
from milepost.stores.postgresql.connection import NO_TIMEOUT, Parameters, connected
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.migrate import demand_current
from milepost.stores.postgresql.queries import load
from milepost.stores.removal import StreamRows, names_of, removal
from milepost.stores.sql import load_statements
from milepost.stores.url import StoreUrl


async def remove_from_postgresql(store_url: StoreUrl, stream: Stream, by: str, now: datetime) -> StreamRows | None:
    """Remove a stream with all its rows and return how many there were; None where nothing is stored of it.

    Works beside workers: those of other streams go on, and one that works this stream finds at its next commit that the
    stream has moved on. The server itself overwrites what was deleted when it vacuums the tables.

    Raises StoreRefused if there is no schema of this program's, StoreAway if the database does not answer.
    """
    dsn = dsn_of(store_url)
    await demand_current(dsn)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(connected(dsn, load_statements("postgresql")))
        await database.demand_finished()
        connection = await stack.enter_async_context(database.transaction(statement_timeout=NO_TIMEOUT))

        async def ask(statement: str, parameters: Parameters) -> list[TupleRow]:
            return await (await connection.execute(database.sql[statement], parameters)).fetchall()

        await ask("lock_streams", {"streams": [stream.key]})  # so that nobody writes of it until this is committed
        commit = removal(await load(ask, Codec(), stream.key), by, now)
        if commit is None:
            return None
        (counts,) = await ask("count_stream_rows", names_of(stream))
        await write(database, connection, [Prepared(commit, Changes(), (), ())], 1)
    return StreamRows(*counts)
