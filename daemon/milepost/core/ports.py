"""What the core asks of the world: the values that cross its border, and the ports behind which the world lies."""

from datetime import datetime
from typing import Protocol

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, DeadLetter, Run
from milepost.core.events import Entry
from milepost.core.model import Batch, Changes, Detail, Keys, Known, RefusedRow, Scope
from milepost.core.problems import Problem


class Request(Struct, frozen=True):
    """A batch of the list edge: up to `limit` conversations after `cursor`, with up to `messages` messages each.

    `until` is the instant that the walk has to reach back to (None: the end of the inbox), `is_last` says that the run
    has no batch left after this one: both are for a source that fetches ahead and must know when it need not.
    """

    cursor: str | None
    limit: int
    messages: int
    until: datetime | None = None
    is_last: bool = False
    detail: Detail = Detail.NESTED


class Fetched(Struct, frozen=True):
    """The answer to a request. `asked_at` is when it was sent, or a little earlier, as far as clocks can tell."""

    batch: Batch
    asked_at: datetime
    took_seconds: float


class Refused(Struct, frozen=True):
    """The request failed. `took_seconds` is how long that took."""

    problem: Problem
    took_seconds: float


class Held(Struct, frozen=True):
    """Nothing was asked: while the call waited for its turn, its scope was paused."""


Outcome = Fetched | Refused
Answered = Outcome | Held


class Source(Protocol):
    """One stream's inbox."""

    async def fetch(self, request: Request) -> Answered:
        """Read a batch. Never raises for what the API or the network does: that is a Refused."""
        ...

    async def reread(self, conversation_id: str, messages: int) -> Answered:
        """Read one conversation, with up to `messages` of its messages, as a batch of one. Raises as `fetch` does."""
        ...


class Usage(Struct, frozen=True):
    """How much of a budget is used up: `ratio` is 1 where calls are refused, and can be more.

    `kind` is the API's name of what is counted: call_count, total_time or total_cputime.
    """

    scope: Scope
    kind: str
    ratio: float


class Gate(Protocol):
    """What a source asks right before each call and tells right after it, so that no call is made inside a pause."""

    def is_closed(self) -> bool:
        """Whether a pause forbids a call now."""
        ...

    def refused(self, problem: Problem) -> None:
        """Hear of a refusal, before anybody has acted on it: the calls that wait their turn must not be made."""
        ...

    def used(self, usages: tuple[Usage, ...]) -> None:
        """Hear what an answer's headers say of the budgets."""
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


class Rejected(Struct, frozen=True):
    """Nothing was stored, because the store will not take these rows; without them it would have."""

    rows: tuple[RefusedRow, ...]


class DueDeadLetter(Struct, frozen=True):
    """An open dead letter with all that a redrive needs; `payload` is None where the person it is about was erased."""

    dead_letter: DeadLetter
    payload: str | None


class Store(Protocol):
    """The database: journal, rows and projections.

    Its methods raise StoreAway while the database does not answer (worth another try) and StoreRefused when it cannot
    be used at all.
    """

    async def load(self, stream: str) -> Checkpoint:
        """Give the stream's checkpoint: its latest snapshot and the entries since."""
        ...

    async def known(self, keys: Keys) -> Known:
        """Give what is stored already under the keys."""
        ...

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store it durably and whole, or nothing of it.

        Raises VersionConflict if another writer appended to the stream first, RowsRejected if it cannot be told which
        rows are at fault, OutcomeUnknown if the database went away before it said what became of the commit.
        """
        ...

    async def settle(self, commit: Commit) -> Committed | None:
        """Say whether a commit was stored whose outcome is unknown; None where it was not, and will not be any more."""
        ...

    async def due_dead_letters(self, stream: str, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
        """Give open dead letters of the stream whose redrive is due, or whose payload was erased; the oldest first."""
        ...

    async def find_open_dead_letters(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        """Give those of these dead letters that are open."""
        ...


class RunResult(Struct, frozen=True):
    """How a stream's turn ended: with a run, or with an `error` that kept the run's end from being recorded."""

    stream: str
    run: Run | None
    error: str | None = None


class Clock(Protocol):
    """Where time and luck come from."""

    def now(self) -> datetime:
        """Return the time by the wall clock, in UTC."""
        ...

    def steady(self) -> float:
        """Return seconds by the steady clock, which begins anywhere."""
        ...

    def random(self) -> float:
        """Draw a number from [0, 1)."""
        ...

    async def sleep_until(self, instant: datetime) -> None:
        """Return when as much time has passed as it is until `instant` now, or at once if that has passed.

        Setting the wall clock meanwhile changes nothing.
        """
        ...
