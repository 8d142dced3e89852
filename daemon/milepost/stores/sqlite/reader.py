"""Reads a SQLite journal beside the daemon: follows it, verifies it, rebuilds its projections, copies it."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from milepost.core.changes import ALL_KINDS, Change, ChangeKind, ChangesPage
from milepost.core.errors import JournalDamaged, MilepostError
from milepost.core.events import Entry
from milepost.core.model import Stream
from milepost.stores import audit, rows
from milepost.stores.audit import Ledger, Row, Table
from milepost.stores.changes import ChangesAsked, changed, deleted, read_changes
from milepost.stores.reader import Audit, JournalReader, Parameters, StoredEntry
from milepost.stores.sqlite.connection import Database, transaction
from milepost.stores.sqlite.files import WAL, close_to_others, sync
from milepost.stores.sqlite.migrate import open_current
from milepost.stores.sqlite.queries import DIALECT, SqliteSession, at_once

ENTRIES_PER_STEP = 2_000  # which take about ten milliseconds


@asynccontextmanager
async def open_sqlite_reader(path: Path, *, alone: bool = False) -> AsyncIterator["SqliteReader"]:
    """Open the database at `path` for reading; with `alone` also for rebuilding, which excludes a daemon.

    Raises StoreRefused if there is no database of this program's schema, StoreBusy if `alone` and a daemon holds it.
    """
    pragmas: dict[str, str | int] = {"synchronous": "FULL"} if alone else {"query_only": 1}
    async with open_current(path, "changes", pragmas=pragmas, is_alone=alone) as database:
        if alone:
            await asyncio.to_thread(close_to_others, database.path)
        yield SqliteReader(database)


class SqliteReader(JournalReader):
    """The JournalReader (see stores/reader.py) of a SQLite database. Made by `open_sqlite_reader`."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.read, DIALECT)
        self._database = database

    def _session_on(self, connection: sqlite3.Connection) -> SqliteSession:
        return SqliteSession(self._database.sql, connection)

    async def read_changes(
        self,
        after: int,
        limit: int,
        kinds: AbstractSet[ChangeKind] = ALL_KINDS,
        stream: Stream | None = None,
        mark: str = "",
    ) -> ChangesPage:
        """Return up to `limit` changes with a seq greater than `after`. Raises HistoryRewritten: see ChangeReader."""
        asked = ChangesAsked(after, limit, kinds, stream, mark)
        return await self._database.run(lambda connection: _read_changes(asked, self._session_on(connection)))

    async def last_change(self) -> int:
        """Return the seq of the latest change; 0 if there is none."""
        ((last,),) = await self.fetch("last_change")
        return int(last)

    async def verify(self) -> Audit:
        """Check every hash chain, and that every projection equals its fold. Raises JournalDamaged."""
        with _abandonable("the check") as go_on:
            return await self._audit(partial(verify_in_steps, go_on=go_on))

    async def verify_whole(self) -> Audit:
        """Verify the journal, and read every page. Raises JournalDamaged, or MilepostError for a damaged page."""
        await self._database.run(demand_whole)
        return await self.verify()

    async def copy_to(self, target: Path, progress: Callable[[int, int], None]) -> None:
        """Copy the database as it is now into the file `target`; see `back_up`."""
        with _abandonable("the copy") as go_on:

            def step(copied: int, pages: int) -> None:
                go_on()
                progress(copied, pages)

            await self._database.run(partial(back_up, target=target, progress=step))

    async def rebuild(self) -> Audit:
        """Rebuild the projections from the journal, in one transaction. Raises JournalDamaged."""
        return await self._audit(_rebuild)

    async def _audit(self, function: Callable[[SqliteSession], Audit]) -> Audit:
        try:
            return await self._database.write(lambda connection: function(self._session_on(connection)))
        except asyncio.CancelledError:
            await self._database.interrupt()  # or the thread would continue to the end of the journal
            raise


@contextmanager
def _abandonable(what: str) -> Iterator[Callable[[], None]]:
    """Yield a function that raises MilepostError once the block is cancelled. It stops the thread that calls it."""
    is_abandoned = threading.Event()

    def go_on() -> None:
        if is_abandoned.is_set():
            raise MilepostError(f"{what} was abandoned")

    try:
        yield go_on
    except asyncio.CancelledError:
        is_abandoned.set()
        raise


# --- changes and the audit, in the thread of the connection -----------------------------------------------------------


def _read_changes(asked: ChangesAsked, session: SqliteSession) -> ChangesPage:
    """Return a page of changes. SQLite has one writer at a time, so numbers are committed in order."""

    async def read_rows(between: dict[str, object]) -> list[Change]:
        changes = deleted(session.ask("deleted_rows", between))
        for kind, statement in asked.statements().items():
            found = session.ask(statement, between)
            changes += changed(kind, [name for name, *_ in found.description], found)
        return changes

    ((last,),) = session.ask("last_change")
    return at_once(read_changes(asked, (last, last), session.fetch, read_rows))


class SqliteLedger(Ledger):
    """The Ledger of a SQLite database. The caller begins the transaction and ends it."""

    def __init__(self, session: SqliteSession) -> None:
        self._session = session

    def ask(self, statement: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Run a named statement."""
        return self._session.ask(statement, parameters)

    def stored(self, table: Table, keys: Collection[str]) -> Iterable[Row]:
        """Return the rows of a projection with these keys."""
        return self.ask(f"stored_{table}s", (rows.json_list(keys),))

    def write(self, table: Table, projected: list[Row]) -> None:
        """Write rows into a projection."""
        self._session.connection.executemany(self._session.sql[f"upsert_{table}"], projected)


class SteppedLedger(SqliteLedger):
    """A Ledger that is read in many short transactions, because a daemon goes on writing.

    While a transaction reads, SQLite cannot reuse the WAL, which then grows with each commit (by 560 MB in 75 s). Short
    ones are enough: journal entries, ended runs and closed dead letters never change. Only the last entries and the
    rows that still change have to be read as of one moment, so the transaction of the last step is left open.
    """

    def __init__(self, session: SqliteSession, go_on: Callable[[], None]) -> None:
        super().__init__(session)
        self._go_on = go_on

    def entries(self) -> Iterator[Entry]:
        """Yield the whole journal, in the order of seq. `go_on` is called between steps."""
        after, found = 0, self._step(0)
        while len(found) == ENTRIES_PER_STEP:
            self._session.connection.execute("ROLLBACK")
            after = found[-1].seq
            yield from (each.entry for each in found)
            self._go_on()
            found = self._step(after)
        yield from (each.entry for each in found)

    def _step(self, after: int) -> list[StoredEntry]:
        self._session.connection.execute("BEGIN")
        return at_once(self._session.entries(after=after, limit=ENTRIES_PER_STEP))


def verify_in_steps(session: SqliteSession, go_on: Callable[[], None]) -> Audit:
    """Verify the journal as of the last step, while a daemon goes on writing. Raises JournalDamaged."""
    ledger = SteppedLedger(session, go_on)
    while True:
        removals = ledger.removals()
        try:
            verified = audit.verify(ledger)
            if ledger.removals() == removals:
                return verified
        except JournalDamaged:
            if ledger.removals() == removals:
                raise
        finally:
            if session.connection.in_transaction:
                session.connection.execute("ROLLBACK")
        # A stream was removed meanwhile, with its ended runs and closed dead letters, so start over.


def _rebuild(session: SqliteSession) -> Audit:
    """Rebuild the projections in one transaction. Raises JournalDamaged, with nothing changed."""
    with transaction(session.connection):
        return audit.rebuild(SqliteLedger(session))


# --- backup -----------------------------------------------------------------------------------------------------------

STEP_PAGES = 1_000  # 4 MB: some milliseconds, after which a copy can be abandoned
MAX_WAL_BYTES = 512 * 2**20

# SQLite's errors about the file being written, not about the one being read.
_UNWRITABLE = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_TRUNCATE", "SQLITE_CANTOPEN", "SQLITE_READONLY"}


def back_up(source: sqlite3.Connection, target: Path, progress: Callable[[int, int], None]) -> None:
    """Copy all of `source` into the file `target`, which is empty or missing, and sync it.

    The whole copy reads one snapshot: otherwise SQLite would start over at each commit of the daemon, and never finish
    beside a busy one. Meanwhile the daemon's commits go into the WAL without waiting, until the WAL reaches
    MAX_WAL_BYTES. From then on they wait for the end of the copy, which takes some seconds for each gigabyte.

    Args:
        source: a connection without a transaction.
        target: the file.
        progress: called after each step with the pages copied and their total; an exception abandons the copy.

    Raises:
        MilepostError: the file cannot be written. Errors of `source` remain SQLite's own.
    """
    source.execute("BEGIN")
    try:
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # takes the snapshot, which BEGIN does not
        with closing(sqlite3.connect(target, isolation_level=None)) as copied, closing(_Writers(source)) as writers:

            def step(_: int, left: int, pages: int) -> None:
                writers.bound_wal()
                progress(pages - left, pages)

            copied.execute("PRAGMA synchronous = OFF")  # it is synced once, below
            copied.execute("PRAGMA journal_mode = OFF")
            source.backup(copied, pages=STEP_PAGES, progress=step)
            copied.execute("PRAGMA journal_mode = DELETE")  # reading a copy in WAL mode would need two more files
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") not in _UNWRITABLE:
            raise
        raise MilepostError(f"{target} cannot be written: {error}", hint="make room, or write it elsewhere") from error
    finally:
        source.execute("ROLLBACK")
    sync(target)


class _Writers:
    """Blocks the writers of the database being copied, from when the WAL is too large until this is closed."""

    def __init__(self, source: sqlite3.Connection) -> None:
        ((path,),) = source.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchall()
        self._wal = Path(f"{path}{WAL}")
        self._kept_out = sqlite3.connect(path, isolation_level=None, timeout=0)

    def bound_wal(self) -> None:
        """Take SQLite's write lock if the WAL has MAX_WAL_BYTES and nobody is writing at this moment."""
        with suppress(FileNotFoundError, sqlite3.OperationalError):
            if self._wal.stat().st_size >= MAX_WAL_BYTES and not self._kept_out.in_transaction:
                self._kept_out.execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Let the writers continue."""
        self._kept_out.close()


def demand_whole(connection: sqlite3.Connection) -> None:
    """Read every page, as a copy holds more than the journal. Raises MilepostError at the first damaged page."""
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise MilepostError(f"the database is damaged: {found}", hint="restore it from an earlier backup")
