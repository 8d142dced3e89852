"""The facts that the journal keeps: past-tense events whose tags are data and stay for ever.

An entry is an event with its place: which stream, which version of it, which run, when. Counts travel as a `Tally`
that covers everything since the entry before it, because batches that change nothing get no entry of their own.
"""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from milepost.core.model import Detail, Scope, TokenHealth
from milepost.core.problems import Problem


class Mode(StrEnum):
    """How far a sweep walks: to the end of the inbox, or to the watermark of the sweep before it."""

    FULL = "full"
    INCREMENTAL = "incremental"


class Phase(StrEnum):
    """The two halves of a sweep: the walk, then the scan from the head for threads that moved behind the walk."""

    WALK = "walk"
    CATCH_UP = "catch_up"


class Position(Struct, frozen=True, omit_defaults=True):
    """Where a sweep goes on: after `cursor`, or at the head of the inbox where that is None.

    `reached_at` is the updated_time of the last conversation before that place; None where there was none. So many of
    the last ones in a row were `older` than the sweep has to go back.
    """

    phase: Phase = Phase.WALK
    cursor: str | None = None
    reached_at: datetime | None = None
    older: int = 0


class Tally(Struct, frozen=True, omit_defaults=True):
    """Counts of what batches brought. `inserted`, `updated` and `unchanged` count conversations.

    `dead_lettered` counts dead letters that were opened; `unreadable` everything in the batches that could not be read
    or written, whether its dead letter is new or open already.
    """

    batches: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    dead_lettered: int = 0
    contacts: int = 0  # rows of contacts written
    interaction_events: int = 0  # rows of contact_interaction_events written
    without_contact: int = 0
    order_violations: int = 0
    unreadable: int = 0
    deleted: int = 0  # conversations that a full sweep did not see any more

    def __add__(self, other: "Tally") -> "Tally":
        """Add up two stretches of work."""
        if other is NO_TALLY:  # of most runs and sweeps one is, and a journal has a million
            return self
        if self is NO_TALLY:
            return other
        return Tally(
            self.batches + other.batches,
            self.inserted + other.inserted,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.dead_lettered + other.dead_lettered,
            self.contacts + other.contacts,
            self.interaction_events + other.interaction_events,
            self.without_contact + other.without_contact,
            self.order_violations + other.order_violations,
            self.unreadable + other.unreadable,
            self.deleted + other.deleted,
        )

    @property
    def conversations(self) -> int:
        """How many conversations were read."""
        return self.inserted + self.updated + self.unchanged

    @property
    def has_changes(self) -> bool:
        """Whether any row was written or dead letter opened.

        A batch without changes is passed over until an entry covers it: of the batches in an entry's tally, at most
        the last one has changes.
        """
        return any(
            (self.inserted, self.updated, self.dead_lettered, self.contacts, self.interaction_events, self.deleted)
        )


NO_TALLY = Tally()


class RunStatus(StrEnum):
    """How a run stands or ended."""

    RUNNING = "running"
    COMPLETE = "complete"  # its sweep is complete
    COMPLETE_WITH_ERRORS = "complete_with_errors"  # complete, with dead letters on the way
    PAUSED = "paused"  # at a limit, for a shutdown or because somebody wants it; the place is saved
    FAILED = "failed"  # retries used up; the place is saved and the next run tries again
    STOPPED = "stopped"  # needs a person: a token, a permission, a setting
    INTERRUPTED = "interrupted"  # it broke off without recording its end; found by the next run


class Reason(StrEnum):
    """Why a run ended before its sweep did."""

    TIME_LIMIT = "time_limit"
    BATCH_LIMIT = "batch_limit"
    SHUTDOWN = "shutdown"
    RATE_LIMIT = "rate_limit"
    RETRIES_EXHAUSTED = "retries_exhausted"
    AUTHORIZATION = "authorization"
    CONFIGURATION = "configuration"
    PROCESS_DIED = "process_died"
    BROKE_OFF = "broke_off"  # in a process that lives on: the store stayed away, or there is a bug
    REQUEST = "request"  # somebody paused the stream
    REMOVED = "removed"  # the stream was taken out of the configuration


class Stage(StrEnum):
    """Which part of the work on a batch."""

    FETCH = "fetch"
    STORE = "store"
    EVENTS = "events"


class Resolution(StrEnum):
    """How a dead letter was closed."""

    REDRIVEN = "redriven"  # read or written in a redrive
    RECOVERED = "recovered"  # a sweep read or wrote what it is about
    DISCARDED = "discarded"  # a person gave it up
    FORGOTTEN = "forgotten"  # the person that it is about was erased


# --- the events -------------------------------------------------------------------------------------------------------


class RunStarted(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A run began to work on the stream. `started_at` precedes the entry: a run is recorded with its first result."""

    started_at: datetime


class SweepStarted(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A sweep began at the head of the inbox.

    `walk_started_at` is the server's time before its first batch: the watermark once the sweep is complete. The walk
    ends at a batch wholly older than `walk_until` (None: at the end of the inbox), the catch-up scan at one wholly
    older than `catch_up_until`.
    """

    mode: Mode
    walk_started_at: datetime
    catch_up_until: datetime
    walk_until: datetime | None = None


class BatchStored(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Batches were stored, the last of them with this entry; the sweep goes on at `position`.

    `batch` is the number of the last one in its run; 0 in an entry written before the number was kept.
    """

    position: Position
    tally: Tally
    batch: int = 0


class FetchFailed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The batch at the sweep's position could not be read; it is tried again at `retry_at`."""

    attempt: int
    problem: Problem
    retry_at: datetime


class BatchFailed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The batch at the sweep's position was given up for this run, after `attempts` tries."""

    stage: Stage
    attempts: int
    problem: Problem


class RateLimited(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A limit was reached: no call is made in its scope until `until`. It is the `attempts`th time since `since`."""

    scope: Scope
    attempts: int
    since: datetime
    until: datetime
    problem: Problem


class BatchShrunk(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The batch at the sweep's position was too heavy, or holds what cannot be read: less is asked for."""

    limit: int
    detail: Detail
    problem: Problem


class CursorLost(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The cursor at the sweep's position was refused: the phase begins anew at the head, where nothing is doubled."""

    problem: Problem


class DeadLetterOpened(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Something could not be read or written; its payload is kept under `dead_letter_id` for a redrive.

    `subject` is what it is about: a conversation's id, `<id>/messages` (those that could not be read), `<id>/row` and
    `<id>/events/…` (those that could not be written), `contact <id>`, or `sha256:…` of what has no id. `redrive_at` is
    when it is tried again by itself. The payload's `fingerprint` tells whether it is still the same once somebody
    discarded it.
    """

    dead_letter_id: str
    stage: Stage
    subject: str
    reason: str
    redrive_at: datetime | None = None
    fingerprint: str = ""


class RedriveFailed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A dead letter was tried again, for the `attempts`th time, in vain. `redrive_at` None: no more by itself.

    `tally` counts what was written on the way all the same. `by` is who asked for it; empty where nobody had to.
    """

    dead_letter_id: str
    attempts: int
    reason: str
    redrive_at: datetime | None = None
    tally: Tally = NO_TALLY
    by: str = ""


class DeadLetterClosed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A dead letter came to its end. `tally` counts what a redrive wrote; `reason` is the one a person gave.

    `by` is who asked for it; empty where nobody had to.
    """

    dead_letter_id: str
    resolution: Resolution
    tally: Tally = NO_TALLY
    reason: str = ""
    by: str = ""


class SweepCompleted(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The sweep reached its end and so did its run; `walk_started_at` is the new watermark.

    It carries all that a short sweep has to say, so that a sweep of one batch, quiet or not, is this one entry.
    `has_errors` says that the sweep opened dead letters, in this run or an earlier one; an entry written before that
    was kept does not say so.
    """

    mode: Mode
    walk_started_at: datetime
    run_started_at: datetime
    tally: Tally
    has_errors: bool = False


class RunEnded(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A run ended before its sweep did. `position` is where the next run goes on; None where no sweep is open."""

    status: RunStatus
    reason: Reason
    position: Position | None = None
    tally: Tally = NO_TALLY
    problem: Problem | None = None


class StoreReturned(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The store answered again after it had been away; this entry came with the first commit it took."""

    away_seconds: float
    attempts: int


class StreamPaused(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Somebody put the stream on hold: no call is made for it until it is resumed. `by` is who asked for it."""

    by: str


class StreamResumed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Somebody ended the hold of the stream. `by` is who asked for it."""

    by: str


class SyncRequested(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Somebody wants the stream worked at once, by a `full` sweep or whichever is due. `by` is who asked for it."""

    by: str
    full: bool = False


class TokenChecked(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The platform told how the stream's token stands, and it was not what it had told before."""

    health: TokenHealth


class StreamRemoved(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Somebody removed the stream with all its rows: it begins anew if it is ever worked again. `by` is who asked."""

    by: str


StreamEvent = StreamPaused | StreamResumed | SyncRequested | TokenChecked | StreamRemoved
"""What concerns a stream as a whole, whatever its run is at."""

Event = (
    RunStarted
    | SweepStarted
    | BatchStored
    | FetchFailed
    | BatchFailed
    | RateLimited
    | BatchShrunk
    | CursorLost
    | DeadLetterOpened
    | RedriveFailed
    | DeadLetterClosed
    | SweepCompleted
    | RunEnded
    | StoreReturned
    | StreamEvent
)

TAGS: dict[type[Event], str] = {
    RunStarted: "run_started",
    SweepStarted: "sweep_started",
    BatchStored: "batch_stored",
    FetchFailed: "fetch_failed",
    BatchFailed: "batch_failed",
    RateLimited: "rate_limited",
    BatchShrunk: "batch_shrunk",
    CursorLost: "cursor_lost",
    DeadLetterOpened: "dead_letter_opened",
    RedriveFailed: "redrive_failed",
    DeadLetterClosed: "dead_letter_closed",
    SweepCompleted: "sweep_completed",
    RunEnded: "run_ended",
    StoreReturned: "store_returned",
    StreamPaused: "stream_paused",
    StreamResumed: "stream_resumed",
    SyncRequested: "sync_requested",
    TokenChecked: "token_checked",
    StreamRemoved: "stream_removed",
}


class Entry(Struct, frozen=True):
    """An event in its place in the journal. `type` and `data` are its stored form, `hash` seals it to the chain."""

    stream: str
    version: int
    run_id: str | None
    recorded_at: datetime
    type: str
    data: str
    hash: str
    event: Event
