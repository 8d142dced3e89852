"""The write-ahead log of a SQLite database, written back into the file while nothing is committed, or nothing can be.

SQLite does that by itself once the log is large, within a commit. Until then the log stays, however long nothing
happens: each reader goes through it, and so does the next start after a crash. And where it fills the disk before it
is that large, no commit succeeds any more, and SQLite would never write it back.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from math import inf
from pathlib import Path
from time import monotonic

from milepost.stores.sqlite.files import WAL, beside

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

    def __init__(self, path: Path, steady: Callable[[], float] = monotonic) -> None:
        self._path = path
        self._steady = steady
        self._retry_at: float | None = None  # None: there is room, as far as is known

    @contextmanager
    def making_room(self) -> Iterator[None]:
        """Enclose a transaction, in the thread of its connection."""
        if self._retry_at is not None and (began := self._steady()) >= self._retry_at:
            is_done, ended = _write_back(self._path), self._steady()
            self._retry_at = None if is_done else ended + PAUSE_FACTOR * (ended - began)
        try:
            yield
        except sqlite3.Error as error:
            if self._retry_at is None and getattr(error, "sqlite_errorname", "") in _NO_ROOM:
                self._retry_at = self._steady()
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
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0)) as connection,
    ):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        # This one holds up a commit, but has nothing left to write.
        (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not is_busy
    return False
