"""A source round a source that has the next batch ready: the network works while the store commits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.model import Detail
from milepost.core.plan import reaches_back
from milepost.core.ports import Answered, Fetched, Refused, Request, Source


class _Prefetched(Struct, frozen=True):
    request: Request
    outcome: asyncio.Task[Answered]


class Prefetch:
    """A Source that asks for one batch more than it was asked for, where that is sure to be wanted."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ahead: _Prefetched | None = None

    async def fetch(self, request: Request) -> Answered:
        """Give the batch, which may be ready, and ask for the next."""
        ahead = self._ahead
        if ahead is not None and _is_same(ahead.request, request):
            self._ahead = None
            outcome = await ahead.outcome
        else:
            await self.give_up()
            outcome = await self._source.fetch(request)
        following = _following(request, outcome)
        if following is not None:
            self._ahead = _Prefetched(following, asyncio.create_task(self._source.fetch(following)))
        return outcome

    async def reread(self, conversation_id: str, messages: int) -> Answered:
        """Read one conversation, which is never known ahead."""
        return await self._source.reread(conversation_id, messages)

    @property
    def refusal(self) -> Refused | None:
        """The refusal of the request that was sent ahead, if it has come: it counts from now on."""
        ahead = self._ahead
        outcome = ahead.outcome.result() if ahead is not None and ahead.outcome.done() else None
        return outcome if isinstance(outcome, Refused) else None

    def forget(self) -> None:
        """Forget what was answered ahead: it is settled."""
        self._ahead = None

    async def give_up(self) -> None:
        """End what is under way, and wait until it has ended."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.outcome.cancel()
            await asyncio.wait({ahead.outcome})


@asynccontextmanager
async def prefetching(source: Source) -> AsyncIterator[Prefetch]:
    """Wrap a source for one run; what is under way in the end is given up."""
    ahead = Prefetch(source)
    try:
        yield ahead
    finally:
        await ahead.give_up()


def _is_same(one: Request, other: Request) -> bool:
    return (one.cursor, one.limit, one.messages, one.detail) == (
        other.cursor,
        other.limit,
        other.messages,
        other.detail,
    )


def _following(request: Request, outcome: Answered) -> Request | None:
    """Give the request that is sure to come after this outcome; None where the walk, or the run, may be at its end."""
    if request.is_last or request.detail is not Detail.NESTED or not isinstance(outcome, Fetched):
        return None  # where less was asked for, the next batch may be asked for in another way
    cursor = outcome.batch.next_cursor
    times = (each.updated_time for each in outcome.batch.conversations)
    if cursor is None or cursor == request.cursor or reaches_back(times, request.until):
        return None
    return replace(request, cursor=cursor)
