"""The live view: the current state of every stream, kept by a reader of commits.

The status page, the API, the gauges of /metrics and the systemd status line all take it from here. The journal alone is
not enough: a batch that changes nothing has no entry of its own, so that a long sweep that finds nothing new would look
idle; and while the database is unavailable nothing can be recorded at all.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.doubts import trouble_under_way
from milepost.core.model import Stream
from milepost.core.problems import Problem
from milepost.core.retry import by_page
from milepost.engine.feed import Notice, Recorded, StoreRetried, UnchangedRead
from milepost.reporting.humanize import clock, counted
from milepost.reporting.status import (
    State,
    Wait,
    held_up,
    held_up_by_store,
    limit_in_words,
    limit_on,
    queued,
    rate_limits_of,
    state_of,
)

MAX_AGE = timedelta(minutes=5)  # a batch takes less; older progress belongs to a run that broke off

# In the order of the status line: streams at work, then those that wait, then those that need a person.
WORDS: Mapping[State, str] = {
    State.SYNCING: "syncing",
    State.QUEUED: "waiting for a slot",
    State.RETRYING: "retrying",
    State.COMPLETE: "up to date",
    State.COMPLETE_WITH_ERRORS: "up to date except for dead letters",
    State.NEVER_SYNCED: "about to start",
    State.PAUSED: "between runs",
    State.INTERRUPTED: "about to resume",
    State.FAILED: "failed, retrying later",
    State.STOPPED: "stopped until the token or the configuration is fixed",
    State.ON_HOLD: "paused by an operator",
}


class _Live(Struct, frozen=True):
    """What is known about one stream. `unchanged` is its checkpoint after later batches without changes."""

    recorded: Checkpoint
    unchanged: Checkpoint | None = None
    unchanged_at: datetime | None = None
    is_at_work: bool = False  # False: loaded at startup, and no notice of it since
    is_store_away: bool = False

    def fresh(self, now: datetime) -> Checkpoint | None:
        """Return `unchanged`, unless it is too old to belong to a run that is still under way."""
        is_fresh = self.unchanged_at is not None and abs(now - self.unchanged_at) < MAX_AGE
        return self.unchanged if is_fresh else None

    def latest(self, now: datetime) -> Checkpoint:
        """Return the stream's checkpoint at `now`."""
        return self.fresh(now) or self.recorded

    def state(self, now: datetime, *, is_held: bool, is_queued: bool, is_store_away: bool | None) -> State:
        """Return the state at `now`.

        `is_held` is whether a rate limit forbids calls, `is_queued` whether the stream waits for a slot, and
        `is_store_away` whether the database is unavailable; None if only the stream's own notices can tell.
        """
        if self.is_store_away and is_store_away is not False:  # a run that gave up gets no notice of the end
            return State.RETRYING
        state = state_of(self.latest(now), is_at_work=self.is_at_work)
        state = held_up(state) if is_held else state
        state = queued(state) if is_queued else state
        return held_up_by_store(state) if is_store_away else state

    @property
    def version(self) -> int:
        """The latest version in any notice."""
        return max(self.recorded.version, 0 if self.unchanged is None else self.unchanged.version)


class LiveStreams:
    """A reader of the feed that keeps the latest checkpoint of every stream, whichever worker wrote it.

    Other threads may query it meanwhile: the state of a stream is always replaced as a whole.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        queue: Callable[[], Collection[Stream]] = frozenset,
        is_store_away: Callable[[], bool | None] = lambda: None,
    ) -> None:
        """Take the clock, and what notices do not say: the streams that wait for a slot, and the database's outage."""
        self._now = now
        self._queue = queue
        self._is_store_away = is_store_away
        self._streams: dict[Stream, _Live] = {}

    def load(self, checkpoint: Checkpoint) -> None:
        """Set a stream's checkpoint at startup. If its run is open, the process that ran it has died."""
        self._streams[checkpoint.stream] = _Live(checkpoint)

    def read(self, notice: Notice) -> None:
        """Take in a notice. Old ones are ignored: the journal's follower reports a worker's own commits again."""
        match notice:
            case Recorded(checkpoint=checkpoint):
                known = self._streams.get(checkpoint.stream)
                if known is None or checkpoint.version > known.version:
                    self._streams[checkpoint.stream] = _Live(checkpoint, is_at_work=True)
            case UnchangedRead(checkpoint=checkpoint):
                known = self._streams.get(checkpoint.stream, _Live(checkpoint))
                if checkpoint.version >= known.version:
                    self._streams[checkpoint.stream] = _Live(known.recorded, checkpoint, self._now(), is_at_work=True)
            case StoreRetried(stream=stream):
                known = self._streams.get(stream, _Live(Checkpoint(stream)))
                self._streams[stream] = replace(known, is_at_work=True, is_store_away=True)
            case _:
                return

    def since(self, recorded: Checkpoint) -> Checkpoint:
        """Return the current checkpoint of a stream. `recorded` is its checkpoint as of the last entry."""
        known = self._streams.get(recorded.stream)
        fresh = None if known is None else known.fresh(self._now())
        return fresh if fresh is not None and fresh.version == recorded.version else recorded

    def states(self) -> Iterator[tuple[Checkpoint, State]]:
        """Yield the checkpoint and the state of each stream, except for streams that were removed."""
        for checkpoint, state, _ in self._standing(list(self._streams.values()), self._now()):
            if checkpoint.removed_at is None:
                yield checkpoint, state

    def latest(self, streams: Collection[Stream]) -> list[Checkpoint]:
        """Return the current checkpoints of these streams, where there is one."""
        now, wanted = self._now(), frozenset(streams)
        return [known.latest(now) for stream, known in self._streams.copy().items() if stream in wanted]

    def getting_nowhere(self, streams: Collection[Stream]) -> Mapping[Stream, Problem]:
        """Return those of these streams that make no progress, and why."""
        latest = self.latest(streams)
        troubles = {each.stream: trouble_under_way(each) for each in latest if not each.operator_pause}
        return {stream: problem for stream, problem in troubles.items() if problem is not None}

    def removed(self) -> list[Stream]:
        """Return the streams that were removed."""
        return [stream for stream, known in self._streams.copy().items() if known.recorded.removed_at is not None]

    def status_line(self, streams: Iterable[Stream]) -> str:
        """Return a line such as `3 streams: 2 syncing, 1 waiting for the page's rate limit until 14:05 UTC`."""
        wanted = list(streams)
        parts = ", ".join(self._parts(wanted, self._now()))
        return f"{counted(len(wanted), 'stream')}: {parts}" if parts else "no streams to sync"

    def _parts(self, streams: Iterable[Stream], now: datetime) -> Iterator[str]:
        states, limits, ends_at = Counter[State](), Counter[str](), dict[str, datetime]()
        wanted = [self._streams.get(stream, _Live(Checkpoint(stream))) for stream in streams]
        for _, state, hold in self._standing(wanted, now):
            if state is not State.RATE_LIMITED or hold is None or hold.scope is None or hold.until is None:
                states[state] += 1
                continue
            limit = limit_in_words(hold.scope)
            limits[limit] += 1
            ends_at[limit] = max(hold.until, ends_at.get(limit, hold.until))
        yield from (f"{states[state]:,} {words}" for state, words in WORDS.items() if states[state])
        for limit, number in limits.items():
            yield f"{number:,} waiting for {limit} until {clock(ends_at[limit], now)}"

    def _standing(self, wanted: Iterable[_Live], now: datetime) -> Iterator[tuple[Checkpoint, State, Wait | None]]:
        """Yield each stream's checkpoint, its state, and the wait for a rate limit that forbids its calls."""
        rate_limits = by_page(rate_limits_of(known.latest(now) for known in list(self._streams.values())))
        queue, is_store_away = self._queue(), self._is_store_away()
        for known in wanted:
            checkpoint = known.latest(now)
            stream = checkpoint.stream
            hold = limit_on(stream, rate_limits(stream), now)
            state = known.state(now, is_held=hold is not None, is_queued=stream in queue, is_store_away=is_store_away)
            yield checkpoint, state, hold
