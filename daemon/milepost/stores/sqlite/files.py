"""The files of a SQLite database: keeps them private, and notices when they are deleted or replaced.

They are private because they hold what people wrote. If a new database has others beside it, its path may be a mistake,
so there is a warning.
"""

import os
import sqlite3
import stat
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from milepost.core.errors import StoreAway, StoreLost, StoreRemounted

OWNER_ONLY = 0o600
WAL, SHM, LOCK = "-wal", "-shm", ".lock"

# Limits on the databases beside a new one.
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


# --- private files ----------------------------------------------------------------------------------------------------


def create_private(path: Path) -> None:
    """Create an empty database at `path` that only its owner can open, unless it exists. The caller holds its lock.

    SQLite would create it with the permissions of the umask, and others could open it at first. The -wal and -shm that
    SQLite creates get the permissions of the database.
    """
    with suppress(OSError):  # it exists; or it cannot be created, and SQLite's own attempt reports why
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY))


def close_to_others(path: Path) -> None:
    """Make the database at `path`, its -wal and its -shm accessible to their owner only. It must be Milepost's."""
    files = [beside(path, suffix) for suffix in ("", WAL, SHM)]  # the database first: new ones take its mode
    open_ones = [each for each in files if _is_open_to_others(each)]
    if not open_ones:
        return
    # Imported here: most commands that only read a database never log anything.
    import structlog  # noqa: PLC0415

    log, names = structlog.get_logger("milepost"), ", ".join(each.name for each in open_ones)
    try:
        for each in open_ones:
            each.chmod(stat.S_IMODE(each.stat().st_mode) & OWNER_ONLY)
    except OSError as error:  # another user owns them
        reason = os.strerror(error.errno or 0)
        hint = f"it holds people's messages: let this user own it, or chmod 600 {path}"
        log.warning("database open to other users", path=str(path), files=names, error=reason, hint=hint)
    else:
        hint = "it holds people's messages; docs/operations.md says how others may read them"
        log.warning("database closed to other users", path=str(path), files=names, hint=hint)


def _is_open_to_others(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:  # there is no such file
        return False
    return stat.S_ISREG(mode) and bool(stat.S_IMODE(mode) & (stat.S_IRWXG | stat.S_IRWXO))


# --- other databases beside a new one ---------------------------------------------------------------------------------


def warn_of_others_beside(path: Path) -> None:
    """Warn that the database at `path` is new if other databases in its directory hold conversations."""
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
    """Return a description of a file's content; None if it is not Milepost's, holds nothing, or cannot be read now."""
    # A database without a WAL is not open anywhere: immutable needs no lock, and leaves no -shm and -wal behind.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=TIMEOUT_SECONDS)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM conversations").fetchone()
            (newest,) = connection.execute("SELECT max(updated_at) FROM checkpoints").fetchone()
    except sqlite3.Error:
        return None
    conversations = "conversation" if count == 1 else "conversations"
    return f"{path.name} holds {count:,} {conversations}, last written at {newest}" if count else None


# --- deleted and replaced files ---------------------------------------------------------------------------------------

# SQLite does not check for this: it goes on with a deleted or replaced file and reports success, and everything is lost
# when the process ends. So each file is compared with the one that its path names now, by device and inode. The kernel
# gives those to no other file while this one is open.

Inode = tuple[int, int]
"""The identity of a file, whatever its name: its device and its inode number."""

# The magic string, the page size and the format's versions, which tell WAL from other modes (see SQLite's "Database
# File Format"). They do not change while the file is open.
HEADER_BYTES = 20

RESTORE = (
    "nothing is written any more; put the file back or restore a backup while Milepost is stopped, as"
    " docs/operations.md says: without a file, a start creates a new, empty database"
)
MOUNT = "mount it again: what was committed is on it, and Milepost waits for it"
ANEW = "nothing is written any more; what was committed is safe: start Milepost again, as its systemd unit does"
START_AGAIN = (
    "nothing is written any more; what was committed is safe: see that nothing removes files beside the database,"
    " and start Milepost again"
)


def inode_of(found: os.stat_result) -> Inode:
    """Return the device and inode of a file."""
    return found.st_dev, found.st_ino


class OpenFiles:
    """Watches the files of the database at `path`. Safe to call from any thread.

    `others` are more files that must not be replaced, such as the lock. `descriptor` is the database, opened for
    reading, to notice that it is overwritten.
    """

    def __init__(self, path: Path, others: Mapping[Path, Inode] | None = None, descriptor: int | None = None) -> None:
        self._path = path
        self._directories = tuple(path.absolute().parents)  # needed at each commit, so computed once
        self._database: Inode | None = None
        self._others: dict[Path, Inode | None] = dict(others or {})
        self._descriptor = descriptor
        self._header = b""
        self._device: int | None = None
        self._lost: StoreLost | None = None

    def opening(self) -> None:
        """Remember the database that SQLite is about to open, and the file system that it is on."""
        self._device = self._device_there()
        self._database = self._named(self._path)

    def opened(self, *, has_wal: bool) -> None:
        """Remember the files that SQLite has opened. Raises StoreLost if one was deleted or replaced meanwhile."""
        if has_wal:
            self._others |= {path: self._named(path) for path in (beside(self._path, WAL), beside(self._path, SHM))}
        self._header = self._read_header()
        self.demand_same()

    def demand_same(self) -> None:
        """Raise StoreLost if a path leads to another file than the opened one, StoreAway if that is unknown.

        A lost database stays lost even if the file comes back: callers know of the loss, and others may have written.
        """
        self._lost = self._lost or self._loss()
        if self._lost is not None:
            raise type(self._lost)(self._lost.message, hint=self._lost.hint)

    def _loss(self) -> StoreLost | None:
        """Return the error for a lost file, if there is one. Raises StoreAway while the file system is not mounted."""
        change = self._change(self._path, self._database)
        if self._device is not None and self._device_there() != self._device:
            return self._of_another_file_system()
        if change is not None:
            return StoreLost(f"the database {self._path} was {change} while it was open", hint=RESTORE)
        if self._read_header() != self._header:
            return StoreLost(f"the database {self._path} was overwritten while it was open", hint=RESTORE)
        for path, inode in self._others.items():
            if (change := self._change(path, inode)) is not None:
                message = f"{path}, which the database needs, was {change} while it was open"
                return StoreLost(message, hint=START_AGAIN)
        return None

    def _of_another_file_system(self) -> StoreRemounted:
        if self._named(self._path) is None:
            raise StoreAway(f"the file system of the database {self._path} is not mounted any more", hint=MOUNT)
        message = f"the file system of the database {self._path} was mounted anew while it was open"
        return StoreRemounted(message, hint=ANEW)

    def _device_there(self) -> int | None:
        """Return the file system of the database's directory or, if that is missing, of its nearest parent."""
        for directory in self._directories:
            if (found := self._named(directory)) is not None:
                return found[0]
        return None

    def _change(self, path: Path, opened: Inode | None) -> str | None:
        named = self._named(path)
        if named is None:
            return "deleted or moved away"
        return None if named == opened else "replaced by another file"

    def _named(self, path: Path) -> Inode | None:
        """Return the file that a path names now, if any. Raises StoreAway if the lookup fails."""
        try:
            return inode_of(path.stat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._away(path, error) from error

    def _read_header(self) -> bytes:
        try:
            return b"" if self._descriptor is None else os.pread(self._descriptor, HEADER_BYTES, 0)
        except OSError as error:
            raise self._away(self._path, error) from error

    def _away(self, path: Path, error: OSError) -> StoreAway:
        return StoreAway(
            f"the database {self._path} does not answer: {path}: {error.strerror}",
            hint="see the system log, and check the permissions of its directory",
        )
