"""The ports between the core and the world, and the values that cross them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, DeadLetter, Run
from milepost.core.events import Entry
from milepost.core.model import Batch, Changes, Detail, Keys, Known, MessagePage, RefusedRow, Stream
from milepost.core.position import Gap, GapEnding, ThreadsSearched
from milepost.core.problems import Problem, Scope
from milepost.core.webhooks import DueFact


class Request(Struct, frozen=True):
    """A request for a batch: up to `limit` conversations after `cursor`, with up to `messages` messages each.

    `own_id` is taken as ours while the expected one is in no thread. `until` is how far back the walk has to go (None:
    to the end of the inbox), and `batches_left` is how many batches the run may read after this one, 0 if none is sure
    to follow: both tell a prefetching source when to stop. With `checks_list`, a refusal is followed by a check whether
    the list can be read at all (core/failures.py).
    """

    cursor: str | None
    limit: int
    messages: int
    until: datetime | None = None
    batches_left: int = 1
    detail: Detail = Detail.NESTED
    checks_list: bool = False
    own_id: str | None = None


class Fetched(Struct, frozen=True):
    """The batch of a request. `asked_at` is when it was sent, or a little earlier if clocks differ.

    `left_out` are the fields that the API refuses by name; None if this request does not show it. `is_whole` says that
    its conversation was read alone and in full, whatever the request left out.
    """

    batch: Batch
    asked_at: datetime
    took_seconds: float
    left_out: tuple[str, ...] | None = None
    is_whole: bool = False


class ListCheck(Struct, frozen=True):
    """The positions at the cursor of a refused request were requested right after it.

    `problem` is why they were refused; None if the list can be read. `listed` are the threads after the cursor.
    """

    problem: Problem | None = None
    listed: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        """The thread at the cursor, empty if none was listed."""
        return self.listed[0] if self.listed else ""


class MessagesRequest(Struct, frozen=True):
    """A request for up to `limit` messages of a conversation, after `cursor`; without one, for the newest."""

    conversation_id: str
    cursor: str | None
    limit: int


class MessagesFetched(Struct, frozen=True):
    """The messages of a request, and when it was sent (see Fetched)."""

    page: MessagePage
    asked_at: datetime
    took_seconds: float


class Refused(Struct, frozen=True):
    """The request failed, after `took_seconds`.

    `refused_at` is when its Gate noted it; None if there is no Gate. `check` is None if it was not checked whether the
    list can be read.
    """

    problem: Problem
    took_seconds: float
    refused_at: datetime | None = None
    check: ListCheck | None = None


class Held(Struct, frozen=True):
    """No call was made: a rate limit was hit in its scope while it waited to be sent."""

    def __str__(self) -> str:
        return "a rate limit forbids calls"


Outcome = Fetched | Refused
Answered = Outcome | Held
MessagesOutcome = MessagesFetched | Refused
MessagesAnswered = MessagesOutcome | Held


class Source(Protocol):
    """One stream's inbox."""

    async def fetch(self, request: Request) -> Answered:
        """Read a batch. Failures of the API and the network are returned as Refused, never raised."""
        ...

    async def reread(self, conversation_id: str, messages: int) -> Answered:
        """Read one conversation, with up to `messages` messages, as a batch of one. Fails as `fetch` does."""
        ...

    async def messages(self, request: MessagesRequest) -> MessagesAnswered:
        """Read messages of one conversation. Fails as `fetch` does."""
        ...


class Usage(Struct, frozen=True):
    """How much of a rate limit's budget is used: calls are refused from a `ratio` of 1, which can be exceeded.

    `kind` is the API's name for what is counted: call_count, total_time or total_cputime.
    """

    scope: Scope
    kind: str
    ratio: float


class Gate(Protocol):
    """The rate limits as a source sees them. It checks them right before each call, and reports to them right after."""

    def is_closed(self) -> bool:
        """Return whether a rate limit forbids a call now."""
        ...

    def refused(self, problem: Problem) -> datetime:
        """Note a refusal at once, so that calls already waiting are not made; return the time."""
        ...

    def used(self, usages: tuple[Usage, ...]) -> None:
        """Note the budgets in the headers of a response."""
        ...


class Commit(Struct, frozen=True):
    """Entries, rows, and the projections after the entries, which are stored together or not at all.

    `known` has the stored rows that the new rows were compared with; None if that does not matter.
    """

    entries: tuple[Entry, ...]
    changes: Changes
    checkpoint: Checkpoint
    run: Run | None
    known: Known | None = None


class Committed(Struct, frozen=True):
    """A durable commit. `first_seq` is the seq of its first journal entry; the others follow without a gap."""

    first_seq: int
    rows_seconds: float
    events_seconds: float


class Rejected(Struct, frozen=True):
    """Nothing was stored, because the store refuses these rows; without them the commit would succeed.

    Without rows, another stream has written about the same conversations since the commit was decided.
    """

    rows: tuple[RefusedRow, ...]


class DueDeadLetter(Struct, frozen=True):
    """An open dead letter and its payload, which is None if its person was erased."""

    dead_letter: DeadLetter
    payload: str | None


class OpenGap(Struct, frozen=True):
    """A gap with messages that are still owed. If it has an `ending`, it is no longer read.

    Its person may have been erased, and the conversation `has_moved` if it belongs to another page.
    """

    gap: Gap
    is_forgotten: bool
    has_moved: bool = False

    @property
    def ending(self) -> GapEnding | None:
        """Why nothing of it is to be read any more; None if it is to be read."""
        if self.is_forgotten:
            return GapEnding.FORGOTTEN
        return GapEnding.MOVED if self.has_moved and not self.gap.is_elsewhere else None


class Store(Protocol):
    """The database: journal, rows and projections.

    Its methods raise StoreAway while the database is unavailable (worth a retry) and StoreRefused if it cannot be used
    at all.
    """

    async def load(self, stream: Stream) -> Checkpoint:
        """Return the stream's checkpoint: its latest snapshot and the entries since."""
        ...

    async def known(self, keys: Keys) -> Known:
        """Return the stored values under the keys."""
        ...

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store a commit durably, as a whole or not at all.

        Raises VersionConflict if another writer appended to the stream first, RowsRejected if it is unknown which rows
        are at fault, and OutcomeUnknown if the database went away before it confirmed the commit.
        """
        ...

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[Committed | Rejected]:
        """Store commits that follow one another in one stream together, in one transaction.

        Returns the results up to the first refused one, if one is refused: those before it are stored, and none after
        it. Raises what `commit` raises for the first; OutcomeUnknown is about all of them.
        """
        ...

    async def settle(self, commit: Commit) -> Committed | None:
        """Return the result of a commit whose outcome is unknown; None if it was not stored and never will be."""
        ...

    async def due_dead_letters(self, stream: Stream, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
        """Return open dead letters of the stream whose redrive is due or whose payload was erased, oldest first."""
        ...

    async def due_facts(self, stream: Stream, limit: int) -> tuple[DueFact, ...]:
        """Return up to `limit` facts about stored messages of the stream, the earliest first."""
        ...

    async def open_gaps(self, stream: Stream, limit: int) -> tuple[OpenGap, ...]:
        """Return up to `limit` open gaps of the stream, the newest first, but histories after all others."""
        ...

    async def gaps_at_limit(self, stream: Stream, later_than: datetime, limit: int) -> tuple[Gap, ...]:
        """Return up to `limit` histories of the stream that are at their limit and ended later than `later_than`."""
        ...

    async def search_threads(self, stream: Stream, after: datetime | None, limit: int) -> ThreadsSearched:
        """Search about `limit` conversations of the stream, those next by `updated_time` later than `after`."""
        ...

    async def find_open_dead_letters(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        """Return which of these dead letters are open."""
        ...


class RunResult(Struct, frozen=True):
    """The result of running a stream: its run, or the `error` that kept the run's end from being recorded.

    `backlog` counts the conversations with older messages that the run has not read.
    """

    stream: Stream
    run: Run | None
    error: str | None = None
    backlog: int = 0


class Clock(Protocol):
    """The source of time and randomness."""

    def now(self) -> datetime:
        """Return the wall-clock time in UTC."""
        ...

    def steady(self) -> float:
        """Return the seconds of a monotonic clock with an arbitrary start."""
        ...

    def random(self) -> float:
        """Return a random number in [0, 1)."""
        ...

    async def sleep_until(self, instant: datetime) -> None:
        """Sleep for the time that is now left until `instant`; return at once if it has passed.

        Setting the wall clock meanwhile makes no difference.
        """
        ...
