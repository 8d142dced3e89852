"""The facts that the journal keeps: past-tense events whose tags are data and stay for ever.

An entry is an event with its place: which stream, which version of it, which run, when. Counts travel as a `Tally`
that covers everything since the entry before it, because batches that change nothing get no entry of their own.
"""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

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
    """Where a sweep goes on: after `cursor`, or at the head of the inbox where that is None."""

    phase: Phase = Phase.WALK
    cursor: str | None = None


class Tally(Struct, frozen=True, omit_defaults=True):
    """Counts of what batches brought. `inserted`, `updated` and `unchanged` count conversations."""

    batches: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    dead_lettered: int = 0
    contacts: int = 0  # rows of contacts written
    interaction_events: int = 0  # rows of contact_interaction_events written
    without_contact: int = 0
    order_violations: int = 0

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
        return any((self.inserted, self.updated, self.dead_lettered, self.contacts, self.interaction_events))


NO_TALLY = Tally()


class RunStatus(StrEnum):
    """How a run stands or ended."""

    RUNNING = "running"
    COMPLETE = "complete"  # its sweep is complete
    COMPLETE_WITH_ERRORS = "complete_with_errors"  # complete, with dead letters on the way
    PAUSED = "paused"  # at a limit or for a shutdown; the place is saved
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


class Stage(StrEnum):
    """Which part of the work on a batch."""

    FETCH = "fetch"
    STORE = "store"
    EVENTS = "events"


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
    """Batches were stored, the last of them with this entry; the sweep goes on at `position`."""

    position: Position
    tally: Tally


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


class DeadLetterOpened(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A conversation could not be read; its payload is kept under `dead_letter_id` for a redrive."""

    dead_letter_id: str
    stage: Stage
    subject: str
    reason: str


class SweepCompleted(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The sweep reached its end and so did its run; `walk_started_at` is the new watermark.

    It carries all that a short sweep has to say, so that a sweep of one batch, quiet or not, is this one entry.
    """

    mode: Mode
    walk_started_at: datetime
    run_started_at: datetime
    tally: Tally


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


Event = (
    RunStarted
    | SweepStarted
    | BatchStored
    | FetchFailed
    | BatchFailed
    | DeadLetterOpened
    | SweepCompleted
    | RunEnded
    | StoreReturned
)

TAGS: dict[type[Event], str] = {
    RunStarted: "run_started",
    SweepStarted: "sweep_started",
    BatchStored: "batch_stored",
    FetchFailed: "fetch_failed",
    BatchFailed: "batch_failed",
    DeadLetterOpened: "dead_letter_opened",
    SweepCompleted: "sweep_completed",
    RunEnded: "run_ended",
    StoreReturned: "store_returned",
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
