"""Whether the paths of a SQLite database still lead to the files that were opened.

SQLite does not check: it goes on with files that were deleted or replaced, reports success, and everything is gone with
the process. So each file is compared with what its path names, by device and inode, which the kernel gives to no other
file as long as this one is open.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from milepost.core.errors import StoreAway, StoreLost
from milepost.stores.sqlite.files import SHM, WAL, beside

Inode = tuple[int, int]
"""A file, whatever its name: its device and its number there."""

# The magic string, the page size and the versions of the format, which tell WAL from other modes ("Database File
# Format"). They stay as they are while the file is open.
HEADER_BYTES = 20

RESTORE = (
    "nothing is written any more; put the file back or restore a backup while Milepost is stopped, as"
    " docs/operations.md says: without a file, a start creates a new, empty database"
)
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
        self._database: Inode | None = None
        self._others: dict[Path, Inode | None] = dict(others or {})
        self._descriptor = descriptor
        self._header = b""
        self._lost: tuple[str, str] | None = None

    def opening(self) -> None:
        """Remember the database that SQLite is about to open."""
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
            message, hint = self._lost
            raise StoreLost(message, hint=hint)

    def _loss(self) -> tuple[str, str] | None:
        """Return what was lost, if anything, and what to do."""
        if (change := self._change(self._path, self._database)) is not None:
            return f"the database {self._path} was {change} while it was open", RESTORE
        if self._read_header() != self._header:
            return f"the database {self._path} was overwritten while it was open", RESTORE
        for path, inode in self._others.items():
            if (change := self._change(path, inode)) is not None:
                return f"{path}, which the database needs, was {change} while it was open", START_AGAIN
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
            raise StoreAway(
                f"the database {self._path} does not answer: {path}: {error.strerror}",
                hint="see the system log, and check the permissions of its directory",
            ) from error

    def _read_header(self) -> bytes:
        return b"" if self._descriptor is None else os.pread(self._descriptor, HEADER_BYTES, 0)


@contextmanager
def kept_open(path: Path) -> Iterator[int]:
    """Open the database at `path` for reading during the block. Raises StoreAway where it cannot be opened.

    The block has to outlast the process's connections: closing any descriptor of a file drops all locks that the
    process holds on it, SQLite's included (fcntl_locking(2)).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreAway(f"the database {path} does not answer: {error.strerror}", hint="see its permissions") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
