"""Whether the paths of a SQLite database still lead to the files that were opened.

SQLite does not check: it goes on with files that were deleted or replaced, reports success, and everything is gone with
the process. So each file is compared with what its path names, by device and inode, which the kernel gives to no other
file as long as this one is open.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from milepost.core.errors import StoreAway, StoreLost, StoreRemounted
from milepost.stores.sqlite.files import SHM, WAL, beside
from milepost.stores.sqlite.system_errors import error_of

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


@contextmanager
def kept_open(path: Path) -> Iterator[int]:
    """Open the database at `path` for reading during the block. Raises StoreAway or StoreRefused if that fails.

    The block has to outlast the process's connections: closing any descriptor of a file drops all locks that the
    process holds on it, SQLite's included (fcntl_locking(2)).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise error_of(path, "cannot be opened", error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
