"""Commands on a stream and its dead letters, and their journal entries. A command that changes nothing has none."""

from datetime import datetime

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import MilepostError
from milepost.core.events import Event, StreamPaused, StreamRemoved, StreamResumed, SyncRequested, TokenChecked
from milepost.core.model import TokenHealth
from milepost.core.plan import RunBudget
from milepost.core.records import Record, unchanged_before


class CommandDeferred(MilepostError):
    """A command was not tried, because no call is allowed now. `until` is when one will be; None if that is unknown."""

    def __init__(self, message: str, *, hint: str = "", until: datetime | None = None) -> None:
        super().__init__(message, hint=hint)
        self.until = until


class Redrive(Struct, frozen=True):
    """Redrive a dead letter now, even if its next redrive is due later. `by` is who requests it, for the journal."""

    dead_letter_id: str
    by: str = ""


class Discard(Struct, frozen=True):
    """Discard a dead letter. `by` is who requests it."""

    dead_letter_id: str
    reason: str
    by: str = ""


class PauseStream(Struct, frozen=True):
    """Pause the stream after the current batch. `by` is who requests it."""

    by: str


class ResumeStream(Struct, frozen=True):
    """Resume the stream and run it at once. `by` is who requests it."""

    by: str


class SyncNow(Struct, frozen=True):
    """Run the stream at once, with a `full` sweep or whichever is due. `by` is who requests it."""

    by: str
    full: bool = False


class RecordTokenHealth(Struct, frozen=True):
    """Record the health of the stream's token."""

    health: TokenHealth


class ApplyFacts(Struct, frozen=True):
    """Apply the facts that webhooks reported about stored messages."""


DeadLetterCommand = Redrive | Discard
StreamCommand = PauseStream | ResumeStream | SyncNow | RecordTokenHealth
Command = DeadLetterCommand | StreamCommand | ApplyFacts


def decide_command(checkpoint: Checkpoint, command: StreamCommand, budget: RunBudget) -> Record | None:
    """Return what to record of a command; None if it changes nothing."""
    event = _event_of(checkpoint, command)
    return Record((*unchanged_before(checkpoint, budget), event)) if event is not None else None


def _event_of(checkpoint: Checkpoint, command: StreamCommand) -> Event | None:
    match command:
        case PauseStream(by=by):
            return StreamPaused(by) if checkpoint.operator_pause is None else None
        case ResumeStream(by=by):
            return StreamResumed(by) if checkpoint.operator_pause is not None else None
        case SyncNow(by=by, full=full):
            return SyncRequested(by, full)
        case RecordTokenHealth(health=health):
            return TokenChecked(health) if checkpoint.token != health else None


def remove(checkpoint: Checkpoint, by: str) -> Record | None:
    """Return the record that removes the stream with all its rows; None if nothing is stored for it."""
    if checkpoint.version == 0 or checkpoint.removed_at is not None:
        return None
    return Record((StreamRemoved(by),))
