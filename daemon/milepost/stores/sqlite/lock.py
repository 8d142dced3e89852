"""One Milepost for each SQLite database: a lock that the kernel drops with the process, however it ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from milepost.core.errors import StoreBusy, StoreRefused
from milepost.stores.sqlite.identity import Inode, inode_of
from milepost.stores.sqlite.permissions import LOCK, OWNER_ONLY, beside

MAX_TRIES = 10
PAUSE_SECONDS = 0.05

MAX_TRIES = 10
PAUSE_SECONDS = 0.05


@contextmanager
def lock_database(path: Path) -> Iterator[dict[Path, Inode]]:
    """Hold the database at `path` alone, through the file `<path>.lock`, and give which file that is.

    It holds nobody off any more once another file is in its place.

    Raises StoreBusy if another process holds it, StoreRefused if the lock cannot be made.
    """
    lock_path = _lock_of(path)
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
    except OSError as error:
        raise _impossible(path, error) from error
    try:
        try:
            _lock(descriptor)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StoreBusy(
                f"another Milepost (process {holder}) works on the database {path}",
                hint="stop it first, or let it do the work: `milepost status` shows what it does",
            ) from error
        except OSError as error:  # a file system without locks
            raise _impossible(path, error) from error
        with suppress(OSError):  # only says who holds the lock; of a full disk the database itself tells
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield {lock_path: inode_of(os.fstat(descriptor))}
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Take the lock. Raises BlockingIOError if it is held for longer than an instant.

    `is_held` takes it for an instant, and a child process has it from its fork until it has closed its descriptors.
    """
    for _ in range(MAX_TRIES - 1):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(PAUSE_SECONDS)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _impossible(path: Path, error: OSError) -> StoreRefused:
    return StoreRefused(
        f"the database {path} cannot be locked: {error.strerror}: {path}.lock",
        hint="check store.url, that its directory exists and that this user may write there",
    )


def is_held(path: Path) -> bool:
    """Look whether a process holds the database at `path`.

    True also where this user may not look: the journal is then taken at its word.
    """
    try:
        descriptor = os.open(_lock_of(path), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock_of(path: Path) -> Path:
    return beside(path, LOCK)
