"""A Source around a Source that requests the next batch ahead, so that network and database work in parallel."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.model import Detail
from milepost.core.plan import reaches_back
from milepost.core.ports import Answered, Fetched, Held, MessagesAnswered, MessagesRequest, Refused, Request, Source


class _Prefetched(Struct, frozen=True):
    request: Request
    outcome: asyncio.Task[Answered]


class Prefetch:
    """A Source that requests one batch ahead where the run is sure to want it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ahead: _Prefetched | None = None

    async def fetch(self, request: Request) -> Answered:
        """Return the batch, which may be ready, and request the next. Held if another one was on its way."""
        ahead = self._ahead
        if ahead is not None and _is_same(ahead.request, request) and not ahead.outcome.cancelled():
            outcome = await ahead.outcome
            self._ahead = None  # not before: a stop that comes together with a refusal must not lose it
        elif ahead is not None:
            await self.cancel()
            return Held()  # a stop or a removal meanwhile counts first; otherwise the same request is planned again
        else:
            outcome = await self._source.fetch(request)
        next_request = _next_request(request, outcome)
        if next_request is not None:
            self._ahead = _Prefetched(next_request, asyncio.create_task(self._source.fetch(next_request)))
        return outcome

    async def reread(self, conversation_id: str, messages: int) -> Answered:
        """Read one conversation. These are never requested ahead."""
        return await self._source.reread(conversation_id, messages)

    async def messages(self, request: MessagesRequest) -> MessagesAnswered:
        """Read messages of one conversation. These are never requested ahead, either."""
        return await self._source.messages(request)

    @property
    def refusal(self) -> Refused | None:
        """The refusal of the request that was sent ahead, if it has arrived: a limit holds from then on."""
        ahead = self._ahead
        if ahead is None or not ahead.outcome.done() or ahead.outcome.cancelled():
            return None
        outcome = ahead.outcome.result()
        return outcome if isinstance(outcome, Refused) else None

    def forget(self) -> Request | None:
        """Drop what was answered ahead, and return its request: it is being settled."""
        ahead, self._ahead = self._ahead, None
        return ahead.request if ahead is not None else None

    async def cancel(self) -> None:
        """Cancel the request that was sent ahead, and wait until it has ended."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.outcome.cancel()
            await asyncio.wait({ahead.outcome})


@asynccontextmanager
async def prefetching(source: Source) -> AsyncIterator[Prefetch]:
    """Wrap a source for one run. A request that is still in flight at the end is cancelled."""
    ahead = Prefetch(source)
    try:
        yield ahead
    finally:
        await ahead.cancel()


def _is_same(one: Request, other: Request) -> bool:
    return (one.cursor, one.limit, one.messages, one.detail) == (
        other.cursor,
        other.limit,
        other.messages,
        other.detail,
    )


def _next_request(request: Request, outcome: Answered) -> Request | None:
    """Return the request that is sure to follow this outcome; None if the walk or the run may end here."""
    if request.is_last or request.detail is not Detail.NESTED or not isinstance(outcome, Fetched):
        return None  # after a reduced request, the next may be of another size
    cursor = outcome.batch.next_cursor
    times = (each.updated_time for each in outcome.batch.conversations)
    if cursor is None or cursor == request.cursor or reaches_back(times, request.until):
        return None
    return replace(request, cursor=cursor)
