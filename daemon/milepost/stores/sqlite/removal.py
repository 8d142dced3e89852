"""Removing a stream from SQLite: its entry and the deletion of its rows are one transaction."""

import asyncio
import sqlite3
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from milepost.core.errors import StoreAway
from milepost.core.journal import Codec
from milepost.core.model import Stream
from milepost.stores.removal import StreamRows, removal
from milepost.stores.sql import load_statements
from milepost.stores.sqlite.commit import write
from milepost.stores.sqlite.connection import connect, real_path, transaction
from milepost.stores.sqlite.erasure import TIMEOUT_SECONDS, empty_wal
from milepost.stores.sqlite.lock import lock_database
from milepost.stores.sqlite.migrate import demand_current
from milepost.stores.sqlite.queries import count_rows, load
from milepost.stores.sqlite.store import CACHE_KIB


async def remove_from_sqlite(path: Path, stream: Stream, by: str, now: datetime) -> StreamRows | None:
    """Remove a stream with all its rows and return how many there were; None where nothing is stored of it.

    Holds the database alone: a daemon has the stream in memory. What is deleted is overwritten, as it is for a person
    who is forgotten, and the WAL is emptied. Readers see the stream whole until it is gone.

    Raises StoreRefused if there is no database of this program's schema, StoreBusy if a daemon holds it, StoreAway if
    it does not answer.
    """
    path = real_path(path)
    await asyncio.to_thread(demand_current, path)
    pragmas: dict[str, str | int] = {"secure_delete": "ON", "synchronous": "FULL", "cache_size": -CACHE_KIB}
    with lock_database(path):
        async with connect(path, pragmas, timeout_seconds=TIMEOUT_SECONDS) as database:
            try:
                removed = await database.run(partial(_remove, load_statements("sqlite"), stream, by, now))
            except asyncio.CancelledError:
                await database.interrupt()  # or the thread would go on, and commit what was given up
                raise
            with suppress(StoreAway):
                await database.run(empty_wal)
    return removed


def _remove(
    sql: dict[str, str], stream: Stream, by: str, now: datetime, connection: sqlite3.Connection
) -> StreamRows | None:
    with transaction(connection):
        commit = removal(load(sql, Codec(), stream.key, connection), by, now)
        if commit is None:
            return None
        rows = count_rows(sql, stream, connection)
        write(sql, 1, commit, connection)
    return rows
