"""Notices of commits, published in order after each commit, and the readers that consume them.

Metrics, log lines, progress bars and server-sent events are small readers of the feed. They read from a bounded queue,
one after the other in one task, because waking a task costs more than most of them do. A reader that fails breaks
neither the work nor another reader.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Entry, Tally
from milepost.core.model import Stream
from milepost.core.ports import Committed, Usage
from milepost.engine.interrupt import bulkhead

MAX_HELD = 10_000


class Recorded(Struct, frozen=True):
    """Entries were committed; `checkpoint` is the stream's checkpoint after them.

    `fetch_seconds` is how long the source took, if the entries are the outcome of a fetch; `commit_seconds` is how long
    the commit took, including the wait for the database connection. `arrived` has the times of the messages that are
    new since the last sweep, and `recent` the new messages of the last day, as ids with times. Both are empty for
    commits of other processes.
    """

    entries: tuple[Entry, ...]
    committed: Committed
    checkpoint: Checkpoint
    commit_seconds: float
    fetch_seconds: float | None
    arrived: tuple[datetime, ...] = ()
    recent: tuple[tuple[str, datetime], ...] = ()


class UnchangedRead(Struct, frozen=True):
    """A batch changed nothing. It has no entry of its own; a later entry will count it."""

    checkpoint: Checkpoint
    tally: Tally
    fetch_seconds: float


class StoreRetried(Struct, frozen=True):
    """The database is unavailable, so there can be no entry; the next attempt is in `wait_seconds`."""

    stream: Stream
    attempts: int
    away_seconds: float
    wait_seconds: float
    reason: str


class UsageReported(Struct, frozen=True):
    """A response reported the usage of rate limit budgets. It has no entry, because it only slows calls down."""

    stream: Stream
    usages: tuple[Usage, ...]


class SlotWaited(Struct, frozen=True):
    """A stream got a slot after waiting this many seconds."""

    seconds: float


Notice = Recorded | UnchangedRead | StoreRetried | UsageReported | SlotWaited


class Subscription:
    """The notices for some readers. If they fall MAX_HELD behind, the oldest are lost."""

    def __init__(self) -> None:
        self._held: deque[Notice] = deque(maxlen=MAX_HELD)
        self._arrived = asyncio.Event()
        self._is_closed = False

    def offer(self, notice: Notice) -> None:
        """Queue a notice. Those that only count calls and waits are read with the commit that soon follows them."""
        self._held.append(notice)
        if not isinstance(notice, SlotWaited | UsageReported):
            self._arrived.set()

    def close(self) -> None:
        """End the readers once they have read what is queued."""
        self._is_closed = True
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[tuple[Notice, ...]]:
        """Yield the notices that have come, whenever there are any, until the feed is closed."""
        while self._held or not self._is_closed:
            await self._arrived.wait()
            self._arrived.clear()
            arrived = tuple(self._held)
            self._held.clear()
            if arrived:
                yield arrived


class Feed:
    """Hands every notice to every subscription."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []

    def subscribe(self) -> Subscription:
        """Return a subscription to the notices from now on."""
        subscription = Subscription()
        self._subscriptions.append(subscription)
        return subscription

    def publish(self, notice: Notice) -> None:
        """Hand a notice to all subscriptions."""
        for subscription in self._subscriptions:
            subscription.offer(notice)


Reader = Callable[[Notice], None]


@asynccontextmanager
async def reading(feed: Feed, readers: Mapping[str, Reader]) -> AsyncIterator[None]:
    """Run the readers, by name, during the block; at its end they read what is left."""
    subscription = feed.subscribe()
    reading_all = asyncio.create_task(_read(subscription, readers), name="readers")
    try:
        yield
    finally:
        subscription.close()
        await reading_all


async def _read(subscription: Subscription, readers: Mapping[str, Reader]) -> None:
    """Hand all notices to the readers. A reader that fails on a notice goes on with the next one."""
    async for notices in subscription:
        for name, reader in readers.items():
            left = iter(notices)
            while await bulkhead(f"reader {name}", _read_all(reader, left)) is not None:
                pass


async def _read_all(reader: Reader, notices: Iterator[Notice]) -> None:
    for notice in notices:
        reader(notice)
