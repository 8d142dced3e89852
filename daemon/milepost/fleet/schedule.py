"""When a stream is next due, as every worker sees it: from the journal, from requests, from the outcome of runs."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from hashlib import sha256

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Entry, Reason, RunStarted, StreamResumed, SweepCompleted, SyncRequested
from milepost.core.model import Stream
from milepost.core.ports import Clock
from milepost.core.retry import next_run_at
from milepost.engine.clock import Anchor
from milepost.engine.supervisor import MAX_LATENESS_SECONDS, Schedule


def due_at(checkpoint: Checkpoint, now: datetime, schedule: Schedule, held_until: datetime | None) -> datetime | None:
    """Say when the stream is to be worked again; None where it is not, because somebody paused it.

    A run that is open is somebody's: who dies has its job given to another one. Only a run of which nothing was heard
    for longer than it can last has lost its job, too.
    """
    run = checkpoint.run
    if checkpoint.operator_pause is not None:
        return None
    if run is None:
        return now if held_until is None else max(now, held_until)
    if run.ended_at is None:
        last_sign_at = checkpoint.updated_at or run.started_at
        return last_sign_at + timedelta(seconds=schedule.max_run_seconds + MAX_LATENESS_SECONDS)
    if run.reason is Reason.SHUTDOWN:  # its worker has left: others go on at once
        return run.ended_at if held_until is None else max(run.ended_at, held_until)
    return next_run_at(
        run, run.ended_at, jitter_of(run.run_id), interval_seconds=schedule.interval_seconds, held_until=held_until
    )


def jitter_of(run_id: str) -> float:
    """Give the luck in [0, 1) that every worker draws after this run."""
    return int.from_bytes(sha256(run_id.encode()).digest()[:4]) / 2**32


class Wanted(Struct, frozen=True):
    """Somebody asked at this instant for a turn, and of it for a `full` sweep or whichever is due."""

    at: datetime
    full: bool = False


class _Offset(Struct, frozen=True):
    """By how much the instants of the checkpoint of this version have to be moved to be those of our clock."""

    version: int
    by: timedelta


class FleetSchedule:
    """Says when streams are to be worked. `checkpoints` are those of the journal.

    Nothing that is recorded counts as later than when it was first heard of: another worker's clock may be ahead, or
    ours may have been set back since. From then on it grows old by the steady clock.
    """

    def __init__(self, checkpoints: Callable[[], Mapping[str, Checkpoint]], clock: Clock) -> None:
        self._checkpoints = checkpoints
        self._clock = clock
        self._wanted: dict[str, Wanted] = {}
        self._not_before: dict[str, datetime] = {}
        self._offsets: dict[str, _Offset] = {}
        self._anchor = Anchor(clock)

    def hear(self, entries: Iterable[Entry]) -> None:
        """Take note of turns that are asked for, and of those that are given."""
        self._move_along()
        now = self._clock.now()
        for entry in entries:
            match entry.event:
                case SyncRequested(full=full):
                    self._wanted[entry.stream] = Wanted(min(entry.recorded_at, now), full)
                case StreamResumed():
                    self._wanted[entry.stream] = Wanted(min(entry.recorded_at, now))
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
        self._move_along()
        self._wanted.pop(stream.key, None)
        self._not_before[stream.key] = until

    def due_at(
        self,
        stream: Stream,
        now: datetime,
        schedule: Schedule,
        held_until: datetime | None,
        checkpoint: Checkpoint | None = None,
    ) -> datetime | None:
        """Say when the stream is to be worked; None where that cannot be told, or is never.

        `checkpoint` is where it stands, where that is known better than from the journal as it was heard.
        """
        self._move_along()
        checkpoint = checkpoint or self._checkpoints().get(stream.key) or Checkpoint(stream.key)
        checkpoint = self._by_our_clock(checkpoint, now)
        if self._is_wanted(checkpoint):
            return now if held_until is None else max(now, held_until)
        at, not_before = due_at(checkpoint, now, schedule, held_until), self._not_before.get(stream.key)
        return at if at is None or not_before is None else max(at, not_before)

    def _is_wanted(self, checkpoint: Checkpoint) -> bool:
        wanted, run = self._wanted.get(checkpoint.stream), checkpoint.run
        if wanted is None or checkpoint.operator_pause is not None:
            return False
        return run is None or (run.ended_at is not None and run.started_at < wanted.at)

    def _by_our_clock(self, checkpoint: Checkpoint, now: datetime) -> Checkpoint:
        known = self._offsets.get(checkpoint.stream)
        if known is None or known.version != checkpoint.version:
            known = _Offset(checkpoint.version, min(timedelta(), now - _latest(checkpoint, now)))
            self._offsets[checkpoint.stream] = known
        return _moved(checkpoint, known.by) if known.by else checkpoint

    def _move_along(self) -> None:
        """Move whatever is in memory as far as the wall clock was set since this was last called."""
        moved = self._anchor.take_moved()
        if not moved:
            return
        self._wanted = {stream: replace(each, at=each.at + moved) for stream, each in self._wanted.items()}
        self._not_before = {stream: at + moved for stream, at in self._not_before.items()}
        self._offsets = {stream: replace(each, by=each.by + moved) for stream, each in self._offsets.items()}


def _latest(checkpoint: Checkpoint, otherwise: datetime) -> datetime:
    """Return the latest instant at which anything is recorded to have happened."""
    run = checkpoint.run
    instants = (checkpoint.updated_at, *((run.started_at, run.ended_at) if run is not None else ()))
    return max((instant for instant in instants if instant is not None), default=otherwise)


def _moved(checkpoint: Checkpoint, by: timedelta) -> Checkpoint:
    run, updated_at = checkpoint.run, checkpoint.updated_at
    if run is not None:
        ended_at = None if run.ended_at is None else run.ended_at + by
        run = replace(run, started_at=run.started_at + by, ended_at=ended_at)
    return replace(checkpoint, run=run, updated_at=None if updated_at is None else updated_at + by)
