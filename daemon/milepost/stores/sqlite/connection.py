"""An open SQLite database: locked by one Milepost at a time, with a connection in a thread of its own, and its log.

Whole functions are sent to that thread: one hop for each transaction, not for each statement.
"""

import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import aiosqlite

from milepost.core.errors import OutcomeUnknown, StoreAway, StoreBusy
from milepost.stores.reader import Parameters
from milepost.stores.sqlite.errors import error_of, errors_of
from milepost.stores.sqlite.files import LOCK, OWNER_ONLY, WAL, Inode, OpenFiles, beside, inode_of

Result = TypeVar("Result")

LOCK_ATTEMPTS = 10
LOCK_RETRY_SECONDS = 0.05


def real_path(path: Path) -> Path:
    """Return the one path by which the database at `path` is locked and opened.

    This way every symlink to it leads to the same lock, and SQLite takes the path literally: an absolute path has no
    special meaning, unlike `:memory:` and `file:…`.
    """
    return Path(os.path.realpath(path))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block writes, or roll it back if the block or the commit raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back after some failures
            connection.execute("ROLLBACK")
        raise


@contextmanager
def with_synchronous(connection: sqlite3.Connection, level: str) -> Iterator[None]:
    """Wait for the disk as `level` says during the block."""
    (before,) = connection.execute("PRAGMA synchronous").fetchone()
    connection.execute(f"PRAGMA synchronous = {level}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA synchronous = {before}")


class Database(aiosqlite.Connection):
    """A connection to the database at `path` with its statements, `sql`; its `files` must not be replaced."""

    def __init__(self, path: Path, sql: Mapping[str, str], files: OpenFiles, *, timeout_seconds: float) -> None:
        def opened() -> sqlite3.Connection:
            files.opening()
            # isolation_level None: Python's module begins no transactions of its own.
            return sqlite3.connect(path, isolation_level=None, timeout=timeout_seconds)

        super().__init__(opened, 64)
        self.path = path
        self.sql = sql
        self.files = files
        self._full_disk = FullDisk(path)

    async def run(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Call a function in the connection's thread. Raises StoreAway or StoreRefused for SQLite's errors."""

        def checked(connection: sqlite3.Connection) -> Result:
            self.files.demand_same()
            with self._full_disk.making_room():
                return function(connection)

        return await self._run(checked)

    async def write(self, function: Callable[[sqlite3.Connection], Result]) -> Result:
        """Call a function that commits, as `run` does; a commit to a file that is gone does not count.

        Raises OutcomeUnknown after a commit if it cannot be determined whether the file is still there.
        """

        def checked(connection: sqlite3.Connection) -> Result:
            result = function(connection)
            try:
                self.files.demand_same()
            except StoreAway as error:
                raise OutcomeUnknown(error.message, hint=error.hint) from error
            return result

        return await self.run(checked)

    async def read(self, statement: str, parameters: Parameters = ()) -> list[Any]:
        """Run a named statement that only reads, and return its rows. Raises as `run` does."""
        return await self.run(lambda connection: connection.execute(self.sql[statement], parameters).fetchall())

    async def rows(self, statement: str, parameters: Parameters = ()) -> list[Any]:
        """Run a statement in a transaction of its own, and return its rows. Raises as `write` does."""

        def write(connection: sqlite3.Connection) -> list[Any]:
            with transaction(connection):
                return connection.execute(self.sql[statement], parameters).fetchall()

        return await self.write(write)

    async def open(self, pragmas: dict[str, str | int]) -> None:
        """Set the pragmas, and check that SQLite opened the files that the paths name. Must be called first, once."""
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
    path: Path,
    sql: Mapping[str, str],
    pragmas: dict[str, str | int],
    *,
    files: OpenFiles | None = None,
    timeout_seconds: float = 5.0,
) -> AsyncIterator[Database]:
    """Open the database at `path`, set its pragmas, and close it at the end of the block.

    Every call raises StoreLost once one of its files is no longer the one that was opened.
    """
    database = Database(path, sql, files or OpenFiles(path), timeout_seconds=timeout_seconds)
    with errors_of(path):
        async with database:
            await database.open(pragmas)
            yield database


# --- one process for each database ------------------------------------------------------------------------------------


@contextmanager
def lock_database(path: Path) -> Iterator[dict[Path, Inode]]:
    """Hold the database at `path` exclusively, by locking the file `<path>.lock`, and yield the inode of that file.

    The kernel drops the lock when the process ends, for whatever reason. The lock is void once that file is replaced.

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
                f"another Milepost (process {holder}) is using the database {path}",
                hint="stop it first, or let it do the work: `milepost status` shows what it is doing",
            ) from error
        except OSError as error:  # a file system without locks
            raise error_of(path, "cannot be locked", error) from error
        with suppress(OSError):  # the text only names the holder; a full disk shows in the database itself
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield {lock_path: inode_of(os.fstat(descriptor))}
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Take the lock. Raises BlockingIOError if it is held for longer than a moment.

    `is_held` takes it for a moment, and a forked child process shares it until it has closed its descriptors.
    """
    for _ in range(LOCK_ATTEMPTS - 1):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        sleep(LOCK_RETRY_SECONDS)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Return whether a process holds the database at `path`.

    Return True as well if this user may not open the lock: then callers go by the journal.
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


@contextmanager
def kept_open(path: Path) -> Iterator[int]:
    """Open the database at `path` for reading during the block. Raises StoreAway or StoreRefused if that fails.

    The block has to outlast the process's connections: closing any descriptor of a file drops all of the process's
    locks on it, including SQLite's (fcntl_locking(2)).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise error_of(path, "cannot be opened", error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# --- the write-ahead log ----------------------------------------------------------------------------------------------

# It is written back into the file while nothing is committed, or nothing can be. SQLite does that by itself once the
# log is large, within a commit. Until then the log stays, however long nothing happens: each reader goes through it,
# and so does the next start after a crash. And where it fills the disk before it is that large, no commit succeeds any
# more, and SQLite would never write it back.

PAGE_BYTES = 4096
# Pages of log between two checkpoints: rewriting scattered pages into the file is what bounds the speed of inserts,
# and a larger log rewrites each of them less often. 32,000 pages are 128 MB; SQLite's default is 1,000.
MAX_PAGES, MIN_PAGES = 32_000, 1_000
# The part of the disk's room that the log may take: the database may have to grow by as much, and meanwhile the room
# shrinks until it is measured again.
DISK_SHARE = 4
IDLE_SECONDS = 5.0
MIN_BYTES = 2**22  # 4 MB: less is not worth it
# How much longer than an attempt to write the log back, which may rewrite all of it, the pause after it is.
PAUSE_FACTOR = 4
_NO_ROOM = {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"}  # for the log, and for its index


class LogLimit:
    """After how many pages of log a commit writes it back: fewer where the disk has little room.

    A log of 70 MB may hold the same few pages again and again, and would fill a small disk that has room for them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pages = self._set = 0
        self.measure()

    def measure(self) -> None:
        """Look at the disk. Called at first, and about every second."""
        try:
            log_bytes = beside(self._path, WAL).stat().st_size
        except OSError:  # there is none yet, or whoever needs it notices
            log_bytes = 0
        pages = (_free_bytes(self._path.parent) + log_bytes) / DISK_SHARE / PAGE_BYTES
        self._pages = int(min(MAX_PAGES, max(MIN_PAGES, pages)))

    def set_on(self, connection: sqlite3.Connection) -> None:
        """Set the limit on the connection that commits, in its thread, if it is another one than before."""
        if self._pages != self._set:
            self._set = self._pages
            connection.execute(f"PRAGMA wal_autocheckpoint = {self._set}")
            connection.execute(f"PRAGMA journal_size_limit = {self._set * PAGE_BYTES}")


class IdleCheckpoint:
    """Writes the log of the database at `path` back. `steady` is a monotonic clock in seconds."""

    def __init__(self, path: Path, steady: Callable[[], float] = monotonic) -> None:
        self._path = path
        self._steady = steady
        self._log: tuple[int, int] | None = None
        self._since = 0.0

    def look(self) -> None:
        """Write the log back if it is large and has been as it is for IDLE_SECONDS, or if the disk becomes too small.

        Called about every second.
        """
        try:
            found = beside(self._path, WAL).stat()
        except OSError:  # noticed by whoever needs it
            return
        log, now = (found.st_size, found.st_mtime_ns), self._steady()
        if log != self._log:
            self._log, self._since = log, now
        is_idle = found.st_size >= MIN_BYTES and now - self._since >= IDLE_SECONDS
        # The database may have to grow by as much, and more is written until the next look.
        if is_idle or _free_bytes(self._path) < 2 * found.st_size:
            self._since = now
            _write_back(self._path)


class FullDisk:
    """Writes the log of the database at `path` back before the next attempt, after one that found the disk full.

    Before it, because what has become free since is needed for that first: the database may have to grow. Another
    attempt to commit would take it for the log, and give nothing back when it fails.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._retry_at: float | None = None  # None: there is room, as far as is known

    @contextmanager
    def making_room(self) -> Iterator[None]:
        """Enclose a transaction, in the thread of its connection."""
        if self._retry_at is not None and (began := monotonic()) >= self._retry_at:
            is_done, ended = _write_back(self._path), monotonic()
            self._retry_at = None if is_done else ended + PAUSE_FACTOR * (ended - began)
        try:
            yield
        except sqlite3.Error as error:
            if self._retry_at is None and getattr(error, "sqlite_errorname", "") in _NO_ROOM:
                self._retry_at = monotonic()
            raise


def _free_bytes(path: Path) -> float:
    try:
        disk = os.statvfs(path)
    except OSError:  # noticed by whoever needs it
        return inf
    return disk.f_bavail * disk.f_frsize


def _write_back(path: Path) -> bool:
    """Write the log back and empty it, and return whether that succeeded.

    This has a connection of its own: a commit that comes meanwhile does not wait. Where somebody reads at length, the
    log is written back as far as they have read, and emptied another time. What fails here fails in the next commit as
    well, and is reported there.
    """
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0)) as connection,
    ):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        # This one holds up a commit, but has nothing left to write.
        (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not is_busy
    return False
