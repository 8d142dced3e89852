"""What can go wrong in a way that a person has to know of.

    MilepostError
    ├── BadConfiguration        config.yaml, a secret or an argument is wrong; nothing was started
    ├── StoreRefused            the database cannot be used as it is: unreadable, read-only, corrupt, too new
    │   └── StoreLost           … because a file of it was deleted or replaced while it was open
    ├── StoreAway               the database does not answer now: locked, full, failing disk; worth another try
    │   └── OutcomeUnknown      … and did not say what became of a commit
    ├── StoreBusy               another Milepost works on this database
    ├── RowsRejected            the database will not take some row of a batch; the batch was not stored
    ├── VersionConflict         somebody else has appended to this stream: what was decided is out of date
    └── JournalDamaged          an entry cannot be read, or its hash does not follow from its predecessor's

Each carries a hint: the command to run or the key to change.
"""


class MilepostError(Exception):
    """An error that is told to the user in one line, with a hint of what to do, and without a traceback."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class BadConfiguration(MilepostError):
    """The configuration, a secret it names or a command-line argument is wrong; nothing was started."""


class StoreRefused(MilepostError):
    """The database cannot be used as it is: unreadable, read-only, corrupt, or newer than this program."""


class StoreLost(StoreRefused):
    """A file of the database was deleted, replaced or overwritten while it was open: nothing more is committed."""


class StoreAway(MilepostError):
    """The database does not answer now: locked, full, or its disk fails. Worth another try."""


class OutcomeUnknown(StoreAway):
    """The database went away in the middle of a commit: only the journal can tell whether it was stored."""


class StoreBusy(MilepostError):
    """Another Milepost holds this database."""


class RowsRejected(MilepostError):
    """The database will not take some row of a batch. Nothing of the batch was stored."""


class VersionConflict(MilepostError):
    """Another writer appended to the stream first: what was decided is out of date and was not stored."""


class JournalDamaged(MilepostError):
    """A journal entry cannot be read, or its hash does not follow from its predecessor's."""
