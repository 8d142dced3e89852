"""One Milepost for each SQLite database: a lock that the kernel drops with the process, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milepost.core.errors import StoreBusy, StoreRefused


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the database at `path` alone, through the file `<path>.lock`.

    Raises StoreBusy if another process holds it, StoreRefused if the lock cannot be made.
    """
    lock_path = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreRefused(
            f"the database {path} cannot be locked: {error.strerror}: {lock_path}",
            hint="check store.url, that its directory exists and that this user may write there",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StoreBusy(
                f"another Milepost (process {holder}) works on the database {path}",
                hint="stop it first, or let it do the work: `milepost status` shows what it does",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
