"""The write-ahead log of a SQLite database, written back into the file while nothing is committed.

SQLite does that by itself once the log is large, within a commit. Until then the log stays, however long nothing
happens: each reader goes through it, and so does the next start after a crash.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic

from milepost.stores.sqlite.files import WAL, beside

IDLE_SECONDS = 5.0
MIN_BYTES = 2**22  # 4 MB: less is not worth it


class IdleCheckpoint:
    """Writes the log of the database at `path` back. `steady` is a monotonic clock in seconds."""

    def __init__(self, path: Path, steady: Callable[[], float] = monotonic) -> None:
        self._path = path
        self._steady = steady
        self._log: tuple[int, int] | None = None
        self._since = 0.0

    def look(self) -> None:
        """Write the log back if it is large and has been as it is for IDLE_SECONDS. Called about every second."""
        try:
            found = beside(self._path, WAL).stat()
        except OSError:  # noticed by whoever needs it
            return
        log, now = (found.st_size, found.st_mtime_ns), self._steady()
        if log != self._log:
            self._log, self._since = log, now
        elif found.st_size >= MIN_BYTES and now - self._since >= IDLE_SECONDS:
            self._since = now
            _write_back(self._path)


def _write_back(path: Path) -> None:
    """Write the log back and empty it, over a connection of its own: a commit that comes meanwhile does not wait.

    Where somebody reads at length, it is written back as far as they have read, and emptied another time. What fails
    here fails in the next commit as well, and is reported there.
    """
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0)) as connection,
    ):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # holds up a commit, but has nothing left to write
