"""What PostgreSQL's errors mean for the user and for the engine, by their SQLSTATE."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

from milepost.core.errors import MilepostError, StoreAway, StoreRefused

# The errors by which PostgreSQL, psycopg or msgspec refuses a row: data exceptions (22), violated constraints (23), and
# values too large for an index (54).
REFUSALS = (psycopg.DataError, psycopg.IntegrityError, errors.ProgramLimitExceeded, OverflowError, UnicodeEncodeError)

# Two transactions conflicted: worth another attempt at once, in a new transaction.
_CONTENTION = (errors.DeadlockDetected, errors.SerializationFailure)

# A statement that was prepared in one session is looked for in another, or is already there.
_POOLER = "the URL leads to a pooler in transaction mode: set store.pooler: transaction"
# Permanent errors by the beginning of their SQLSTATE, each with what to do about it.
_REFUSED = {
    "28": "check the user in store.url and its password: store.password, store.password_file or ~/.pgpass",
    "3D": "check the database's name in store.url, or create it: createdb",
    "3F": "create the schema that store.views names, or check store.schema",
    "26": _POOLER,
    "42P05": _POOLER,
    "42501": "docs/postgresql.md lists the privileges that the user in store.url needs",
    "42": "the tables are not Milepost's: check store.url and store.schema, or restore a backup",
    "XX001": "restore the database from a backup, then start again: the journal knows where to continue",
    "XX002": "rebuild the index (REINDEX), or restore the database from a backup",
}
# Errors that may be temporary, each with what to do if they are not.
_AWAY = {
    "25006": "the server accepts no writes: it is a replica, or recovering; retrying",
    "53100": "the server's disk is full: make room; nothing that was committed is lost",
    "53300": "the server has no connection left: raise max_connections, or end other clients",
    "53": "the server is out of memory or of another resource: see its log",
    "55P03": "another session holds a lock that is needed; retrying",
    "57014": "the server took too long, or somebody cancelled the statement; retrying",
    "57": "the server is restarting or failing over; retrying",
    "58": "the server's disk is failing: see its log; nothing that was committed is lost",
    "40": "it conflicted with other sessions; retrying",
    "25": "the server ended a transaction that took too long; retrying",
    "08": "the connection to the server broke; retrying",
    # Errors without an SQLSTATE of their own, such as a file system of the server that went away (ESTALE, ENODEV).
    "XX000": "the server has an internal error: see its log; nothing that was committed is lost",
}
# PostgreSQL reports a read-only file system with the SQLSTATE of missing privileges.
_READ_ONLY = os.strerror(errno.EROFS)
_UNREACHABLE = "check that the server runs and that store.url leads to it"

# If a server rejects a connection, libpq passes on only the text, in the server's language, without an SQLSTATE.
# Unrecognised errors count as temporary, and are retried.
_REJECTED = {
    "password authentication failed": "28",
    "no password supplied": "28",
    "no pg_hba.conf entry": "28",
    "permission denied for database": "42501",
    "too many connections": "53300",
    "too many clients": "53300",
    "connection slots are reserved": "53300",
    'role "': "28",  # the role does not exist, or may not log in
    "certificate": "",  # the server's is not trusted, or the root's does not exist
    "does not exist": "3D",
    "the database system is": "57",  # starting up, shutting down, in recovery mode
    "does not support SSL": "",
}
_TLS = "check sslmode and sslrootcert in store.url: docs/postgresql.md"


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Turn psycopg's errors about the database `name` into StoreAway and StoreRefused, except for REFUSALS.

    Only PostgreSQL's primary messages are used, because its details quote rows.
    """
    try:
        yield
    except REFUSALS:
        raise
    except PoolTimeout as error:
        what = f"the database {name} does not answer: no connection in time"
        raise StoreAway(what, hint=_UNREACHABLE) from error
    except (psycopg.Error, PoolClosed, OSError) as error:
        if isinstance(error, psycopg.Error) and not (error.sqlstate or isinstance(error, psycopg.OperationalError)):
            raise  # we misused psycopg: a bug
        raise translated(error, name) from error


def translated(error: Exception, name: str) -> MilepostError:
    """Return the error that the user sees for one of psycopg."""
    state = (getattr(error, "sqlstate", None) or "") if isinstance(error, psycopg.Error) else ""
    message = _message_of(error)
    if not state:
        for words, meant in _REJECTED.items():
            if words in message:
                return _by_state(name, message, meant)
        return StoreAway(f"the database {name} does not answer: {message}", hint=_UNREACHABLE)
    if state == "42501" and _READ_ONLY in message:
        return _by_state(name, message, "58")
    for beginning in (state, state[:2]):
        if beginning in _AWAY or beginning in _REFUSED:
            return _by_state(name, message, beginning)
    return StoreRefused(f"the database {name} cannot be used: {message} (SQLSTATE {state})", hint="please report this")


def _by_state(name: str, message: str, state: str) -> MilepostError:
    if state in _AWAY:
        return StoreAway(f"the database {name} does not answer: {message}", hint=_AWAY[state])
    return StoreRefused(f"the database {name} cannot be used: {message}", hint=_REFUSED.get(state, _TLS))


def is_contention(error: MilepostError) -> bool:
    """Return whether two transactions conflicted, so that another attempt at once is worth it."""
    return isinstance(error.__cause__, _CONTENTION)


def is_of_statement(error: psycopg.Error) -> bool:
    """Return whether the server or psycopg refused a statement, so that its transaction was not committed.

    False for errors of psycopg itself: one may be the only sign of a broken connection that psycopg considers sound.
    """
    return error.sqlstate is not None or isinstance(error, REFUSALS)


def reason_of(error: Exception) -> str:
    """Return the reason why a row was refused, without any of its values."""
    if isinstance(error, UnicodeEncodeError):  # its message quotes the character
        return "a text in it cannot be written as UTF-8: it holds half of a surrogate pair"
    if isinstance(error, OverflowError | errors.NumericValueOutOfRange):
        return "a number in it is beyond 64 bits"
    if isinstance(error, errors.UntranslatableCharacter):
        return "a text in it holds a NUL character, which PostgreSQL does not take"
    if isinstance(error, errors.CheckViolation | errors.NotNullViolation):
        return f"it violates a constraint of its table: {error.diag.constraint_name or error.diag.column_name}"
    if isinstance(error, psycopg.Error):
        return f"PostgreSQL refuses it: SQLSTATE {error.sqlstate}, {type(error).__name__}"
    return f"it cannot be written: {type(error).__name__}"


def _message_of(error: Exception) -> str:
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    text = primary or str(error).strip() or type(error).__name__
    said = re.sub(r"Is the server running [^?]*\?", "", text.removeprefix("connection failed: "))  # our hint says that
    return " ".join(said.split())
