"""SQLite databases as the two sides of a copy: see stores/copy.py."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from milepost.core.errors import RowsRejected, StoreAway
from milepost.stores import audit
from milepost.stores.copy import Row, Table, require_empty
from milepost.stores.reader import Audit, load_statements
from milepost.stores.sqlite.connection import lock_database, real_path, transaction
from milepost.stores.sqlite.errors import REFUSALS, errors_of, reason_of
from milepost.stores.sqlite.files import SHM, WAL, OpenFiles, beside, create_private, sync
from milepost.stores.sqlite.migrate import demand_current, demand_own, mark_in, migrate
from milepost.stores.sqlite.queries import SqliteSession
from milepost.stores.sqlite.reader import SqliteLedger
from milepost.stores.sqlite.store import CACHE_KIB

UNFINISHED = "-copy"
"""The suffix of a target's name until it is verified."""

READ_ROWS = 500


@contextmanager
def open_sqlite_source(path: Path) -> Iterator["SqliteCopySource"]:
    """Open the database at `path` and keep daemons out of it. Raises StoreBusy, StoreRefused or StoreAway."""
    path = real_path(path)
    if not path.exists():  # checked before a lock file is created beside it
        demand_current(path)
    with lock_database(path) as lock:
        demand_current(path)
        files = OpenFiles(path, lock)
        files.opening()
        with _connected(path, {"query_only": 1}) as connection:
            source = SqliteCopySource(path, connection, files)
            source.begin()
            yield source


@contextmanager
def open_sqlite_target(path: Path) -> Iterator["SqliteCopyTarget"]:
    """Create a database that gets the name `path` when it is published. Raises StoreBusy, StoreRefused or StoreAway."""
    path = real_path(path)
    unfinished = beside(path, UNFINISHED)
    with lock_database(path):
        _require_replaceable(path)
        _remove(unfinished)  # left by a copy that was killed
        try:
            create_private(unfinished)
            migrate(unfinished)
            # Safe without a WAL and syncs: nobody else opens the file, and after a power cut it is discarded.
            with _connected(unfinished, {"journal_mode": "MEMORY", "synchronous": "OFF"}) as connection:
                yield SqliteCopyTarget(path, unfinished, connection)
        finally:
            _remove(unfinished)


@contextmanager
def _connected(path: Path, pragmas: dict[str, str | int]) -> Iterator[sqlite3.Connection]:
    with errors_of(path):
        # check_same_thread=False: another thread may interrupt the connection.
        connection = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
    with closing(connection):
        with errors_of(path):
            for name, value in {"cache_size": -CACHE_KIB, **pragmas}.items():
                connection.execute(f"PRAGMA {name} = {value}")
        yield connection


def _require_replaceable(path: Path) -> None:
    """Raise StoreRefused unless `path` is free or empty.

    An interrupted copy of an earlier Milepost is marked as unfinished, and may be replaced.
    """
    if not path.exists():
        return
    demand_own(path)
    with _connected(path, {}) as connection, errors_of(path):
        if mark_in(path) is None:
            require_empty(path, _tables_with_rows(connection))


def _tables_with_rows(connection: sqlite3.Connection) -> list[str]:
    """Return the names of Milepost's tables that hold rows; an old database may not have all tables."""
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    names = [name for (name,) in found if name != "schema_migrations" and not name.startswith("sqlite_")]
    return [name for name in names if connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()]  # noqa: S608


def _remove(path: Path) -> None:
    """Remove a database: the file itself first, as SQLite ignores a -wal beside a missing or empty file."""
    for suffix in ("", WAL, SHM, "-journal"):
        beside(path, suffix).unlink(missing_ok=True)


class _Side:
    """What both sides of a copy do."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._sql = load_statements("sqlite", "copy")

    def read(self, table: Table) -> Iterator[Row]:
        """Yield the rows of a table in the order of its key."""
        with errors_of(self._path):
            found = self._connection.execute(self._sql[f"read_{table.name}"])
            while rows := found.fetchmany(READ_ROWS):  # not `yield from found`: the cursor would outlive the database
                yield from rows

    def interrupt(self) -> None:
        """Make the operation under way fail soon. Called from another thread."""
        with suppress(sqlite3.ProgrammingError):  # the connection is already closed
            self._connection.interrupt()


class SqliteCopySource(_Side):
    """A CopySource. Made by `open_sqlite_source`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, files: OpenFiles) -> None:
        super().__init__(path, connection)
        self._files = files

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        with errors_of(self._path):
            return dict(self._connection.execute(self._sql["counts"]).fetchall())

    def begin(self) -> None:
        """Take the snapshot."""
        with errors_of(self._path):
            (mode,) = self._connection.execute("PRAGMA journal_mode").fetchone()
            self._connection.execute("BEGIN")
            self._connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()  # BEGIN alone takes no snapshot
        self._files.opened(has_wal=mode == "wal")

    def refresh(self) -> None:
        """Replace the snapshot by a new one. Raises StoreLost if the database was deleted or replaced."""
        with errors_of(self._path):
            self._connection.execute("ROLLBACK")
        self._files.demand_same()


class SqliteCopyTarget(_Side):
    """A CopyTarget. Made by `open_sqlite_target`."""

    def __init__(self, path: Path, unfinished: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self._unfinished = unfinished
        self._ledger = SqliteLedger(SqliteSession(load_statements("sqlite"), connection))

    def add(self, table: Table, rows: list[Row]) -> None:
        """Add rows, all or none. Raises RowsRejected if one is not accepted."""
        try:
            with errors_of(self._path), transaction(self._connection):
                self._connection.executemany(self._sql[f"add_{table.name}"], rows)
        except REFUSALS as error:
            raise RowsRejected(reason_of(error), hint="fix that row in the source, and run the copy again") from None

    def rebuild(self) -> Audit:
        """Build the projections from the journal. Raises JournalDamaged."""
        with errors_of(self._path), transaction(self._connection):
            return audit.rebuild(self._ledger)

    def verify(self) -> Audit:
        """Check every hash chain, and that every projection equals its fold. Raises JournalDamaged."""
        with errors_of(self._path):
            return audit.verify(self._ledger)

    def publish(self) -> None:
        """Sync the file and give it its final name."""
        self._connection.close()
        try:
            sync(self._unfinished)
            _remove(self._path)
            self._unfinished.replace(self._path)
            sync(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreAway(
                f"the database {self._path} cannot be written: {error.strerror}",
                hint="look at the system's log, and run the copy again",
            ) from error
