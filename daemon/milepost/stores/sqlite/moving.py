"""A SQLite database as one of the two of a copy: held alone, so that no daemon works on it meanwhile."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

from milepost.core.errors import RowsRejected, StoreRefused
from milepost.core.journal import Codec
from milepost.stores.moving import Key, Row, Table
from milepost.stores.sql import load_statements
from milepost.stores.sqlite.commit import REFUSALS, reason_of
from milepost.stores.sqlite.connection import Database, connect, errors_of, lock_database, real_path, transaction
from milepost.stores.sqlite.files import close_to_others, create_private
from milepost.stores.sqlite.identity import OpenFiles
from milepost.stores.sqlite.migrate import applied, demand_current, mark_in, migrate
from milepost.stores.sqlite.reader import SqliteReader
from milepost.stores.sqlite.store import CACHE_KIB, WAL_PAGES
from milepost.stores.unfinished import Mark


@asynccontextmanager
async def open_sqlite_origin(path: Path) -> AsyncIterator["SqliteHouse"]:
    """Open the database at `path` for being copied. Raises StoreBusy, StoreRefused or StoreAway."""
    path = real_path(path)
    if not path.exists():  # before a lock is made beside it
        demand_current(path)
    with lock_database(path) as lock:
        await asyncio.to_thread(demand_current, path)
        pragmas: dict[str, str | int] = {"query_only": 1, "cache_size": -CACHE_KIB}
        async with connect(path, pragmas, files=OpenFiles(path, lock)) as database:
            yield SqliteHouse(database)


@asynccontextmanager
async def open_sqlite_target(path: Path) -> AsyncIterator["SqliteHouse"]:
    """Open the database at `path` for being copied into, made where there is none.

    Raises StoreBusy, StoreRefused or StoreAway.
    """
    path = real_path(path)
    pragmas: dict[str, str | int] = {
        "journal_mode": "WAL",
        "synchronous": "NORMAL",  # a power cut takes the last chunks, never one out of the middle; `set_mark` waits
        "wal_autocheckpoint": WAL_PAGES,
        "journal_size_limit": WAL_PAGES * 4096,
        "cache_size": -CACHE_KIB,
        "secure_delete": "ON",  # who was forgotten since an earlier attempt is overwritten
    }
    with lock_database(path) as lock:
        await asyncio.to_thread(create_private, path)
        await asyncio.to_thread(_prepare, path)
        await asyncio.to_thread(close_to_others, path)
        async with connect(path, pragmas, files=OpenFiles(path, lock)) as database:
            yield SqliteHouse(database)


def _prepare(path: Path) -> None:
    """Bring a new database, or the rest of a copy, to this program's schema. Raises StoreRefused for any other."""
    with errors_of(path), closing(sqlite3.connect(path, timeout=5.0)) as connection:
        if not applied(path) and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None:
            raise StoreRefused(f"{path} is the database of another program", hint="copy into a new file")
        is_new = not applied(path) or connection.execute("SELECT 1 FROM journal LIMIT 1").fetchone() is None
    if is_new or mark_in(path) is not None:
        migrate(path)
    else:
        demand_current(path)


class SqliteHouse:
    """An Origin and a Target (see stores/moving.py). Made by `open_sqlite_origin` and `open_sqlite_target`."""

    def __init__(self, database: Database) -> None:
        self.journal_reader = SqliteReader(database, Codec())
        self._database = database
        self._sql = load_statements("sqlite", "moving")

    async def read(self, table: Table, after: Key, limit: int) -> list[Row]:
        """Give up to `limit` rows whose keys follow `after`, in the order of their keys."""
        query = self._sql[f"read_{table.name}"]
        return await self._database.run(lambda connection: connection.execute(query, (*after, limit)).fetchall())

    async def count(self, table: Table) -> int:
        """Count the rows of a table."""
        query = self._sql[f"count_{table.name}"]
        (count,) = await self._database.run(lambda connection: connection.execute(query).fetchone())
        return int(count)

    async def is_at_work(self) -> bool:
        """Whether a Milepost works on it: none can, because it is held."""
        return False

    async def write(self, table: Table, gone: Sequence[Key], new: Sequence[Row]) -> None:
        """Remove rows and then add some, in one transaction. Raises RowsRejected if one will not be taken."""
        try:
            await self._database.write(partial(self._write, table, gone, new))
        except REFUSALS as error:
            raise RowsRejected(reason_of(error)) from None

    def _write(self, table: Table, gone: Sequence[Key], new: Sequence[Row], connection: sqlite3.Connection) -> None:
        with transaction(connection):
            if gone:
                connection.executemany(self._sql[f"remove_{table.name}"], gone)
            connection.executemany(self._sql[f"add_{table.name}"], new)

    async def mark(self) -> Mark | None:
        """Give the mark of an unfinished copy into this database."""
        return await asyncio.to_thread(mark_in, self._database.path)

    async def set_mark(self, mark: Mark | None) -> None:
        """Set the mark, durably and after all that was written before; None removes it."""
        await self._database.write(partial(self._set_mark, mark))

    def _set_mark(self, mark: Mark | None, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        if mark is None:
            connection.execute(self._sql["remove_mark"])
        else:
            connection.execute(self._sql["set_mark"], (mark.source, mark.since))
        connection.execute("PRAGMA synchronous = NORMAL")
