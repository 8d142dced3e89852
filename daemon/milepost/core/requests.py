"""What is asked of a stream as a whole, and what the journal keeps of it: nothing of what changes nothing."""

from milepost.core.checkpoint import Checkpoint
from milepost.core.decision import Record, passed_before
from milepost.core.events import Event, StreamPaused, StreamRemoved, StreamResumed, SyncRequested, TokenChecked
from milepost.core.model import TokenHealth
from milepost.core.plan import Slice


def pause(checkpoint: Checkpoint, by: str, work: Slice) -> Record | None:
    """Put the stream on hold."""
    return _recorded(checkpoint, StreamPaused(by), work) if checkpoint.on_hold is None else None


def resume(checkpoint: Checkpoint, by: str, work: Slice) -> Record | None:
    """End its hold."""
    return _recorded(checkpoint, StreamResumed(by), work) if checkpoint.on_hold is not None else None


def request_sync(checkpoint: Checkpoint, by: str, work: Slice, *, full: bool) -> Record:
    """Say who wants it worked at once."""
    return _recorded(checkpoint, SyncRequested(by, full), work)


def note_token(checkpoint: Checkpoint, health: TokenHealth, work: Slice) -> Record | None:
    """Keep how its token stands."""
    return _recorded(checkpoint, TokenChecked(health), work) if checkpoint.token != health else None


def remove(checkpoint: Checkpoint, by: str) -> Record | None:
    """Remove the stream with all its rows; None where nothing is stored of it."""
    if checkpoint.version == 0 or checkpoint.removed_at is not None:
        return None
    return Record((StreamRemoved(by),))


def _recorded(checkpoint: Checkpoint, event: Event, work: Slice) -> Record:
    return Record((*passed_before(checkpoint, work), event))
