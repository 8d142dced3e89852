"""Who may open the files of a SQLite database: their owner alone, because they hold what people wrote."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import structlog

OWNER_ONLY = 0o600
WAL, SHM, LOCK = "-wal", "-shm", ".lock"


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file that belongs to the database at `path`."""
    return path.with_name(path.name + suffix)


def create_private(path: Path) -> None:
    """Create an empty database at `path` for its owner alone, unless there is a file. Its lock is held.

    SQLite would create it as the umask says, and others could open it until somebody changes that. The -wal and -shm
    that SQLite creates get the permissions of the database.
    """
    with suppress(OSError):  # it exists, or cannot be created: then SQLite fails, too, and says why
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY))


def close_to_others(path: Path) -> None:
    """Close the database at `path`, its -wal and its -shm to everybody but their owner. It has to be Milepost's."""
    log = structlog.get_logger("milepost")
    files = [beside(path, suffix) for suffix in ("", WAL, SHM)]  # the database first: files created later follow it
    open_ones = [each for each in files if _is_open_to_others(each)]
    if not open_ones:
        return
    named = ", ".join(each.name for each in open_ones)
    try:
        for each in open_ones:
            each.chmod(stat.S_IMODE(each.stat().st_mode) & OWNER_ONLY)
    except OSError as error:  # they belong to somebody else
        why = os.strerror(error.errno or 0)
        hint = f"it holds people's messages: let this user own it, or chmod 600 {path}"
        log.warning("database open to other users", path=str(path), files=named, error=why, hint=hint)
    else:
        hint = "it holds people's messages; docs/operations.md tells how others may read them"
        log.warning("database closed to other users", path=str(path), files=named, hint=hint)


def _is_open_to_others(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:  # there is none
        return False
    return stat.S_ISREG(mode) and bool(stat.S_IMODE(mode) & (stat.S_IRWXG | stat.S_IRWXO))
