"""What the operating system's errors about a database's files mean: which may pass, and which call for a person.

SQLite keeps the reason to itself where it cannot open a file: it is looked for afterwards.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from milepost.core.errors import MilepostError, StoreAway, StoreRefused, may_pass
from milepost.stores.sqlite.files import SHM, WAL, beside

NEEDED_FILES = 4  # that SQLite opens for a database: itself, -wal, -shm and their directory
NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}  # open(2): not on every file system

CHECK_URL = "check store.url, that its directory exists and that this user may write there"
CHECK_RIGHTS = "Milepost must be able to write the database file and its directory"
HINTS = {
    errno.ENOSPC: "make room, also for more files (df -i): nothing that was committed is lost",
    errno.EDQUOT: "make room, or raise the quota: nothing that was committed is lost",
    errno.EMFILE: "let this process open more files: LimitNOFILE in its unit, or ulimit -n",
    errno.ENFILE: "the machine has no file descriptors left: end other programs, or raise fs.file-max",
    errno.ENOMEM: "the machine is out of memory",
    errno.EROFS: "the file system is mounted read-only, as after a disk failure: see the system log, and mount it for"
    " writing; under systemd, ReadWritePaths= has to name its directory",
}
OTHER_HINT = "its disk or file system fails: see the system log, and mount it again; nothing that was committed is lost"


def error_of(path: Path, what: str, error: OSError) -> MilepostError:
    """Return what an error about a file of the database at `path` means; `what` says what cannot be done.

    A read-only file system may be one that was mounted so after a failure, if it has a database already.
    """
    text = f"the database {path} {what}: {error.strerror}"
    number = error.errno or 0
    if may_pass(error) or (number == errno.EROFS and _has_content(path)):
        return StoreAway(text, hint=HINTS.get(number, OTHER_HINT))
    return StoreRefused(text, hint=CHECK_URL)


def why_unopened(path: Path) -> OSError | None:
    """Return why SQLite cannot open the database at `path` or a file beside it; None if there is no reason any more.

    The files themselves are not opened: closing one would drop the locks that SQLite has on it (fcntl_locking(2)).
    """
    try:
        return next(_obstacles(path), None)
    except OSError as error:
        return error


def _obstacles(path: Path) -> Iterator[OSError]:
    for each in (path, beside(path, WAL), beside(path, SHM)):
        try:
            mode = each.stat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            yield _os_error(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL)
        if not os.access(each, os.R_OK | os.W_OK):
            yield _os_error(errno.EROFS if os.statvfs(each).f_flag & os.ST_RDONLY else errno.EACCES)
    _make_unnamed_files(path.parent)


def _make_unnamed_files(directory: Path) -> None:
    """Make as many files as SQLite needs, which vanish at once. Raises OSError where that fails."""
    with ExitStack() as made:
        try:
            for _ in range(NEEDED_FILES):
                descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
                made.callback(os.close, descriptor)
        except OSError as error:
            if error.errno not in NO_UNNAMED_FILES:
                raise


def _os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
