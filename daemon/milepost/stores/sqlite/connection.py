"""A SQLite connection in its own thread, into which whole functions are sent: a hop a transaction, not a statement."""

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiosqlite

from milepost.core.errors import MilepostError, OutcomeUnknown, StoreAway, StoreRefused
from milepost.stores.sqlite.identity import OpenFiles

Answer = TypeVar("Answer")

# Refusals that no waiting mends, by SQLite's result code, with what to do about each.
_REFUSALS = {
    "SQLITE_CANTOPEN": "check store.url, that its directory exists and that this user may write there",
    "SQLITE_READONLY": "Milepost must be able to write the database file and its directory",
    "SQLITE_PERM": "Milepost must be able to write the database file and its directory",
    "SQLITE_AUTH": "Milepost must be able to write the database file and its directory",
    "SQLITE_NOTADB": "the file is no SQLite database: check store.url",
    "SQLITE_ERROR": "the tables are not those of Milepost: check store.url, or restore the database from a backup",
    "SQLITE_CORRUPT": "restore the database from a backup, then start again: the journal tells where to go on",
}
# What may pass, with what to do if it does not.
_ABSENCES = {
    "SQLITE_BUSY": "another program holds the database locked; it is tried again",
    "SQLITE_LOCKED": "another program holds the database locked; it is tried again",
    "SQLITE_FULL": "the disk is full: make room; nothing that was committed is lost",
    "SQLITE_IOERR": "the disk fails or is full: look at the system's log; nothing that was committed is lost",
    "SQLITE_NOMEM": "the machine is out of memory",
    "SQLITE_PROTOCOL": "another program holds the database locked; it is tried again",
}


def _translated(error: sqlite3.Error, path: Path) -> MilepostError | None:
    """Say what a SQLite error means for the user; None where it is a bug of ours."""
    code = getattr(error, "sqlite_errorname", "") or ""
    primary = "_".join(code.split("_")[:2])
    if primary in _REFUSALS:
        return StoreRefused(f"the database {path} cannot be used: {error}", hint=_REFUSALS[primary])
    if primary in _ABSENCES:
        return StoreAway(f"the database {path} does not answer: {error}", hint=_ABSENCES[primary])
    return None


def _is_undecodable(error: Exception) -> bool:
    """Whether a text in the database is not UTF-8: then Python's module fails, not SQLite, and so without a code."""
    has_no_code = isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorname")
    return has_no_code or isinstance(error, UnicodeDecodeError)


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the database at `path` into StoreAway and StoreRefused."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if _is_undecodable(error):  # `from None`: its message quotes the text, which may be a person's
            what = f"the database {path} cannot be used: a text in it is not UTF-8"
            raise StoreRefused(what, hint=_REFUSALS["SQLITE_CORRUPT"]) from None
        translated = _translated(error, path) if isinstance(error, sqlite3.Error) else None
        if translated is None:
            raise
        raise translated from error


def real_path(path: Path) -> Path:
    """Give the one path by which the database at `path` is locked and opened.

    By whatever symlink it is reached its lock is the same, and SQLite reads no meaning into an absolute path, as it
    does into `:memory:` and `file:…`.
    """
    return Path(os.path.realpath(path))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is written in the block, or nothing of it where the block or the commit raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some failures have rolled back already
            connection.execute("ROLLBACK")
        raise


class Database(aiosqlite.Connection):
    """A connection to the database at `path`, whose `files` have to stay what they are."""

    def __init__(self, path: Path, files: OpenFiles, *, timeout_seconds: float) -> None:
        def opened() -> sqlite3.Connection:
            files.opening()
            # isolation_level None: transactions begin and end where the code says so.
            return sqlite3.connect(path, isolation_level=None, timeout=timeout_seconds)

        super().__init__(opened, 64)
        self.path = path
        self.files = files

    async def run(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Run `work` in the connection's thread. Raises StoreAway or StoreRefused for what SQLite refuses."""

        def checked(connection: sqlite3.Connection) -> Answer:
            self.files.demand_same()
            return work(connection)

        return await self._run(checked)

    async def write(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Run `work`, which commits, as `run` does; what was committed to a file that is gone does not count.

        Raises OutcomeUnknown where it was committed, and nobody can tell whether the file is still there.
        """

        def checked(connection: sqlite3.Connection) -> Answer:
            answer = work(connection)
            try:
                self.files.demand_same()
            except StoreAway as error:
                raise OutcomeUnknown(error.message, hint=error.hint) from error
            return answer

        return await self.run(checked)

    async def open(self, pragmas: dict[str, str | int]) -> None:
        """Set the pragmas, and see that what SQLite opened is what the paths name. Called once, before anything."""
        await self._run(partial(self._open, pragmas))

    def _open(self, pragmas: dict[str, str | int], connection: sqlite3.Connection) -> None:
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name} = {value}")
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()  # opens the files beside the database
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        self.files.opened(has_wal=mode == "wal")

    async def _run(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        with errors_of(self.path):
            answer: Answer = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]  # not annotated there
            return answer


@asynccontextmanager
async def connect(
    path: Path, pragmas: dict[str, str | int], *, files: OpenFiles | None = None, timeout_seconds: float = 5.0
) -> AsyncIterator[Database]:
    """Open the database at `path` and set its pragmas; close it in the end.

    Raises StoreLost, from anything that is asked of it, once one of its files is not the one that was opened.
    """
    database = Database(path, files or OpenFiles(path), timeout_seconds=timeout_seconds)
    with errors_of(path):
        async with database:
            await database.open(pragmas)
            yield database
