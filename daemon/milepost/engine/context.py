"""What all streams share: the slots in which they run, first come, first served, and the parts of the engine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager

from msgspec import Struct, field
from msgspec.structs import replace

from milepost.core.events import Reason
from milepost.core.model import Stream
from milepost.core.plan import Policy, RunBudget
from milepost.core.ports import Clock, Store
from milepost.core.records import QuietHead
from milepost.engine.clock import Deadline
from milepost.engine.feed import Feed
from milepost.engine.interrupt import Stop
from milepost.engine.mailbox import Mailbox
from milepost.engine.prefetch import RowsAhead
from milepost.engine.rate_limits import CallShares, RateLimits


class Slots:
    """A resizable semaphore: `concurrency` streams run at once.

    A run that waits releases its slot, so that it holds up no other stream. `observe_wait` is called with the seconds
    that a stream has waited for its slot.
    """

    def __init__(self, concurrency: int, observe_wait: Callable[[float], None] = lambda _: None) -> None:
        self._concurrency = concurrency
        self._observe_wait = observe_wait
        self._surplus = 0  # slots to withdraw as they become free
        self._free = asyncio.Semaphore(concurrency)
        # By the event loop's clock, which stops while the process is suspended.
        self._held_since: dict[Stream, float] = {}
        self._waiting_since: dict[Stream, float] = {}
        self._due_since: dict[Stream, float] = {}

    def held_seconds(self) -> Mapping[Stream, float]:
        """Return for how long each stream has held its slot without a break."""
        now = asyncio.get_running_loop().time()
        return {stream: now - held_since for stream, held_since in self._held_since.items()}

    def waiting_seconds(self) -> Mapping[Stream, float]:
        """Return for how long each stream has been waiting for a slot."""
        now = asyncio.get_running_loop().time()
        return {stream: now - since for stream, since in (self._due_since | self._waiting_since).items()}

    @property
    def waiting(self) -> Collection[Stream]:
        """The streams that wait for a slot. May be called from another thread."""
        return (self._due_since | self._waiting_since).keys()

    def note_due(self, streams: Iterable[Stream]) -> None:
        """Note the streams that are due but may not ask for a slot yet: their wait begins now, if it has not begun.

        A worker of a fleet asks for a slot only once it has a lease on the stream.
        """
        now = asyncio.get_running_loop().time()
        self._due_since = {stream: self._due_since.get(stream, now) for stream in streams}

    @property
    def all_taken(self) -> bool:
        """Whether a stream that asks for a slot has to wait."""
        return len(self._held_since) + len(self._waiting_since) >= self._concurrency

    def resize(self, concurrency: int) -> None:
        """Change how many streams run at once. Surplus runs go on; their slots are withdrawn when they end."""
        self._surplus += self._concurrency - concurrency
        self._concurrency = concurrency
        while self._surplus < 0:
            self._surplus += 1
            self._free.release()

    @asynccontextmanager
    async def hold(self, stream: Stream) -> AsyncIterator[None]:
        """Hold a slot during the block."""
        await self._acquire(stream)
        try:
            self._held_since[stream] = asyncio.get_running_loop().time()
            yield
        finally:
            self._held_since.pop(stream, None)
            self._free.release()

    @asynccontextmanager
    async def released(self, stream: Stream) -> AsyncIterator[None]:
        """Within `hold`: release the slot during the block."""
        del self._held_since[stream]
        self._free.release()
        try:
            yield
        finally:
            await self._acquire(stream)
            self._held_since[stream] = asyncio.get_running_loop().time()

    async def _acquire(self, stream: Stream) -> None:
        now = asyncio.get_running_loop().time()
        since = self._waiting_since[stream] = self._due_since.pop(stream, now)
        try:
            await self._free.acquire()
            while self._surplus > 0:  # withdraw this one, and wait for another
                self._surplus -= 1
                await self._free.acquire()
        finally:
            del self._waiting_since[stream]
        self._observe_wait(asyncio.get_running_loop().time() - since)


class EngineContext(Struct, frozen=True, eq=False):
    """The parts of the engine that all streams share."""

    store: Store
    clock: Clock
    feed: Feed
    stop: Stop
    policy: Policy
    rate_limits: RateLimits
    slots: Slots
    call_shares: CallShares = field(default_factory=CallShares)
    rows_ahead: RowsAhead = field(default_factory=RowsAhead)
    quiet_heads: dict[Stream, QuietHead] = field(default_factory=dict)

    def is_interrupted(self, mailbox: Mailbox) -> bool:
        """Return whether something has come up that must be handled between two batches."""
        return self.stop.is_requested or mailbox.interrupt.is_set or mailbox.is_dismissed or mailbox.is_outdated

    def budget_now(self, budget: RunBudget, deadline: Deadline, mailbox: Mailbox) -> RunBudget:
        """Return a run's budget with its deadline by the clock's current setting, and with any reason to stop."""
        stops_for = Reason.SHUTDOWN if self.stop.is_requested else Reason.REMOVED if mailbox.is_dismissed else None
        return replace(budget, deadline_at=deadline.at, stops_for=stops_for)
