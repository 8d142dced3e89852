"""An engine to test: scripted sources, a store that fails, and the context that all streams share."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from msgspec.structs import replace

from kit.builders import NOON, STREAM, budget, contact, conversation, fetched, refused
from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualClock
from milepost.core.checkpoint import Checkpoint, DeadLetter, Run
from milepost.core.errors import StoreAway
from milepost.core.model import Conversation, MessagePage, Stream
from milepost.core.plan import Policy, RunBudget
from milepost.core.ports import (
    Answered,
    Clock,
    Commit,
    Committed,
    Gate,
    Held,
    MessagesAnswered,
    MessagesFetched,
    MessagesRequest,
    Outcome,
    Refused,
    Rejected,
    Request,
    RunResult,
    Source,
)
from milepost.core.problems import Problem
from milepost.engine.context import EngineContext, Mailbox, Slots
from milepost.engine.feed import Feed, Notice, Recorded
from milepost.engine.interrupt import Stop
from milepost.engine.rate_limits import RateLimits
from milepost.engine.run import run_stream
from milepost.engine.supervisor import Supervisor
from milepost.stores import rows

Before = Callable[[Request | str], Awaitable[Outcome | None]]


class Inbox:
    """A Source over a number of batches of one conversation each; cursors are the numbers of the batches.

    `before` is awaited ahead of each answer and may answer in its place; its argument is the request, or the id of the
    conversation to read. `gate` is checked before each call, and notified of refusals. A call takes `call_seconds`.
    """

    def __init__(
        self,
        batches: int,
        *,
        before: Before | None = None,
        prefix: str = "t",
        clock: Clock | None = None,
        gate: Gate | None = None,
        call_seconds: float = 0.0,
    ) -> None:
        self.batches = batches
        self.asked: list[Request | str] = []
        self.called_at: list[float] = []
        self._before = before
        self._prefix = prefix
        self._clock = clock
        self._gate = gate
        self._call_seconds = call_seconds

    async def fetch(self, request: Request) -> Answered:
        return await self._answer(request)

    async def reread(self, conversation_id: str, messages: int) -> Answered:
        return await self._answer(conversation_id)

    async def messages(self, request: MessagesRequest) -> MessagesAnswered:
        """Return no messages: the conversations have none."""
        return MessagesFetched(MessagePage(()), NOON, 0.0)

    async def _answer(self, asked: Request | str) -> Answered:
        if self._gate is not None and self._gate.is_closed():
            return Held()
        self.asked.append(asked)
        self.called_at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self._call_seconds)
        outcome = await self._before(asked) if self._before is not None else None
        if self._gate is not None and isinstance(outcome, Refused):
            return replace(outcome, refused_at=self._gate.refused(outcome.problem))
        return outcome or self._good_answer(asked)

    def _good_answer(self, asked: Request | str) -> Outcome:
        asked_at = self._clock.now() if self._clock else NOON
        if isinstance(asked, str):
            return fetched(self._thread(int(asked.rpartition("_")[2])), asked_at=asked_at)
        number = int(asked.cursor or 0)
        following = str(number + 1) if number + 1 < self.batches else None
        return fetched(self._thread(number), next_cursor=following, asked_at=asked_at)

    def _thread(self, number: int) -> Conversation:
        name = f"{self._prefix}_{number}"
        return conversation(name, NOON - timedelta(hours=number + 1), of=contact(f"c_{name}"))

    @property
    def cursors(self) -> list[str | None]:
        """The cursors of the requested batches."""
        return [asked.cursor for asked in self.asked if isinstance(asked, Request)]

    @property
    def reread_ids(self) -> list[str]:
        """The ids of the conversations that were requested by id."""
        return [asked for asked in self.asked if isinstance(asked, str)]


def cursor_of(asked: Request | str) -> str | None:
    """Return the cursor of a request; None for the head of the inbox, and for a single thread."""
    return asked.cursor if isinstance(asked, Request) else None


def always(outcome: Outcome) -> Before:
    """Answer every call with this outcome."""

    async def before(_: Request | str) -> Outcome:
        return outcome

    return before


def after(cursor: str, outcome: Outcome) -> Before:
    """Answer requests for the batch after this cursor with this outcome."""

    async def before(asked: Request | str) -> Outcome | None:
        return outcome if cursor_of(asked) == cursor else None

    return before


def refusing(what: Problem, *, until: datetime, clock: Clock) -> Before:
    """Refuse every call until an instant."""

    async def before(_: Request | str) -> Outcome | None:
        return refused(what) if clock.now() < until else None

    return before


def at_call(number: int, act: Callable[[], Awaitable[object]]) -> Before:
    """Run a function before the call with this number is answered; calls are counted from 1."""
    calls = 0

    async def before(_: Request | str) -> Outcome | None:
        nonlocal calls
        calls += 1
        if calls == number:
            await act()
        return None

    return before


class FlakyStore(MemoryStore):
    """A store that is away for the next `absences` calls of commit."""

    def __init__(self, absences: int = 0) -> None:
        super().__init__()
        self.absences = absences

    async def commit(self, commit: Commit) -> Committed | Rejected:
        if self.absences:
            self.absences -= 1
            raise StoreAway("the disk is full", hint="make room")
        return await super().commit(commit)


def engine(
    store: MemoryStore,
    *,
    clock: Clock | None = None,
    stop: Stop | None = None,
    policy: Policy | None = None,
    feed: Feed | None = None,
    concurrency: int = 16,
) -> EngineContext:
    """Build the context of a process that has just started and loaded the rate limits from the journal."""
    clock, feed, policy = clock or VirtualClock(), feed or Feed(), policy or Policy(batch_size=1)
    rate_limits = RateLimits(clock, feed, floor_seconds=policy.rate_limit_floor_seconds)
    for snapshot in store.checkpoints.values():
        rate_limits.observe(rows.checkpoint(snapshot))
    return EngineContext(store, clock, feed, stop or Stop(), policy, rate_limits, Slots(concurrency))


@asynccontextmanager
async def running(supervisor: Supervisor, stop: Stop) -> AsyncIterator[None]:
    """Run the daemon during the block."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(supervisor.run())
        try:
            yield
        finally:
            stop.request()


def subscribed(feed: Feed) -> Collection[Notice]:
    """Return a collection that receives the notices published from now on, without a reading task."""
    return feed.subscribe()._held


async def ran(
    parts: EngineContext, inbox: Source, within: RunBudget | None = None, mailbox: Mailbox | None = None
) -> Checkpoint:
    """Run the stream once, in a slot, and return the checkpoint after it."""
    async with parts.slots.hold(STREAM):
        return await run_stream(parts, STREAM, inbox, within or budget(), mailbox or Mailbox())


def run_of(ended: Checkpoint | RunResult) -> Run:
    assert ended.run is not None
    return ended.run


def published(notices: Iterable[Notice]) -> list[int]:
    """Return the seqs of the published entries, in their order."""
    recorded = [notice for notice in notices if isinstance(notice, Recorded)]
    return [notice.committed.first_seq + place for notice in recorded for place in range(len(notice.entries))]


def types(store: MemoryStore, stream: Stream) -> list[str]:
    return [entry.type for entry in store.entries(stream)]


def find_open_dead_letters(store: MemoryStore) -> list[DeadLetter]:
    return [dead_letter for dead_letter in store.dead_letters.values() if dead_letter.closed_at is None]
