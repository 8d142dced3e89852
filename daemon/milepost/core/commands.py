"""What is asked of a stream as a whole, and what the journal keeps of it: nothing of what changes nothing."""

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Event, StreamPaused, StreamRemoved, StreamResumed, SyncRequested, TokenChecked
from milepost.core.model import TokenHealth
from milepost.core.plan import RunBudget
from milepost.core.records import Record, unchanged_before


def pause(checkpoint: Checkpoint, by: str, budget: RunBudget) -> Record | None:
    """Put the stream on hold."""
    return _recorded(checkpoint, StreamPaused(by), budget) if checkpoint.operator_pause is None else None


def resume(checkpoint: Checkpoint, by: str, budget: RunBudget) -> Record | None:
    """End its hold."""
    return _recorded(checkpoint, StreamResumed(by), budget) if checkpoint.operator_pause is not None else None


def request_sync(checkpoint: Checkpoint, by: str, budget: RunBudget, *, full: bool) -> Record:
    """Say who wants it worked at once."""
    return _recorded(checkpoint, SyncRequested(by, full), budget)


def note_token(checkpoint: Checkpoint, health: TokenHealth, budget: RunBudget) -> Record | None:
    """Keep how its token stands."""
    return _recorded(checkpoint, TokenChecked(health), budget) if checkpoint.token != health else None


def remove(checkpoint: Checkpoint, by: str) -> Record | None:
    """Remove the stream with all its rows; None where nothing is stored of it."""
    if checkpoint.version == 0 or checkpoint.removed_at is not None:
        return None
    return Record((StreamRemoved(by),))


def _recorded(checkpoint: Checkpoint, event: Event, budget: RunBudget) -> Record:
    return Record((*unchanged_before(checkpoint, budget), event))


class Redrive(Struct, frozen=True):
    """Try a dead letter again, whenever its next redrive is due. `by` is who asks, as the journal keeps it."""

    dead_letter_id: str
    by: str = ""


class Discard(Struct, frozen=True):
    """Give a dead letter up. `by` is who asks."""

    dead_letter_id: str
    reason: str
    by: str = ""


class PauseStream(Struct, frozen=True):
    """Work the stream no more, from the batch in hand on. `by` is who asks."""

    by: str


class ResumeStream(Struct, frozen=True):
    """Work the stream again, at once. `by` is who asks."""

    by: str


class SyncNow(Struct, frozen=True):
    """Give the stream a turn at once, by a `full` sweep or whichever is due. `by` is who asks."""

    by: str
    full: bool = False


class RecordTokenHealth(Struct, frozen=True):
    """Keep how the stream's token stands."""

    health: TokenHealth


DeadLetterCommand = Redrive | Discard


StreamCommand = PauseStream | ResumeStream | SyncNow | RecordTokenHealth


Command = DeadLetterCommand | StreamCommand
