"""Who may open the files of a SQLite database: their owner alone, because they hold what people wrote."""

import os
import stat
from pathlib import Path

import structlog

OWNER_ONLY = 0o600
WAL, SHM, LOCK = "-wal", "-shm", ".lock"


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file that belongs to the database at `path`."""
    return path.with_name(path.name + suffix)


def make_private(path: Path) -> None:
    """Close the database at `path`, with its -wal and -shm, to everybody but their owner. Its lock is held.

    A database that does not exist is created empty, so that there is no moment at which others may open it: SQLite
    would create it as the umask says. The -wal and -shm that SQLite creates get the permissions of the database.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY))
    except OSError:  # it exists, or cannot be created: then SQLite fails, too, and says why
        for suffix in ("", WAL, SHM):  # the database first: files created from now on follow it
            _close_to_others(beside(path, suffix))


def _close_to_others(path: Path) -> None:
    try:
        found = path.lstat()
        is_open = stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) & ~stat.S_IRWXU
        if not is_open:
            return
        path.chmod(stat.S_IMODE(found.st_mode) & OWNER_ONLY)
    except FileNotFoundError:
        return
    except OSError as error:  # it belongs to somebody else
        structlog.get_logger("milepost").warning(
            "database open to other users",
            path=str(path),
            error=os.strerror(error.errno or 0),
            hint=f"it holds people's messages: let this user own it, or chmod 600 {path}",
        )
    else:
        structlog.get_logger("milepost").warning(
            "database closed to other users",
            path=str(path),
            mode=f"{stat.S_IMODE(found.st_mode):04o}",
            hint="it holds people's messages; docs/operations.md tells how others may read them",
        )
