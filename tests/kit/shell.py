"""A shell to test: a clock that leaps instead of waiting, a source that follows a script, and what runs share."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta

from kit.builders import NOON, contact, conversation, fetched
from kit.memory_store import MemoryStore
from milepost.core.errors import StoreAway
from milepost.core.model import Stream
from milepost.core.plan import Policy
from milepost.core.ports import Commit, Committed, Outcome, Request, Store
from milepost.engine.feed import Feed, Signal
from milepost.engine.shared import Shared
from milepost.engine.stop import Stop


class LeapingClock:
    """A clock that moves only when somebody sleeps, and then at once. Its luck hardly changes, but never repeats."""

    def __init__(self, now: datetime = NOON, luck: float = 0.5) -> None:
        self.time = now
        self.slept: list[float] = []
        self._luck = luck

    def now(self) -> datetime:
        return self.time

    def luck(self) -> float:
        self._luck += 1e-9
        return self._luck

    async def sleep_until(self, instant: datetime) -> None:
        self.slept.append((instant - self.time).total_seconds())
        self.time = max(self.time, instant)
        await asyncio.sleep(0)


class Inbox:
    """A Source over a number of batches of one conversation each; cursors are the numbers of the batches.

    `before` is awaited ahead of each answer and may answer in its place.
    """

    def __init__(
        self,
        batches: int,
        *,
        before: Callable[[Request], Awaitable[Outcome | None]] | None = None,
        prefix: str = "t",
        clock: LeapingClock | None = None,
    ) -> None:
        self.batches = batches
        self.requests: list[Request] = []
        self._before = before
        self._prefix = prefix
        self._clock = clock

    async def fetch(self, request: Request) -> Outcome:
        self.requests.append(request)
        if self._before is not None and (answer := await self._before(request)) is not None:
            return answer
        number = int(request.cursor or 0)
        following = str(number + 1) if number + 1 < self.batches else None
        name = f"{self._prefix}_{number}"
        thread = conversation(name, NOON - timedelta(hours=number + 1), of=contact(f"c_{name}"))
        asked_at = self._clock.now() if self._clock else NOON
        return fetched(thread, next_cursor=following, asked_at=asked_at)

    @property
    def cursors(self) -> list[str | None]:
        return [request.cursor for request in self.requests]


class FlakyStore(MemoryStore):
    """A store that is away for the next `absences` calls of commit."""

    def __init__(self, absences: int = 0) -> None:
        super().__init__()
        self.absences = absences

    async def commit(self, commit: Commit) -> Committed:
        if self.absences:
            self.absences -= 1
            raise StoreAway("the disk is full", hint="make room")
        return await super().commit(commit)


def shared(
    store: Store,
    clock: LeapingClock,
    *,
    stop: Stop | None = None,
    policy: Policy | None = None,
    feed: Feed | None = None,
) -> Shared:
    return Shared(store, clock, feed or Feed(), stop or Stop(), policy or Policy(batch_size=1))


def heard(feed: Feed) -> Collection[Signal]:
    """Hold what is published from now on, without a task that reads it."""
    return feed.subscribe()._held


def types(store: MemoryStore, stream: Stream) -> list[str]:
    return [entry.type for entry in store.entries(stream.key)]
