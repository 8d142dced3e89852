"""The events of the journal: facts in the past tense. Their tags are data and never change.

An entry is an event with its stream, version, run and time. Counts travel as a `Tally` that covers everything since the
previous entry, because batches that change nothing get no entry of their own.
"""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from milepost.core.model import Detail, OwnId, Stream, TokenHealth
from milepost.core.position import MessagesFailed, MessagesMissed, MessagesOwed, MessagesRead, Mode, Phase, Position
from milepost.core.problems import Problem, Scope
from milepost.core.webhooks import FactsApplied


class Tally(Struct, frozen=True, omit_defaults=True):
    """Counts over one or more batches. `inserted`, `updated` and `unchanged` count conversations."""

    batches: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    dead_lettered: int = 0  # dead letters that were opened
    contacts: int = 0  # rows of contacts written
    interaction_events: int = 0  # rows of contact_interaction_events written
    without_contact: int = 0
    order_violations: int = 0
    unreadable: int = 0  # subjects that could not be read or written, with a new or an open dead letter
    deleted: int = 0  # conversations that a full sweep no longer saw
    replaced_characters: int = 0  # NULs and halves of surrogate pairs that were replaced by U+FFFD
    moved: int = 0  # conversations, among those updated, that belonged to another page
    edited: int = 0  # messages that were read again with different content
    unsent: int = 0  # messages that are no longer there: their content was erased
    doubted: int = 0  # messages that are missing in answers which are not believed: their content stays

    def __add__(self, other: "Tally") -> "Tally":
        """Return the sums of both."""
        if other is NO_TALLY:  # one of the two usually is, and a journal has a million entries
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
            self.replaced_characters + other.replaced_characters,
            self.moved + other.moved,
            self.edited + other.edited,
            self.unsent + other.unsent,
            self.doubted + other.doubted,
        )

    @property
    def conversations(self) -> int:
        """The number of conversations that were read."""
        return self.inserted + self.updated + self.unchanged

    @property
    def has_changes(self) -> bool:
        """Whether a row was written or a dead letter opened. Of an entry's batches, only the last may have changes."""
        written = self.contacts, self.interaction_events, self.edited, self.unsent
        return any((self.inserted, self.updated, self.dead_lettered, self.deleted, *written))


NO_TALLY = Tally()


class RunStatus(StrEnum):
    """The status of a run."""

    RUNNING = "running"
    COMPLETE = "complete"  # its sweep is complete
    COMPLETE_WITH_ERRORS = "complete_with_errors"  # its sweep is complete and opened dead letters
    PAUSED = "paused"  # stopped at a limit, by a shutdown or by an operator; its position is saved
    FAILED = "failed"  # retries exhausted; its position is saved and the next run tries again
    STOPPED = "stopped"  # needs an operator: a token, a permission, a setting
    INTERRUPTED = "interrupted"  # ended without recording it; the next run found it open


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
    BROKE_OFF = "broke_off"  # the process lives on: the store stayed unavailable, or there is a bug
    REQUEST = "request"  # an operator paused the stream
    REMOVED = "removed"  # the stream was removed from the configuration


class Stage(StrEnum):
    """The part of the work on a batch."""

    FETCH = "fetch"
    STORE = "store"
    EVENTS = "events"


class Resolution(StrEnum):
    """How a dead letter was closed."""

    REDRIVEN = "redriven"  # a redrive read or wrote it
    RECOVERED = "recovered"  # a sweep read or wrote its subject
    DISCARDED = "discarded"  # an operator gave it up
    FORGOTTEN = "forgotten"  # its person was erased


class RunStarted(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A run started. `started_at` precedes the entry: a run is recorded together with its first result.

    `continues` is where it resumed an open sweep; None if it did not, and in entries from before the field.
    """

    started_at: datetime
    continues: Phase | None = None


class SweepStarted(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A sweep started at the head of the inbox.

    `walk_started_at` is the server's time before the first batch: the watermark once the sweep is complete. The walk
    ends at a batch wholly older than `walk_until` (None: at the end of the inbox), the catch-up scan at one wholly
    older than `catch_up_until`.
    """

    mode: Mode
    walk_started_at: datetime
    catch_up_until: datetime
    walk_until: datetime | None = None


class BatchStored(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One or more batches were stored, the last of them with this entry; the sweep continues at `position`.

    `batch` is the number of the last one in its run; 0 in entries from before the field. `problem` is why the walk ends
    there although the list goes on.
    """

    position: Position
    tally: Tally
    batch: int = 0
    problem: Problem | None = None


class FetchFailed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The batch at the sweep's position could not be read; the next attempt is due at `retry_at`.

    `suspect` is a thread that was requested alone and failed for the `confirmed`th time in a row, while the list could
    be read right afterwards; empty if the failure proves nothing about a thread.
    """

    attempt: int
    problem: Problem
    retry_at: datetime
    suspect: str = ""
    confirmed: int = 0


class BatchFailed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The batch at the sweep's position was given up for this run after `attempts` attempts."""

    stage: Stage
    attempts: int
    problem: Problem


class RateLimited(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A rate limit was hit: no calls in its scope until `until`. It was hit `attempts` times in a row since `since`."""

    scope: Scope
    attempts: int
    since: datetime
    until: datetime
    problem: Problem


class BatchShrunk(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The batch at the sweep's position was too large or has an unreadable item: the next request is smaller.

    `suspect` is the thread that fails alone; the next request leaves a part of it out. Empty if there is none.
    """

    limit: int
    detail: Detail
    problem: Problem
    suspect: str = ""


class CursorLost(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The cursor at the sweep's position was refused: its phase restarts at the head, which duplicates no row.

    `is_last` says that the sweep restarts only once for such a problem: if it persists, the phase ends there.
    """

    problem: Problem
    is_last: bool = False


class FieldsLeftOut(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The API refuses these fields by name, so that conversations are read without them; none: all are read again."""

    fields: tuple[str, ...] = ()


class DeadLetterOpened(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Something could not be read or written; its payload is kept under `dead_letter_id` for a redrive.

    `subject` names it: a conversation's id, `<id>/messages` (could not be read), `<id>/row` and `<id>/events/…` (could
    not be written), `<id>/older/…` (older messages, could not be read), `contact <id>`, or `sha256:…` for an item
    without an id. `redrive_at` is when it is retried automatically. The payload's `fingerprint` shows whether it has
    changed after an operator discarded it.
    """

    dead_letter_id: str
    stage: Stage
    subject: str
    reason: str
    redrive_at: datetime | None = None
    fingerprint: str = ""


class RedriveFailed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The redrive number `attempts` of a dead letter failed; after `redrive_at` None it is not retried automatically.

    `tally` counts what was written nevertheless. `by` is who requested it, empty for an automatic redrive.
    """

    dead_letter_id: str
    attempts: int
    reason: str
    redrive_at: datetime | None = None
    tally: Tally = NO_TALLY
    by: str = ""


class DeadLetterClosed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A dead letter was closed. `tally` counts what a redrive wrote; `reason` is the one that an operator gave.

    `by` is who requested it; empty if it was automatic.
    """

    dead_letter_id: str
    resolution: Resolution
    tally: Tally = NO_TALLY
    reason: str = ""
    by: str = ""


class SweepCompleted(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A sweep is complete, and its run with it; `walk_started_at` is the new watermark.

    It has all the fields of a short sweep, so that a sweep of one batch, with changes or without, is this one entry.
    `has_errors` is true if the sweep opened dead letters, in this run or an earlier one, or is in doubt; it is false in
    all entries from before the field. `problem` is why the sweep cannot be relied on: then it marked nothing as
    deleted.
    """

    mode: Mode
    walk_started_at: datetime
    run_started_at: datetime
    tally: Tally
    has_errors: bool = False
    problem: Problem | None = None


class RunEnded(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A run ended before its sweep did. The next run continues at `position`; None if no sweep is open."""

    status: RunStatus
    reason: Reason
    position: Position | None = None
    tally: Tally = NO_TALLY
    problem: Problem | None = None


class StoreReturned(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The store was unavailable and has recovered; this entry is part of its first commit since."""

    away_seconds: float
    attempts: int


class StreamPaused(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An operator paused the stream: no calls until it is resumed. `by` is who requested it."""

    by: str


class StreamResumed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An operator resumed the stream. `by` is who requested it."""

    by: str


class SyncRequested(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An operator requested an immediate run, with a `full` sweep or whichever is due. `by` is who requested it."""

    by: str
    full: bool = False


class TokenChecked(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The health of the stream's token, as the platform reports it, has changed."""

    health: TokenHealth


class OwnIdChecked(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the participants of the stream's threads say about our own id has changed."""

    found: OwnId


class StreamRemoved(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An operator removed the stream with all its rows; its next run starts over. `by` is who requested it."""

    by: str


GapEvent = MessagesOwed | MessagesRead | MessagesFailed | MessagesMissed
StreamEvent = StreamPaused | StreamResumed | SyncRequested | TokenChecked | OwnIdChecked | StreamRemoved
"""Events about a stream as a whole, independent of its run."""

Event = (
    RunStarted
    | SweepStarted
    | BatchStored
    | FetchFailed
    | BatchFailed
    | RateLimited
    | BatchShrunk
    | CursorLost
    | FieldsLeftOut
    | DeadLetterOpened
    | RedriveFailed
    | DeadLetterClosed
    | SweepCompleted
    | RunEnded
    | StoreReturned
    | GapEvent
    | FactsApplied
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
    FieldsLeftOut: "fields_left_out",
    DeadLetterOpened: "dead_letter_opened",
    RedriveFailed: "redrive_failed",
    DeadLetterClosed: "dead_letter_closed",
    SweepCompleted: "sweep_completed",
    RunEnded: "run_ended",
    StoreReturned: "store_returned",
    MessagesOwed: "messages_owed",
    MessagesRead: "messages_read",
    MessagesFailed: "messages_failed",
    MessagesMissed: "messages_missed",
    FactsApplied: "facts_applied",
    StreamPaused: "stream_paused",
    StreamResumed: "stream_resumed",
    SyncRequested: "sync_requested",
    TokenChecked: "token_checked",
    OwnIdChecked: "own_id_checked",
    StreamRemoved: "stream_removed",
}


class Entry(Struct, frozen=True):
    """An event as recorded in the journal. `type` and `data` are its stored form, `hash` links it into the chain."""

    stream: Stream
    version: int
    run_id: str | None
    recorded_at: datetime
    type: str
    data: str
    hash: str
    event: Event
