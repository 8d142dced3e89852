"""A SQLite database that is opened: by one Milepost at a time, over a connection in a thread of its own.

Whole functions are sent into that thread: a hop for each transaction, not for each statement.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiosqlite

from milepost.core.errors import MilepostError, OutcomeUnknown, StoreAway, StoreBusy, StoreRefused
from milepost.stores.sqlite.files import LOCK, OWNER_ONLY, beside
from milepost.stores.sqlite.identity import Inode, OpenFiles, inode_of
from milepost.stores.sqlite.system_errors import CHECK_RIGHTS, error_of, why_unopened
from milepost.stores.sqlite.wal import FullDisk

Result = TypeVar("Result")

LOCK_ATTEMPTS = 10
LOCK_RETRY_SECONDS = 0.05

# Errors that do not pass, by SQLite's result code, with what to do about each.
_REFUSED = {
    "SQLITE_READONLY": CHECK_RIGHTS,
    "SQLITE_PERM": CHECK_RIGHTS,
    "SQLITE_AUTH": CHECK_RIGHTS,
    "SQLITE_NOTADB": "the file is not a SQLite database: check store.url",
    "SQLITE_ERROR": "the tables are not Milepost's: check store.url, or restore the database from a backup",
    "SQLITE_CORRUPT": "restore the database from a backup, then start again: the journal knows where to continue",
}
# Errors whose cause the operating system knows, and SQLite does not say.
_OF_THE_SYSTEM = {"SQLITE_CANTOPEN", "SQLITE_READONLY"}
# Errors that may pass, with what to do if they do not.
_AWAY = {
    "SQLITE_CANTOPEN": "there may have been no room for a file, or no file descriptor: see the system log",
    "SQLITE_BUSY": "another program has locked the database; retrying",
    "SQLITE_LOCKED": "another program has locked the database; retrying",
    "SQLITE_FULL": "the disk is full: make room; nothing that was committed is lost",
    "SQLITE_IOERR": "the disk is failing or full: see the system log; nothing that was committed is lost",
    "SQLITE_NOMEM": "the machine is out of memory",
    "SQLITE_PROTOCOL": "another program has locked the database; retrying",
}


def _translated(error: sqlite3.Error, path: Path) -> MilepostError | None:
    """Return what a SQLite error means for the user; None where it is a bug of ours."""
    code = getattr(error, "sqlite_errorname", "") or ""
    primary = "_".join(code.split("_")[:2])
    if primary in _OF_THE_SYSTEM and (cause := why_unopened(path)) is not None:
        found = error_of(path, "cannot be used", cause)
        hint = _REFUSED.get(primary, found.hint) if isinstance(found, StoreRefused) else found.hint
        return type(found)(f"the database {path} cannot be used: {error}: {cause.strerror}", hint=hint)
    if primary in _REFUSED:
        return StoreRefused(f"the database {path} cannot be used: {error}", hint=_REFUSED[primary])
    if primary in _AWAY:
        return StoreAway(f"the database {path} does not answer: {error}", hint=_AWAY[primary])
    return None


def _is_undecodable(error: Exception) -> bool:
    """Return whether a text in the database is not UTF-8: Python's module fails then, not SQLite, so without a code."""
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
            raise StoreRefused(what, hint=_REFUSED["SQLITE_CORRUPT"]) from None
        translated = _translated(error, path) if isinstance(error, sqlite3.Error) else None
        if translated is None:
            raise
        raise translated from error


def real_path(path: Path) -> Path:
    """Return the one path by which the database at `path` is locked and opened.

    So its lock is the same through whichever symlink it is reached, and SQLite reads no meaning into an absolute path,
    as it does into `:memory:` and `file:…`.
    """
    return Path(os.path.realpath(path))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block writes, or nothing of it if the block or the commit raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some failures have rolled back already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def with_pragma(connection: sqlite3.Connection, name: str, value: str) -> Iterator[None]:
    """Set a pragma during the block."""
    (before,) = connection.execute(f"PRAGMA {name}").fetchone()
    connection.execute(f"PRAGMA {name} = {value}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA {name} = {before}")


def overwriting(connection: sqlite3.Connection) -> AbstractContextManager[None]:
    """Have SQLite overwrite what the block deletes, which costs too much to do it always."""
    return with_pragma(connection, "secure_delete", "ON")


class Database(aiosqlite.Connection):
    """A connection to the database at `path`, whose `files` must stay the ones that were opened."""

    def __init__(self, path: Path, files: OpenFiles, *, timeout_seconds: float) -> None:
        def opened() -> sqlite3.Connection:
            files.opening()
            # isolation_level None: transactions begin and end where the code says so.
            return sqlite3.connect(path, isolation_level=None, timeout=timeout_seconds)

        super().__init__(opened, 64)
        self.path = path
        self.files = files
        self._full_disk = FullDisk(path)

    async def run(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Call a function in the connection's thread. Raises StoreAway or StoreRefused for what SQLite refuses."""

        def checked(connection: sqlite3.Connection) -> Result:
            self.files.demand_same()
            with self._full_disk.making_room():
                return function(connection)

        return await self._run(checked)

    async def write(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Call a function that commits, as `run` does; what was committed to a file that is gone does not count.

        Raises OutcomeUnknown if it was committed and nobody can tell whether the file is still there.
        """

        def checked(connection: sqlite3.Connection) -> Result:
            result = function(connection)
            try:
                self.files.demand_same()
            except StoreAway as error:
                raise OutcomeUnknown(error.message, hint=error.hint) from error
            return result

        return await self.run(checked)

    async def open(self, pragmas: dict[str, str | int]) -> None:
        """Set the pragmas, and check that SQLite opened the files that the paths name. Called once, before the rest."""
        await self._run(partial(self._open, pragmas))

    def _open(self, pragmas: dict[str, str | int], connection: sqlite3.Connection) -> None:
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name} = {value}")
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()  # opens the files beside the database
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        self.files.opened(has_wal=mode == "wal")

    async def _run(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        with errors_of(self.path):
            result: Result = await self._execute(function, self._conn)  # type: ignore[no-untyped-call]  # not annotated there
            return result


@asynccontextmanager
async def connect(
    path: Path, pragmas: dict[str, str | int], *, files: OpenFiles | None = None, timeout_seconds: float = 5.0
) -> AsyncIterator[Database]:
    """Open the database at `path`, set its pragmas, and close it at the end of the block.

    Everything that is asked of it raises StoreLost once one of its files is not the one that was opened.
    """
    database = Database(path, files or OpenFiles(path), timeout_seconds=timeout_seconds)
    with errors_of(path):
        async with database:
            await database.open(pragmas)
            yield database


# --- one process for each database ------------------------------------------------------------------------------------


@contextmanager
def lock_database(path: Path) -> Iterator[dict[Path, Inode]]:
    """Hold the database at `path` alone, by the file `<path>.lock`, and yield the inode of that file.

    The kernel drops the lock with the process, however it ends. It excludes nobody once another file is in its place.

    Raises StoreBusy if another process holds it, StoreRefused or StoreAway if the lock cannot be made.
    """
    lock_path = beside(path, LOCK)
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
    except OSError as error:
        raise error_of(path, "cannot be locked", error) from error
    try:
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StoreBusy(
                f"another Milepost (process {holder}) works on the database {path}",
                hint="stop it first, or let it do the work: `milepost status` shows what it does",
            ) from error
        except OSError as error:  # a file system without locks
            raise error_of(path, "cannot be locked", error) from error
        with suppress(OSError):  # only names the holder; the database itself reports a full disk
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield {lock_path: inode_of(os.fstat(descriptor))}
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Take the lock. Raises BlockingIOError if it is held for longer than a moment.

    `is_held` takes it for a moment, and a child process has it from its fork until it has closed its descriptors.
    """
    for _ in range(LOCK_ATTEMPTS - 1):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(LOCK_RETRY_SECONDS)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Return whether a process holds the database at `path`.

    True also where this user may not look: then what the journal says about it counts.
    """
    try:
        descriptor = os.open(beside(path, LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
