"""The files of a SQLite database: open to their owner alone, and still the ones that were opened.

They hold what people wrote. Other databases beside a new one may mean that its path is a slip.
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


# --- for their owner alone --------------------------------------------------------------------------------------------


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


# --- others beside a new one ------------------------------------------------------------------------------------------


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


# --- the ones that were opened ----------------------------------------------------------------------------------------

# SQLite does not check: it goes on with files that were deleted or replaced, reports success, and everything is gone
# with the process. So each file is compared with what its path names, by device and inode, which the kernel gives to no
# other file as long as this one is open.

Inode = tuple[int, int]
"""A file, whatever its name: its device and its number there."""

# The magic string, the page size and the versions of the format, which tell WAL from other modes ("Database File
# Format"). They stay as they are while the file is open.
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
    """The files of the database at `path`. Safe to call from any thread.

    `others` are files beside it that have to stay, such as the lock. `descriptor` is the database, opened for reading,
    to notice that it is overwritten as well.
    """

    def __init__(self, path: Path, others: Mapping[Path, Inode] | None = None, descriptor: int | None = None) -> None:
        self._path = path
        self._directories = tuple(path.absolute().parents)  # looked at with each commit: made once
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
        """Raise StoreLost if a path leads to another file than was opened; StoreAway if that cannot be told.

        Once lost, it stays lost: meanwhile others may have written, and callers were told so.
        """
        self._lost = self._lost or self._loss()
        if self._lost is not None:
            raise type(self._lost)(self._lost.message, hint=self._lost.hint)

    def _loss(self) -> StoreLost | None:
        """Return what was lost, if anything. Raises StoreAway while the file system is not mounted."""
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
        """Return the file system of the database's directory or, where that is missing, of the nearest one above it."""
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
        """Return the file that a path names now, if any. Raises StoreAway where that cannot be looked up."""
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
