"""What the errors of SQLite and of the operating system mean for the user and for the engine.

SQLite does not say why it cannot open a file, so the reason is looked for afterwards.
"""

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from milepost.core.errors import MilepostError, StoreAway, StoreRefused, may_pass
from milepost.stores.rows import KeyRefused
from milepost.stores.sqlite.files import SHM, WAL, beside

# The errors by which SQLite, Python's module or our own conversion refuses a row.
REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeEncodeError, KeyRefused)

CHECK_RIGHTS = "Milepost must be able to write the database file and its directory"

# Permanent errors by SQLite's result code, each with what to do about it.
_REFUSED = {
    "SQLITE_READONLY": CHECK_RIGHTS,
    "SQLITE_PERM": CHECK_RIGHTS,
    "SQLITE_AUTH": CHECK_RIGHTS,
    "SQLITE_NOTADB": "the file is not a SQLite database: check store.url",
    "SQLITE_ERROR": "the tables are not Milepost's: check store.url, or restore the database from a backup",
    "SQLITE_CORRUPT": "restore the database from a backup, then start again: the journal knows where to continue",
}
# Errors whose cause SQLite does not report but the operating system knows.
_OF_THE_SYSTEM = {"SQLITE_CANTOPEN", "SQLITE_READONLY"}
# Errors that may be temporary, each with what to do if they are not.
_AWAY = {
    "SQLITE_CANTOPEN": "there may have been no room for a file, or no file descriptor: see the system log",
    "SQLITE_BUSY": "another program has locked the database; retrying",
    "SQLITE_LOCKED": "another program has locked the database; retrying",
    "SQLITE_FULL": "the disk is full: make room; nothing that was committed is lost",
    "SQLITE_IOERR": "the disk is failing or full: see the system log; nothing that was committed is lost",
    "SQLITE_NOMEM": "the machine is out of memory",
    "SQLITE_PROTOCOL": "another program has locked the database; retrying",
}


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about the database at `path` into StoreAway and StoreRefused."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if _is_undecodable(error):  # `from None`: its message quotes the text, which may be a person's
            what = f"the database {path} cannot be used: a text in it is not UTF-8"
            raise StoreRefused(what, hint=_REFUSED["SQLITE_CORRUPT"]) from None
        translated = _translated(error, path) if isinstance(error, sqlite3.Error) else None
        if translated is None:
            raise
        raise translated from error


def _is_undecodable(error: Exception) -> bool:
    """Return whether a text in the database is not UTF-8: Python's module raises that without an SQLite code."""
    has_no_code = isinstance(error, sqlite3.OperationalError) and not hasattr(error, "sqlite_errorname")
    return has_no_code or isinstance(error, UnicodeDecodeError)


def _translated(error: sqlite3.Error, path: Path) -> MilepostError | None:
    """Return the error that the user sees for one of SQLite; None if it is a bug of ours."""
    code = getattr(error, "sqlite_errorname", "") or ""
    primary = "_".join(code.split("_")[:2])
    if primary in _OF_THE_SYSTEM and (cause := why_unopened(path)) is not None:
        found = error_of(path, "cannot be used", cause)
        hint = _REFUSED.get(primary, found.hint) if isinstance(found, StoreRefused) else found.hint
        return type(found)(f"the database {path} cannot be used: {error}: {cause.strerror}", hint=hint)
    if primary in _REFUSED:
        return StoreRefused(f"the database {path} cannot be used: {error}", hint=_REFUSED[primary])
    if primary in _AWAY:
        return StoreAway(f"the database {path} does not answer: {error}", hint=_AWAY[primary])
    return None


def reason_of(error: Exception) -> str:
    """Return the reason why a row was refused, without any of its values."""
    if isinstance(error, UnicodeEncodeError):  # its message quotes the character
        return "a text in it cannot be written as UTF-8: it holds half of a surrogate pair"
    return str(error)


# --- what the operating system reports about the files of a database --------------------------------------------------

NEEDED_FILES = 4  # descriptors that SQLite needs for a database: its file, -wal, -shm and their directory
NO_UNNAMED_FILES = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}  # open(2): some file systems lack O_TMPFILE

CHECK_URL = "check store.url, that its directory exists and that this user may write there"
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
    """Return the error that the user sees for one about a file of the database; `what` says what cannot be done.

    A read-only file system that already holds the database may have been remounted so after a disk failure.
    """
    text = f"the database {path} {what}: {error.strerror}"
    number = error.errno or 0
    if may_pass(error) or (number == errno.EROFS and _has_content(path)):
        return StoreAway(text, hint=HINTS.get(number, OTHER_HINT))
    return StoreRefused(text, hint=CHECK_URL)


def exists(path: Path) -> bool:
    """Return whether there is a file at `path`. Raises StoreRefused or StoreAway if this user cannot find out."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise error_of(path, "cannot be opened", error) from error
    return True


def why_unopened(path: Path) -> OSError | None:
    """Return why SQLite cannot open the database at `path` or a file beside it; None if there is no reason now.

    The files themselves are not opened: closing one would drop SQLite's locks on it (fcntl_locking(2)).
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
    """Create as many unnamed files as SQLite needs, which vanish at once. Raises OSError if that fails."""
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
