"""Erasing a person from SQLite, and removing a stream: nothing of it is left in the file, and nothing comes back."""

import asyncio
import sqlite3
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from milepost.core.errors import StoreAway
from milepost.core.model import Stream
from milepost.stores.commit import Forgotten, removal
from milepost.stores.reader import StreamRows
from milepost.stores.sqlite.commit import SqliteWriter
from milepost.stores.sqlite.connection import transaction
from milepost.stores.sqlite.migrate import open_current
from milepost.stores.sqlite.queries import at_once
from milepost.stores.sqlite.store import CACHE_KIB

# A large commit or a checkpoint of the daemon may hold the database for seconds.
TIMEOUT_SECONDS = 30.0
CHECKPOINT_TIMEOUT_MILLISECONDS = 2_000


async def forget_in_sqlite(path: Path, stream: Stream, contact_id: str) -> Forgotten:
    """Erase a contact of a page, with their conversations, messages and dead letters' payloads, and keep them out.

    Whatever page they stood under when they were written: an account that moves to another page takes its people along.

    Works beside a running daemon, which waits while the events are read through once. A contact that is not stored is
    kept out as well. A dead letter's part in the journal, which never names a person, stays; the daemon closes it.

    What was erased is overwritten in the database and, unless a reader holds it, the WAL is emptied. Backups, snapshots
    of the file system and what the disk itself has moved elsewhere still hold it.

    Raises StoreRefused if there is no database of this program's schema, StoreAway if it does not answer.
    """

    def forget(connection: sqlite3.Connection) -> Forgotten:
        with transaction(connection):
            return at_once(SqliteWriter(database.sql, connection).erase(stream, contact_id))

    async with open_current(path, pragmas={"secure_delete": "ON"}, timeout_seconds=TIMEOUT_SECONDS) as database:
        forgotten = await database.write(forget)
        with suppress(StoreAway):
            await database.run(empty_wal)
    return forgotten


async def remove_from_sqlite(path: Path, stream: Stream, by: str, now: datetime) -> StreamRows | None:
    """Remove a stream with all its rows and return how many there were; None where nothing is stored of it.

    Holds the database alone: a daemon has the stream in memory. The entry and the deletions are one transaction, so
    readers see the stream whole until it is gone. What is deleted is overwritten as for a person, and the WAL emptied.

    Raises StoreRefused if there is no database of this program's schema, StoreBusy if a daemon holds it, StoreAway if
    it does not answer.
    """

    def remove(connection: sqlite3.Connection) -> StreamRows | None:
        writer = SqliteWriter(database.sql, connection)
        with transaction(connection):
            commit = removal(at_once(writer.load(stream)), by, now)
            if commit is None:
                return None
            rows = at_once(writer.count_rows(stream))
            writer.write([commit], 1)
        return rows

    pragmas: dict[str, str | int] = {"secure_delete": "ON", "synchronous": "FULL", "cache_size": -CACHE_KIB}
    async with open_current(path, pragmas=pragmas, is_alone=True, timeout_seconds=TIMEOUT_SECONDS) as database:
        try:
            removed = await database.run(remove)
        except asyncio.CancelledError:
            await database.interrupt()  # or the thread would go on, and commit what was abandoned
            raise
        with suppress(StoreAway):
            await database.run(empty_wal)
    return removed


def empty_wal(connection: sqlite3.Connection) -> None:
    """Leave nothing in the WAL of what was overwritten in the database, unless a reader holds it."""
    connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_TIMEOUT_MILLISECONDS}")  # writers wait while it waits
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
