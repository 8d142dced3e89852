"""Decides when a stream is next due from the journal, requests and outcomes of runs, alike for every worker."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from hashlib import sha256

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Entry, Reason, RunStarted, StreamResumed, SweepCompleted, SyncRequested
from milepost.core.model import Stream
from milepost.core.ports import Clock
from milepost.core.position import Mode
from milepost.core.retry import next_run_at
from milepost.engine.clock import Anchor
from milepost.engine.supervisor import MAX_LATENESS_SECONDS, Schedule


def due_at(
    checkpoint: Checkpoint,
    now: datetime,
    schedule: Schedule,
    held_until: datetime | None,
    *,
    is_prompted: bool = False,
) -> datetime | None:
    """Return when the stream is due again; None while an operator has paused it.

    An open run belongs to a worker; if the worker dies, another one gets its job. Only if a run has written nothing for
    longer than a run can last, its job is lost as well.
    """
    run = checkpoint.run
    if checkpoint.operator_pause is not None:
        return None
    if run is None:
        return max(now, held_until or now)
    if run.ended_at is None:
        last_sign_at = checkpoint.updated_at or run.started_at
        return last_sign_at + timedelta(seconds=schedule.max_run_seconds + MAX_LATENESS_SECONDS)
    if run.reason is Reason.SHUTDOWN:  # its worker has left, so others continue at once
        return max(run.ended_at, held_until or run.ended_at)
    return next_run_at(
        run,
        run.ended_at,
        jitter_of(run.run_id),
        interval_seconds=schedule.interval_seconds,
        held_until=held_until,
        is_prompted=is_prompted,
    )


def jitter_of(run_id: str) -> float:
    """Return the jitter after a run: a number in [0, 1) that is the same for every worker."""
    return int.from_bytes(sha256(run_id.encode()).digest()[:4]) / 2**32


class _RequestedRun(Struct, frozen=True):
    """A requested run, with a `full` sweep or whichever is due."""

    requested_at: datetime
    full: bool = False


class _Offset(Struct, frozen=True):
    """How far to shift the instants of the checkpoint with this version, so that they match our clock."""

    version: int
    by: timedelta


class FleetSchedule:
    """Decides when streams are due, from the checkpoints of the journal.

    No recorded instant counts as later than when it was first read: another worker's clock may be ahead, or ours may
    have been set back since. From then on it ages by the steady clock.
    """

    def __init__(
        self,
        checkpoints: Callable[[], Mapping[Stream, Checkpoint]],
        clock: Clock,
        is_prompted: Callable[[Stream], bool] = lambda _: False,
    ) -> None:
        self._checkpoints = checkpoints
        self._is_prompted = is_prompted
        self._clock = clock
        self._requests: dict[Stream, _RequestedRun] = {}
        self._not_before: dict[Stream, datetime] = {}
        self._offsets: dict[Stream, _Offset] = {}
        self._anchor = Anchor(clock)

    def on_entries(self, entries: Iterable[Entry]) -> None:
        """Note the runs that were requested, and those that have begun."""
        self._follow_clock()
        now = self._clock.now()
        for entry in entries:
            match entry.event:
                case SyncRequested(full=full):
                    self._request(entry.stream, _RequestedRun(min(entry.recorded_at, now), full))
                case StreamResumed():
                    self._request(entry.stream, _RequestedRun(min(entry.recorded_at, now)))
                case RunStarted(started_at=started_at):
                    if not self.wants_full(entry.stream):
                        self._settle(entry.stream, started_at)
                case SweepCompleted(mode=mode, run_started_at=started_at):
                    self._settle(entry.stream, started_at, is_full=mode is Mode.FULL)
                case _:
                    pass

    def _request(self, stream: Stream, request: _RequestedRun) -> None:
        self._requests[stream] = request
        self._not_before.pop(stream, None)

    def _settle(self, stream: Stream, started_at: datetime, *, is_full: bool = False) -> None:
        """Forget the request for a run that has begun, unless its sweep is complete but not of the requested mode.

        In that case the worker had begun the run before it read the request, and another run is due.
        """
        request = self._requests.get(stream)
        if request is None or started_at < request.requested_at:
            return
        if request.full and not is_full:
            after = min(started_at, self._clock.now()) + timedelta(microseconds=1)
            self._requests[stream] = replace(request, requested_at=after)
        else:
            del self._requests[stream]

    def wants_full(self, stream: Stream) -> bool:
        """Return whether a full sweep was requested."""
        request = self._requests.get(stream)
        return request is not None and request.full

    def postpone(self, stream: Stream, until: datetime) -> None:
        """Make the stream due no earlier than `until`, whatever the journal says: its last run recorded nothing.

        A requested run is postponed, too: it is still to be made.
        """
        self._follow_clock()
        self._not_before[stream] = until

    def due_at(
        self,
        stream: Stream,
        now: datetime,
        schedule: Schedule,
        held_until: datetime | None,
        checkpoint: Checkpoint | None = None,
    ) -> datetime | None:
        """Return when the stream is due; None if it is not, or if that is unknown.

        `checkpoint` is the stream's current one, if it is newer than the last entry read from the journal.
        """
        self._follow_clock()
        checkpoint = checkpoint or self._checkpoints().get(stream) or Checkpoint(stream)
        checkpoint = self._by_our_clock(checkpoint, now)
        not_before = self._not_before.get(stream)
        if self._is_requested(checkpoint):
            return max(now, held_until or now, not_before or now)
        at = due_at(checkpoint, now, schedule, held_until, is_prompted=self._is_prompted(stream))
        return at if at is None or not_before is None else max(at, not_before)

    def _is_requested(self, checkpoint: Checkpoint) -> bool:
        request, run = self._requests.get(checkpoint.stream), checkpoint.run
        if request is None or checkpoint.operator_pause is not None:
            return False
        return run is None or (run.ended_at is not None and run.started_at < request.requested_at)

    def _by_our_clock(self, checkpoint: Checkpoint, now: datetime) -> Checkpoint:
        known = self._offsets.get(checkpoint.stream)
        if known is None or known.version != checkpoint.version:
            known = _Offset(checkpoint.version, min(timedelta(), now - _latest(checkpoint, now)))
            self._offsets[checkpoint.stream] = known
        return _shifted(checkpoint, known.by) if known.by else checkpoint

    def _follow_clock(self) -> None:
        """Shift every remembered instant by as much as the wall clock was adjusted since the last call."""
        moved = self._anchor.take_moved()
        if not moved:
            return
        self._requests = {
            stream: replace(each, requested_at=each.requested_at + moved) for stream, each in self._requests.items()
        }
        self._not_before = {stream: at + moved for stream, at in self._not_before.items()}
        self._offsets = {stream: replace(each, by=each.by + moved) for stream, each in self._offsets.items()}


def _latest(checkpoint: Checkpoint, otherwise: datetime) -> datetime:
    """Return the latest recorded instant."""
    run = checkpoint.run
    instants = (checkpoint.updated_at, *((run.started_at, run.ended_at) if run is not None else ()))
    return max((instant for instant in instants if instant is not None), default=otherwise)


def _shifted(checkpoint: Checkpoint, by: timedelta) -> Checkpoint:
    run, updated_at = checkpoint.run, checkpoint.updated_at
    if run is not None:
        ended_at = None if run.ended_at is None else run.ended_at + by
        run = replace(run, started_at=run.started_at + by, ended_at=ended_at)
    return replace(checkpoint, run=run, updated_at=None if updated_at is None else updated_at + by)
