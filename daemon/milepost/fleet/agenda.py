"""Which streams are due, as far as one worker knows: by the journal, by what is asked for, by what came of turns."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Entry, RunStarted, StreamResumed, SweepCompleted, SyncRequested
from milepost.core.model import Stream
from milepost.engine.supervisor import Pace
from milepost.fleet.due import due_at


class Wanted(Struct, frozen=True):
    """Somebody asked at this instant for a turn, and of it for a `full` sweep or whichever is due."""

    at: datetime
    full: bool = False


class Agenda:
    """Says when streams are to be worked. `checkpoints` are those of the journal."""

    def __init__(self, checkpoints: Callable[[], Mapping[str, Checkpoint]]) -> None:
        self._checkpoints = checkpoints
        self._wanted: dict[str, Wanted] = {}
        self._not_before: dict[str, datetime] = {}

    def hear(self, entries: Iterable[Entry]) -> None:
        """Take note of turns that are asked for, and of those that are given."""
        for entry in entries:
            match entry.event:
                case SyncRequested(full=full):
                    self._wanted[entry.stream] = Wanted(entry.recorded_at, full)
                case StreamResumed():
                    self._wanted[entry.stream] = Wanted(entry.recorded_at)
                case RunStarted(started_at=started_at) | SweepCompleted(run_started_at=started_at):
                    wanted = self._wanted.get(entry.stream)
                    if wanted is not None and started_at >= wanted.at:
                        del self._wanted[entry.stream]
                case _:
                    pass

    def wants_full(self, stream: Stream) -> bool:
        """Whether somebody asked for a full sweep."""
        wanted = self._wanted.get(stream.key)
        return wanted is not None and wanted.full

    def put_off(self, stream: Stream, until: datetime) -> None:
        """Leave the stream alone until then, whatever the journal says: a turn came to nothing that is in it.

        Whatever was asked for counts as tried.
        """
        self._wanted.pop(stream.key, None)
        self._not_before[stream.key] = until

    def due_at(
        self,
        stream: Stream,
        now: datetime,
        pace: Pace,
        held_until: datetime | None,
        checkpoint: Checkpoint | None = None,
    ) -> datetime | None:
        """Say when the stream is to be worked; None where that cannot be told, or is never.

        `checkpoint` is where it stands, where that is known better than from the journal as it was heard.
        """
        checkpoint = checkpoint or self._checkpoints().get(stream.key) or Checkpoint(stream.key)
        if self._is_wanted(checkpoint):
            return now if held_until is None else max(now, held_until)
        at, not_before = due_at(checkpoint, now, pace, held_until), self._not_before.get(stream.key)
        return at if at is None or not_before is None else max(at, not_before)

    def _is_wanted(self, checkpoint: Checkpoint) -> bool:
        wanted, run = self._wanted.get(checkpoint.stream), checkpoint.run
        if wanted is None or checkpoint.on_hold is not None:
            return False
        return run is None or (run.ended_at is not None and run.started_at < wanted.at)
