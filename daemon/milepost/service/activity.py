"""The activity of the last hour, counted in buckets of 15 seconds, and that of the last day, in buckets of 5 minutes.

Memory is bounded by the number of streams: the 240 buckets of an hour are 6 KB, so that a thousand streams take 6 MB,
however much happens. A day is kept for all streams together only.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, assert_never

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from milepost.core import events
from milepost.core.events import Entry
from milepost.core.model import Stream
from milepost.core.position import MessagesFailed, MessagesMissed, MessagesOwed, MessagesRead
from milepost.core.webhooks import FactsApplied
from milepost.engine.feed import Notice, Recorded
from milepost.service.endpoint import AnyOperation, Call, Operation, Reply, StreamKey
from milepost.stores.reader import JournalReader

STEP_SECONDS = 15
BUCKETS = 240
DAY_STEP_SECONDS = 300
DAY_BUCKETS = 288
MAX_LOADED = 30_000  # entries read at startup, in a fifth of a second; a few streams write no more in a day
PAGE = 1_000
_ALL = ""  # instead of a stream's key


class Window(StrEnum):
    """How far back to look."""

    HOUR = "hour"
    DAY = "day"


class Counts(Struct, frozen=True):
    """The counts that an entry adds to its bucket. Conversations are those that were read, changed or not."""

    conversations: int = 0
    failed_batches: int = 0
    retries: int = 0


class Bucket(Struct, frozen=True):
    """The activity in the `step_seconds` from `at` on.

    `delay_seconds` is the longest that a message can have waited to be copied, of the sweeps completed then; null if
    there was none.
    """

    at: datetime
    conversations: int
    failed_batches: int
    retries: int
    delay_seconds: int | None = None


class Past(Struct, frozen=True):
    """The last hour or day, oldest bucket first, empty buckets included."""

    at: datetime
    step_seconds: int
    buckets: list[Bucket]


class ActivityQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose activity to show: that of one stream in the last hour, or of all streams together."""

    stream: StreamKey | None = None
    window: Annotated[Window, Meta(description="how far back")] = Window.HOUR


def counts(entry: Entry) -> Counts | None:  # noqa: C901, PLR0911  (one line for each kind of event)
    """Return the counts that an entry adds to its bucket; None if it adds nothing."""
    match entry.event:
        case events.BatchStored(tally=tally) | events.SweepCompleted(tally=tally) | events.RunEnded(tally=tally):
            return Counts(conversations=tally.conversations)
        case events.RedriveFailed(tally=tally) | events.DeadLetterClosed(tally=tally):
            return Counts(conversations=tally.conversations)
        case events.BatchFailed():
            return Counts(failed_batches=1)
        case events.FetchFailed() | MessagesFailed():
            return Counts(retries=1)
        case events.StoreReturned(attempts=attempts):
            return Counts(retries=attempts)
        case events.RunStarted() | events.SweepStarted() | events.RateLimited() | events.BatchShrunk():
            return None
        case events.FieldsLeftOut():
            return None
        case events.CursorLost() | events.DeadLetterOpened() | events.TokenChecked() | events.StreamRemoved():
            return None
        case events.StreamPaused() | events.StreamResumed() | events.SyncRequested() | events.OwnIdChecked():
            return None
        case MessagesOwed() | MessagesRead() | MessagesMissed() | FactsApplied():
            return None
        case unknown:
            assert_never(unknown)


class _Ring:
    """A ring of buckets. Each keeps its number, so that a bucket of the previous round is not taken for a new one."""

    def __init__(self, step_seconds: int, buckets: int) -> None:
        self.step_seconds = step_seconds
        self._buckets = buckets
        self._numbers = array("q", [-1]) * buckets
        self._counts = [array("I", [0]) * buckets for _ in Counts.__struct_fields__]
        self._delays = array("I", [0]) * buckets  # 0: none was measured

    def add(self, at: datetime, more: Counts, delay_seconds: int) -> None:
        number = self._number(at)
        slot = number % self._buckets
        if self._numbers[slot] != number:
            self._numbers[slot] = number
            for column in (*self._counts, self._delays):
                column[slot] = 0
        for column, count in zip(self._counts, msgspec.structs.astuple(more), strict=True):
            column[slot] += count
        self._delays[slot] = max(self._delays[slot], delay_seconds)

    def past(self, at: datetime) -> Past:
        last = self._number(at)
        return Past(at, self.step_seconds, [self._bucket(each) for each in range(last - self._buckets + 1, last + 1)])

    def _bucket(self, number: int) -> Bucket:
        slot = number % self._buckets
        is_current = self._numbers[slot] == number
        at = datetime.fromtimestamp(number * self.step_seconds, UTC)
        if not is_current:
            return Bucket(at, 0, 0, 0)
        conversations, failed_batches, retries = (column[slot] for column in self._counts)
        return Bucket(at, conversations, failed_batches, retries, self._delays[slot] or None)

    def _number(self, at: datetime) -> int:
        return int(at.timestamp()) // self.step_seconds


class Activity:
    """A reader of the feed that counts the activity of each stream, and of all together."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._hours: defaultdict[str, _Ring] = defaultdict(lambda: _Ring(STEP_SECONDS, BUCKETS))
        self._day = _Ring(DAY_STEP_SECONDS, DAY_BUCKETS)
        self._last_runs: dict[Stream, datetime] = {}  # by stream: the start of the run that completed its last sweep

    async def load(self, journal_reader: JournalReader) -> None:
        """Count the last day of the journal. Call it before the first notice."""
        newest = max((each.seq for each in await journal_reader.latest(limit=1)), default=0)
        begins_at = self._now() - timedelta(seconds=DAY_STEP_SECONDS * DAY_BUCKETS)
        seq = max(await journal_reader.seq_before(begins_at), newest - MAX_LOADED)
        while stored := await journal_reader.entries(after=seq, limit=PAGE):
            for each in stored:
                self._count(each.entry)
            seq = stored[-1].seq

    def read(self, notice: Notice) -> None:
        """Count the entries of a notice."""
        if isinstance(notice, Recorded):
            for entry in notice.entries:
                self._count(entry)

    def past(self, stream: str | None = None, window: Window = Window.HOUR) -> Past:
        """Return the last hour of one stream or of all, or the last day of all, the current bucket included."""
        if window is Window.DAY:
            return self._day.past(self._now())
        hour = self._hours.get(stream or _ALL) or _Ring(STEP_SECONDS, BUCKETS)
        return hour.past(self._now())

    def _count(self, entry: Entry) -> None:
        more, delay = counts(entry), self._delay(entry)
        if more is not None or delay:
            for ring in (self._hours[entry.stream.key], self._hours[_ALL], self._day):
                ring.add(entry.recorded_at, more or Counts(), delay)

    def _delay(self, entry: Entry) -> int:
        """Return how long a message can have waited at most for the sweep that an entry completes, in seconds.

        A run reads the head of the inbox first. So the longest wait is that of a message which came just after the
        run of the previous sweep had begun. It is measured by this machine's clock, because the API's may differ. 0 if
        the entry completes no sweep, or if no earlier sweep is known.
        """
        if not isinstance(entry.event, events.SweepCompleted):
            return 0
        previous = self._last_runs.get(entry.stream)
        self._last_runs[entry.stream] = entry.event.run_started_at
        waited = 0.0 if previous is None else (entry.recorded_at - previous).total_seconds()
        return int(max(0.0, waited))


def recent_activity(past: Callable[[str | None, Window], Past]) -> Sequence[AnyOperation]:
    """Declare the operation on recent activity."""

    async def show_activity(call: Call[ActivityQuery, None]) -> Reply[Past]:
        stream, window = call.parameters.stream, call.parameters.window
        if stream is not None and window is Window.DAY:
            raise web.HTTPBadRequest(text="invalid query: window: of one stream, only the last hour is kept")
        return Reply(past(stream, window))

    return [
        Operation(
            "GET",
            "/api/activity",
            "Show the activity of the last hour, in steps of 15 seconds, or of the last day, in steps of 5 minutes",
            parameters=ActivityQuery,
            response=Past,
            handle=show_activity,
        )
    ]
