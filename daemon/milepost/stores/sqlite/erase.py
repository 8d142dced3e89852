"""Erases a person from SQLite, or removes a stream: nothing is left in the file, and nobody erased comes back."""

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

    It covers rows written under other pages, too: an account that moves to another page takes its people along.

    Works beside a running daemon, which waits while the messages are scanned once. A contact that is not stored is kept
    out as well. A dead letter's entries in the journal, which never name a person, stay; the daemon closes it.

    Erased data is overwritten in the database, and the WAL is emptied unless a reader holds it. Backups, snapshots of
    the file system and blocks that the disk itself has moved still hold the data.

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
    """Remove a stream with all its rows and return how many there were, or None if nothing of it is stored.

    Locks the database, as a daemon would have the stream in memory. The entry and the deletions are one transaction, so
    readers see the whole stream until it is gone. As for a person, deleted data is overwritten and the WAL emptied.

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
            await database.interrupt()  # or the thread would go on, and commit after the cancellation
            raise
        with suppress(StoreAway):
            await database.run(empty_wal)
    return removed


def empty_wal(connection: sqlite3.Connection) -> None:
    """Empty the WAL, so that it holds no erased data, unless a reader holds it."""
    connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_TIMEOUT_MILLISECONDS}")  # writers wait as long as this does
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
