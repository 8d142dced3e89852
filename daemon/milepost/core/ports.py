"""What the core asks of the world: the values that cross its border, and the two ports behind which the world lies."""

from datetime import datetime
from typing import Protocol

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.events import Entry
from milepost.core.model import Batch, Changes, Keys, Known
from milepost.core.problems import Problem


class Request(Struct, frozen=True):
    """One call of the list edge: up to `limit` conversations after `cursor`, with `messages` nested messages each.

    `until` is the instant that the walk has to reach back to (None: the end of the inbox), `is_last` says that the run
    has no batch left after this one: both are for a source that fetches ahead and must know when it need not.
    """

    cursor: str | None
    limit: int
    messages: int
    until: datetime | None = None
    is_last: bool = False


class Fetched(Struct, frozen=True):
    """The answer to a request. `asked_at` is the server's clock when the request was sent, or a little earlier."""

    batch: Batch
    asked_at: datetime
    took_seconds: float


class Refused(Struct, frozen=True):
    """The request failed. `took_seconds` is how long that took."""

    problem: Problem
    took_seconds: float


Outcome = Fetched | Refused


class Source(Protocol):
    """One stream's inbox."""

    async def fetch(self, request: Request) -> Outcome:
        """Read a batch. Never raises for what the API or the network does: that is a Refused."""
        ...


class Commit(Struct, frozen=True):
    """All that is stored together or not at all: entries, rows, and the projections after the entries."""

    entries: tuple[Entry, ...]
    changes: Changes
    checkpoint: Checkpoint
    run: Run | None


class Committed(Struct, frozen=True):
    """A commit that is durable. `first_seq` is the journal seq of its first entry; the others follow without a gap."""

    first_seq: int
    rows_seconds: float
    events_seconds: float


class Store(Protocol):
    """The database: journal, rows and projections.

    Its methods raise StoreAway while the database does not answer (worth another try) and StoreRefused when it cannot
    be used at all.
    """

    async def recall(self, stream: str) -> Checkpoint:
        """Give the stream's checkpoint: its latest snapshot and the entries since."""
        ...

    async def known(self, keys: Keys) -> Known:
        """Give what is stored already under the keys."""
        ...

    async def commit(self, commit: Commit) -> Committed:
        """Store it durably and whole. Raises VersionConflict if another writer appended to the stream first."""
        ...
