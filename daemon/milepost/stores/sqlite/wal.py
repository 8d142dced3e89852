"""Writes the write-ahead log back into a SQLite database when it is idle, or when a full disk stops commits.

SQLite itself writes a large log back within a commit. Until then the log stays, however long nothing happens: every
reader goes through it, and so does the next start after a crash. If the log fills the disk before it is that large,
no commit succeeds any more, and SQLite would never write it back.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from math import inf
from pathlib import Path
from time import monotonic

from milepost.stores.sqlite.files import WAL, beside

IDLE_SECONDS = 5.0
MIN_BYTES = 2**22  # 4 MB: a smaller log is not worth it
# After a failed attempt to write the log back, wait this many times as long as it took: it may rewrite the whole log.
PAUSE_FACTOR = 4
_NO_ROOM = {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"}  # no room for the log, no room for its index


class IdleCheckpoint:
    """Writes the log of the database at `path` back while it is idle. `steady` is a monotonic clock in seconds."""

    def __init__(self, path: Path, steady: Callable[[], float] = monotonic) -> None:
        self._path = path
        self._steady = steady
        self._log: tuple[int, int] | None = None
        self._since = 0.0

    def look(self) -> None:
        """Write the log back if it is large and unchanged for IDLE_SECONDS, or if the disk is nearly full.

        Called about every second.
        """
        try:
            found = beside(self._path, WAL).stat()
        except OSError:  # whoever needs the file reports that
            return
        log, now = (found.st_size, found.st_mtime_ns), self._steady()
        if log != self._log:
            self._log, self._since = log, now
        is_idle = found.st_size >= MIN_BYTES and now - self._since >= IDLE_SECONDS
        # Writing the log back may enlarge the database by as much, and the log grows until the next look.
        if is_idle or self._free_bytes() < 2 * found.st_size:
            self._since = now
            _write_back(self._path)

    def _free_bytes(self) -> float:
        try:
            disk = os.statvfs(self._path)
        except OSError:  # whoever needs the file reports that
            return inf
        return disk.f_bavail * disk.f_frsize


class FullDisk:
    """Writes the log of the database at `path` back before a transaction, if an earlier one found the disk full.

    Writing it back comes first because it needs the space that was freed since: the database may have to grow. Another
    attempt to commit would use that space for the log, and free none when it fails.
    """

    def __init__(self, path: Path, steady: Callable[[], float] = monotonic) -> None:
        self._path = path
        self._steady = steady
        self._retry_at: float | None = None  # None while there seems to be room

    @contextmanager
    def making_room(self) -> Iterator[None]:
        """Wrap a transaction, in the thread of its connection."""
        if self._retry_at is not None and (began := self._steady()) >= self._retry_at:
            is_done, ended = _write_back(self._path), self._steady()
            self._retry_at = None if is_done else ended + PAUSE_FACTOR * (ended - began)
        try:
            yield
        except sqlite3.Error as error:
            if self._retry_at is None and getattr(error, "sqlite_errorname", "") in _NO_ROOM:
                self._retry_at = self._steady()
            raise


def _write_back(path: Path) -> bool:
    """Write the log back and empty it, and return whether that succeeded.

    It uses a connection of its own, so that commits do not wait. If a long read is under way, the log is written back
    up to the reader's snapshot, and emptied another time. Errors are ignored: the next commit meets and reports them.
    """
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0)) as connection,
    ):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        # This one blocks commits, but has nothing left to write.
        (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not is_busy
    return False
