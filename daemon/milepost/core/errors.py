"""The errors that an operator has to know about.

    MilepostError
    ├── BadConfiguration        config.yaml, a secret or an argument is wrong; nothing was started
    │   └── ConfigurationAway   … or cannot be read now; worth another start
    ├── StoreRefused            the database cannot be used as it is: unreadable, read-only, corrupt, too new
    │   └── StoreLost           … because one of its files was deleted or replaced while it was open
    │       └── StoreRemounted  … with the file system that it is on: a new start opens what is there now
    ├── StoreAway               the database is unavailable: locked, full, failing disk; worth a retry
    │   └── OutcomeUnknown      … and did not confirm a commit
    ├── StoreBusy               another Milepost is using this database
    ├── RowsRejected            the database refuses rows of a batch; the batch was not stored
    ├── VersionConflict         another writer has appended to this stream: the decision is out of date
    ├── HistoryRewritten        changes that a consumer has read were lost, as by a restore: it has to begin again
    └── JournalDamaged          an entry cannot be read, or its hash does not follow from its predecessor's

Each has a hint: the command to run or the key to change.
"""

import errno

# Errors of the operating system that may pass without a change of the configuration: a resource has run out, or a disk
# or file system went away.
_PASSING = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT, errno.ENOLCK),
        *(errno.EIO, errno.EREMOTEIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN),
        *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EBUSY, errno.EAGAIN),
    }
)


def may_pass(error: OSError) -> bool:
    """Return whether an error of the operating system may pass by itself, so that a new attempt makes sense."""
    return error.errno in _PASSING


class MilepostError(Exception):
    """An error shown to the user as one line with a hint, without a traceback."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class BadConfiguration(MilepostError):
    """The configuration, a secret it names or a command-line argument is wrong; nothing was started."""


class ConfigurationAway(BadConfiguration):
    """A file of the configuration cannot be read now, for a reason that may pass."""


class StoreRefused(MilepostError):
    """The database cannot be used as it is: unreadable, read-only, corrupt, or newer than this program."""


class StoreLost(StoreRefused):
    """A file of the database was deleted, replaced or overwritten while it was open: nothing more is committed."""


class StoreRemounted(StoreLost):
    """The file system of the database was mounted anew while it was open: a new start opens the one that is there."""


class StoreAway(MilepostError):
    """The database is unavailable: locked, full, or its disk fails. Worth a retry."""


class OutcomeUnknown(StoreAway):
    """The database went away during a commit: only the journal can show whether it was stored."""


class StoreBusy(MilepostError):
    """Another Milepost is using this database."""


class RowsRejected(MilepostError):
    """The database refuses rows of a batch. Nothing of the batch was stored."""


class VersionConflict(MilepostError):
    """Another writer appended to the stream first: the decision is out of date and was not stored."""


class HistoryRewritten(MilepostError):
    """The database has lost changes that a consumer has read, as after a restore, and assigns their numbers again."""


class JournalDamaged(MilepostError):
    """A journal entry cannot be read, or its hash does not follow from its predecessor's."""
