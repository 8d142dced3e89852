"""Notices of what was committed, published after the commit, in order; and the readers that consume them.

Metrics, log lines, progress bars and server-sent events are small readers of the feed. Each reads at its own pace from
a bounded queue; none can break the work or slow it down.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Entry, Tally
from milepost.core.ports import Committed, Usage
from milepost.engine.bulkhead import bulkhead


class Recorded(Struct, frozen=True):
    """Entries were committed; `checkpoint` is where the stream stands after them.

    `fetch_seconds` is how long the source took, where the entries came of a fetch; `commit_seconds` how long the commit
    took, waiting for its turn included.
    """

    entries: tuple[Entry, ...]
    committed: Committed
    checkpoint: Checkpoint
    commit_seconds: float
    fetch_seconds: float | None


class UnchangedRead(Struct, frozen=True):
    """A batch changed nothing and was passed over. It has no entry; a later one will count it."""

    checkpoint: Checkpoint
    tally: Tally
    fetch_seconds: float


class StoreRetried(Struct, frozen=True):
    """The store is away; another attempt follows in `wait_seconds`. It has no entry: the journal cannot be reached."""

    stream: str
    attempts: int
    away_seconds: float
    wait_seconds: float
    reason: str


class UsageReported(Struct, frozen=True):
    """An answer told how much of the budgets is used up. It has no entry: it only slows calls down."""

    stream: str
    usages: tuple[Usage, ...]


Notice = Recorded | UnchangedRead | StoreRetried | UsageReported


class Subscription:
    """The signals for one reader. Where it falls `max_held` behind, the oldest are lost and counted."""

    def __init__(self, max_held: int) -> None:
        self._held: deque[Notice] = deque(maxlen=max_held)
        self._arrived = asyncio.Event()
        self._is_closed = False
        self.lost = 0

    def offer(self, notice: Notice) -> None:
        """Put a signal into the queue."""
        if len(self._held) == self._held.maxlen:
            self.lost += 1
        self._held.append(notice)
        self._arrived.set()

    def close(self) -> None:
        """Let the reader end when it has read what is there."""
        self._is_closed = True
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[Notice]:
        """Give the signals as they come, until the feed is closed."""
        while self._held or not self._is_closed:
            await self._arrived.wait()
            self._arrived.clear()
            while self._held:
                yield self._held.popleft()


class Feed:
    """Hands every signal to every subscription."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []

    def subscribe(self, max_held: int = 10_000) -> Subscription:
        """Open a subscription; it hears what is published from now on."""
        subscription = Subscription(max_held)
        self._subscriptions.append(subscription)
        return subscription

    def publish(self, notice: Notice) -> None:
        """Tell all readers."""
        for subscription in self._subscriptions:
            subscription.offer(notice)

    def close(self) -> None:
        """Let all readers end when they have read what is there."""
        for subscription in self._subscriptions:
            subscription.close()


Reader = Callable[[Notice], None]


@asynccontextmanager
async def reading(feed: Feed, readers: Mapping[str, Reader]) -> AsyncIterator[None]:
    """Let the readers, by name, hear all that is published in the block; in the end they read what is left."""
    async with asyncio.TaskGroup() as tasks:
        for name, reader in readers.items():
            tasks.create_task(bulkhead(f"reader {name}", _read(feed.subscribe(), reader)), name=f"reader {name}")
        try:
            yield
        finally:
            feed.close()


async def _read(subscription: Subscription, reader: Reader) -> None:
    async for notice in subscription:
        reader(notice)
