"""The files of a SQLite database: open to their owner alone, because they hold what people wrote.

Others beside a new one may mean that its path is a slip.
"""

import os
import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path

OWNER_ONLY = 0o600
WAL, SHM, LOCK = "-wal", "-shm", ".lock"

# Of the databases beside a new one.
MAX_INSPECTED = 20
MAX_NAMED = 3
TIMEOUT_SECONDS = 0.5


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file that belongs to the database at `path`."""
    return path.with_name(path.name + suffix)


def sync(path: Path, flags: int = os.O_RDONLY) -> None:
    """Wait until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_private(path: Path) -> None:
    """Create an empty database at `path` for its owner alone, unless there is a file. The caller holds its lock.

    SQLite would create it as the umask says, and others could open it until somebody changes that. The -wal and -shm
    that SQLite creates get the permissions of the database.
    """
    with suppress(OSError):  # it exists, or cannot be created: then SQLite fails as well, and says why
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY))


def close_to_others(path: Path) -> None:
    """Close the database at `path`, its -wal and its -shm to everybody but their owner. It must be Milepost's."""
    files = [beside(path, suffix) for suffix in ("", WAL, SHM)]  # the database first: files created later follow it
    open_ones = [each for each in files if _is_open_to_others(each)]
    if not open_ones:
        return
    # Imported here: a command that only reads a database has nothing to log in most cases.
    import structlog  # noqa: PLC0415

    log, names = structlog.get_logger("milepost"), ", ".join(each.name for each in open_ones)
    try:
        for each in open_ones:
            each.chmod(stat.S_IMODE(each.stat().st_mode) & OWNER_ONLY)
    except OSError as error:  # they belong to somebody else
        reason = os.strerror(error.errno or 0)
        hint = f"it holds people's messages: let this user own it, or chmod 600 {path}"
        log.warning("database open to other users", path=str(path), files=names, error=reason, hint=hint)
    else:
        hint = "it holds people's messages; docs/operations.md says how others may read them"
        log.warning("database closed to other users", path=str(path), files=names, hint=hint)


def _is_open_to_others(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:  # there is none
        return False
    return stat.S_ISREG(mode) and bool(stat.S_IMODE(mode) & (stat.S_IRWXG | stat.S_IRWXO))


def warn_of_others_beside(path: Path) -> None:
    """Warn that the database at `path` is new if others in its directory hold conversations."""
    others = sorted((other for other in path.parent.glob("*.db") if other != path), key=_written_at, reverse=True)
    held = [content for other in others[:MAX_INSPECTED] if (content := _content_of(other))]
    if held:
        import structlog  # noqa: PLC0415  (as above)

        structlog.get_logger("milepost").warning(
            "a new database was created beside others",
            path=str(path),
            beside="; ".join(held[:MAX_NAMED]),
            hint="if one of those was meant, name it in store.url",
        )


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _content_of(path: Path) -> str | None:
    """Describe what a file holds; None where it is no database of Milepost, is empty, or cannot be read now."""
    # Without a WAL nobody has it open: no lock is needed, and no -shm and -wal are made that nobody would remove.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=TIMEOUT_SECONDS)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM conversations").fetchone()
            (newest,) = connection.execute("SELECT max(updated_at) FROM checkpoints").fetchone()
    except sqlite3.Error:
        return None
    conversations = "conversation" if count == 1 else "conversations"
    return f"{path.name} holds {count:,} {conversations}, last written at {newest}" if count else None
