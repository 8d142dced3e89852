"""What happened in the last hour, counted in buckets of 15 seconds: what the chart of the status page draws.

Memory is bounded by the number of streams: 240 buckets of four numbers each are 8 KB, so that a thousand streams take
8 MB, however much happens.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_never

import msgspec
from msgspec import Struct

from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Entry,
    FetchFailed,
    RateLimited,
    RedriveFailed,
    RunEnded,
    RunStarted,
    StoreReturned,
    StreamPaused,
    StreamRemoved,
    StreamResumed,
    SweepCompleted,
    SweepStarted,
    SyncRequested,
    TokenChecked,
)
from milepost.engine.feed import Notice, Recorded
from milepost.service.api.endpoint import AnyOperation, Call, Operation, Reply
from milepost.service.api.paging import StreamKey
from milepost.stores.reader import JournalReader

STEP_SECONDS = 15
BUCKETS = 240
MAX_RECALLED = 30_000  # entries that a start reads again, in a fifth of a second; an hour seldom has so many
PAGE = 1_000
_ALL = ""  # in the place of a stream's key


class Counts(Struct, frozen=True):
    """What an entry adds. Conversations are those that were read; batches that nothing had changed in, too."""

    conversations: int = 0
    failed_batches: int = 0
    retries: int = 0


class Bucket(Struct, frozen=True):
    """What happened in the 15 seconds from `at` on."""

    at: datetime
    conversations: int
    failed_batches: int
    retries: int


class Past(Struct, frozen=True):
    """The last hour, oldest bucket first, those in which nothing happened included."""

    at: datetime
    step_seconds: int
    buckets: list[Bucket]


class ActivityAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose activity is meant: of all streams together, where none is named."""

    stream: StreamKey | None = None


def counts(entry: Entry) -> Counts | None:  # noqa: PLR0911  (one line for each kind of event)
    """Say what an entry adds to its bucket; None where that is nothing."""
    match entry.event:
        case BatchStored(tally=tally) | SweepCompleted(tally=tally) | RunEnded(tally=tally):
            return Counts(conversations=tally.conversations)
        case RedriveFailed(tally=tally) | DeadLetterClosed(tally=tally):
            return Counts(conversations=tally.conversations)
        case BatchFailed():
            return Counts(failed_batches=1)
        case FetchFailed():
            return Counts(retries=1)
        case StoreReturned(attempts=attempts):
            return Counts(retries=attempts)
        case RunStarted() | SweepStarted() | RateLimited() | BatchShrunk() | CursorLost() | DeadLetterOpened():
            return None
        case StreamPaused() | StreamResumed() | SyncRequested() | TokenChecked() | StreamRemoved():
            return None
        case unknown:
            assert_never(unknown)


class _Hour:
    """The buckets of an hour, each in the place of the one an hour before, with its number: so none is ever stale."""

    def __init__(self) -> None:
        self._numbers = array("q", [-1]) * BUCKETS
        self._counts = [array("Q", [0]) * BUCKETS for _ in Counts.__struct_fields__]

    def add(self, number: int, more: Counts) -> None:
        place = number % BUCKETS
        if self._numbers[place] != number:
            self._numbers[place] = number
            for column in self._counts:
                column[place] = 0
        for column, count in zip(self._counts, msgspec.structs.astuple(more), strict=True):
            column[place] += count

    def bucket(self, number: int) -> Bucket:
        place = number % BUCKETS
        is_there = self._numbers[place] == number
        at = datetime.fromtimestamp(number * STEP_SECONDS, UTC)
        return Bucket(at, *(column[place] if is_there else 0 for column in self._counts))


class Activity:
    """A reader of the feed that counts, for each stream and for all together."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._hours: defaultdict[str, _Hour] = defaultdict(_Hour)

    async def load(self, journal_reader: JournalReader) -> None:
        """Count the last hour of the journal, before anything is added to it."""
        newest = max((each.seq for each in await journal_reader.latest(limit=1)), default=0)
        begins_at = self._now() - timedelta(seconds=STEP_SECONDS * BUCKETS)
        seq = max(await journal_reader.seq_before(begins_at), newest - MAX_RECALLED)
        while placed := await journal_reader.entries(after=seq, limit=PAGE):
            for each in placed:
                self._count(each.entry)
            seq = placed[-1].seq

    def read(self, notice: Notice) -> None:
        """Count what a signal tells."""
        if isinstance(notice, Recorded):
            for entry in notice.entries:
                self._count(entry)

    def past(self, stream: str | None = None) -> Past:
        """Tell of the last hour, up to the bucket that is not yet over."""
        at = self._now()
        last, hour = _number(at), self._hours.get(stream or _ALL, _Hour())
        return Past(at, STEP_SECONDS, [hour.bucket(number) for number in range(last - BUCKETS + 1, last + 1)])

    def _count(self, entry: Entry) -> None:
        more = counts(entry)
        if more is not None:
            number = _number(entry.recorded_at)
            self._hours[entry.stream].add(number, more)
            self._hours[_ALL].add(number, more)


def _number(at: datetime) -> int:
    return int(at.timestamp()) // STEP_SECONDS


def recent_activity(past: Callable[[str | None], Past]) -> Sequence[AnyOperation]:
    """Declare what can be asked about the last hour."""

    async def show_activity(call: Call[ActivityAsked, None]) -> Reply[Past]:
        return Reply(past(call.asked.stream))

    return [
        Operation(
            "GET",
            "/api/activity",
            "Count what happened in the last hour, in steps of 15 seconds",
            asked=ActivityAsked,
            answer=Past,
            handle=show_activity,
        )
    ]
