"""Where streams have got to since their last entry: batches that change nothing are told to readers of the feed only.

Without it a long sweep that finds nothing new would look as if nothing was done.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from milepost.core.checkpoint import Checkpoint
from milepost.engine.feed import Notice, Recorded, UnchangedRead

MAX_AGE = timedelta(minutes=5)  # a batch takes less; one that is older was of a run that broke off


class Underway:
    """A reader of the feed: keeps one checkpoint a stream, from a batch that was passed over to the next entry."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._unchanged: dict[str, tuple[datetime, Checkpoint]] = {}

    def read(self, notice: Notice) -> None:
        """Take over where a stream stands."""
        match notice:
            case UnchangedRead(checkpoint=checkpoint):
                self._unchanged[checkpoint.stream] = self._now(), checkpoint
            case Recorded(checkpoint=checkpoint):
                self._unchanged.pop(checkpoint.stream, None)
            case _:
                return

    def since(self, recorded: Checkpoint) -> Checkpoint:
        """Give where the stream stands that stood at `recorded` after its last entry."""
        at, checkpoint = self._unchanged.get(recorded.stream, (self._now(), recorded))
        is_of_now = checkpoint.version == recorded.version and abs(self._now() - at) < MAX_AGE
        return checkpoint if is_of_now else recorded
