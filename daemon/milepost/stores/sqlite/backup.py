"""A copy of a SQLite database as of one moment, made while a daemon goes on writing."""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from milepost.core.errors import MilepostError
from milepost.stores.sqlite.files import WAL, sync

STEP_PAGES = 1_000  # 4 MB: some milliseconds, after which a copy can be abandoned
MAX_WAL_BYTES = 512 * 2**20

# SQLite's errors about the file being written, not about the one being read.
_UNWRITABLE = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_TRUNCATE", "SQLITE_CANTOPEN", "SQLITE_READONLY"}


def copy(source: sqlite3.Connection, target: Path, progress: Callable[[int, int], None]) -> None:
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
