"""The activity of the last hour, counted in buckets of 15 seconds, for the chart of the status page.

Memory is bounded by the number of streams: 240 buckets of four numbers are 8 KB, so that a thousand streams take 8 MB,
however much happens.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_never

import msgspec
from msgspec import Struct

from milepost.core import events
from milepost.core.events import Entry
from milepost.core.gaps import MessagesFailed, MessagesOwed, MessagesRead
from milepost.engine.feed import Notice, Recorded
from milepost.service.api.endpoint import AnyOperation, Call, Operation, Reply, StreamKey
from milepost.stores.reader import JournalReader

STEP_SECONDS = 15
BUCKETS = 240
MAX_LOADED = 30_000  # entries that a start reads, in a fifth of a second; an hour seldom has so many
PAGE = 1_000
_ALL = ""  # instead of a stream's key


class Counts(Struct, frozen=True):
    """What an entry adds. Conversations are those that were read, changed or not."""

    conversations: int = 0
    failed_batches: int = 0
    retries: int = 0


class Bucket(Struct, frozen=True):
    """The activity in the 15 seconds from `at` on."""

    at: datetime
    conversations: int
    failed_batches: int
    retries: int


class Past(Struct, frozen=True):
    """The last hour, oldest bucket first, empty buckets included."""

    at: datetime
    step_seconds: int
    buckets: list[Bucket]


class ActivityQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose activity to show: that of one stream, or of all streams together."""

    stream: StreamKey | None = None


def counts(entry: Entry) -> Counts | None:  # noqa: C901, PLR0911  (one line for each kind of event)
    """Return what an entry adds to its bucket; None if that is nothing."""
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
        case MessagesOwed() | MessagesRead():
            return None
        case unknown:
            assert_never(unknown)


class _Hour:
    """A ring of an hour's buckets. Each has its number, so that one of an hour ago is not taken for a new one."""

    def __init__(self) -> None:
        self._numbers = array("q", [-1]) * BUCKETS
        self._counts = [array("Q", [0]) * BUCKETS for _ in Counts.__struct_fields__]

    def add(self, number: int, more: Counts) -> None:
        slot = number % BUCKETS
        if self._numbers[slot] != number:
            self._numbers[slot] = number
            for column in self._counts:
                column[slot] = 0
        for column, count in zip(self._counts, msgspec.structs.astuple(more), strict=True):
            column[slot] += count

    def bucket(self, number: int) -> Bucket:
        slot = number % BUCKETS
        is_current = self._numbers[slot] == number
        at = datetime.fromtimestamp(number * STEP_SECONDS, UTC)
        return Bucket(at, *(column[slot] if is_current else 0 for column in self._counts))


class Activity:
    """A reader of the feed that counts the activity of each stream, and of all together."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._hours: defaultdict[str, _Hour] = defaultdict(_Hour)

    async def load(self, journal_reader: JournalReader) -> None:
        """Count the last hour of the journal, before anything is added to it."""
        newest = max((each.seq for each in await journal_reader.latest(limit=1)), default=0)
        begins_at = self._now() - timedelta(seconds=STEP_SECONDS * BUCKETS)
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

    def past(self, stream: str | None = None) -> Past:
        """Return the last hour of one stream or of all, the current bucket included."""
        at = self._now()
        last, hour = _number(at), self._hours.get(stream or _ALL, _Hour())
        return Past(at, STEP_SECONDS, [hour.bucket(number) for number in range(last - BUCKETS + 1, last + 1)])

    def _count(self, entry: Entry) -> None:
        more = counts(entry)
        if more is not None:
            number = _number(entry.recorded_at)
            self._hours[entry.stream.key].add(number, more)
            self._hours[_ALL].add(number, more)


def _number(at: datetime) -> int:
    return int(at.timestamp()) // STEP_SECONDS


def recent_activity(past: Callable[[str | None], Past]) -> Sequence[AnyOperation]:
    """Declare the operation on recent activity."""

    async def show_activity(call: Call[ActivityQuery, None]) -> Reply[Past]:
        return Reply(past(call.parameters.stream))

    return [
        Operation(
            "GET",
            "/api/activity",
            "Show the activity of the last hour, in steps of 15 seconds",
            parameters=ActivityQuery,
            response=Past,
            handle=show_activity,
        )
    ]
