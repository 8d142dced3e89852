"""A Source around a Source that requests the next batches ahead, so that network and database work in parallel."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.model import Detail
from milepost.core.ports import Answered, Fetched, Held, MessagesAnswered, MessagesRequest, Refused, Request, Source
from milepost.core.problems import Remedy, rule_for
from milepost.core.walk import reaches_back

MAX_AHEAD = 52  # batches of a stream: those of one commit and a few more
MAX_ROWS_AHEAD = 12_000  # conversations and messages of all streams, beyond the first batch of each: about 10 MB


class RowsAhead:
    """Counts the conversations and messages in the prefetched batches of all streams."""

    def __init__(self) -> None:
        self.count = 0


class _Prefetched(Struct):
    request: Request
    outcome: asyncio.Task[Answered]
    rows: int = 0  # conversations and messages, once it has arrived


class Prefetch:
    """A Source that prefetches batches, one after the other, as far as the run is sure to want them.

    An async context manager for one run. A request that is still in flight at the end is cancelled. While the run is
    busy, one batch after the other is requested, as long as `may_go_on` says that nothing has come up.
    """

    def __init__(
        self, source: Source, may_go_on: Callable[[], bool] = lambda: True, rows_ahead: RowsAhead | None = None
    ) -> None:
        self._source = source
        self._rows_ahead = rows_ahead or RowsAhead()
        self._may_go_on = may_go_on
        self._is_going_on = False
        self._ahead: deque[_Prefetched] = deque()  # the last may still be in flight; all others have arrived

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()

    async def fetch(self, request: Request) -> Answered:
        """Return the batch, which may be ready, and request the next. Held if another request was in flight."""
        if self.has_requested(request):
            outcome = await self._ahead[0].outcome
            self._take()  # only now, or a stop at the same time could lose a refusal
        elif self._ahead:
            await self.cancel()
            return Held()  # a stop or removal in the meantime comes first; otherwise the same request is planned again
        else:
            outcome = await self._source.fetch(request)
        self._request_next(request, outcome)
        return outcome

    def has_requested(self, request: Request) -> bool:
        """Return whether the request is the next of those that were sent ahead."""
        ahead = self._ahead[0] if self._ahead else None
        return ahead is not None and _is_same(ahead.request, request) and not ahead.outcome.cancelled()

    def ready(self, request: Request, place: int) -> Fetched | None:
        """Return the batch if it has arrived and `place` others are before it."""
        ahead = self._ahead[place] if place < len(self._ahead) else None
        if ahead is None or not _is_same(ahead.request, request):
            return None
        outcome = _arrived(ahead)
        return outcome if isinstance(outcome, Fetched) else None

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Prefetch one batch after the other during the block, while the run is busy with those it has."""
        self._is_going_on = True
        try:
            yield
        finally:
            self._is_going_on = False

    def drop_settled(self, count: int) -> None:
        """Drop the first `count` ready batches, which are settled."""
        for _ in range(count):
            settled = self._take()
            if self._is_going_on and self._may_go_on():
                self._request_next(settled.request, settled.outcome.result())

    def _request_next(self, request: Request, outcome: Answered) -> None:
        """Request the batch after the last prefetched one or, if there is none, after this one."""
        last = self._ahead[-1] if self._ahead else None
        if last is not None:
            arrived = _arrived(last)
            if arrived is None:
                return
            request, outcome = last.request, arrived
        following = _next_request(request, outcome)
        has_room = len(self._ahead) < MAX_AHEAD and self._rows_ahead.count < MAX_ROWS_AHEAD
        if following is not None and (has_room or not self._ahead):
            asking = asyncio.create_task(self._source.fetch(following))
            self._ahead.append(_Prefetched(following, asking))
            asking.add_done_callback(self._go_on)

    def _go_on(self, asked: asyncio.Task[Answered]) -> None:
        """Request the batch after one that has arrived, unless that was taken, or something came up meanwhile."""
        last = self._ahead[-1] if self._ahead else None
        if last is not None and last.outcome is asked and (arrived := _arrived(last)) is not None:
            last.rows = _rows_of(arrived)
            self._rows_ahead.count += last.rows
            if self._is_going_on and self._may_go_on():
                self._request_next(last.request, arrived)

    def _take(self) -> _Prefetched:
        taken = self._ahead.popleft()
        self._rows_ahead.count -= taken.rows
        return taken

    async def reread(self, conversation_id: str, messages: int) -> Answered:
        """Read one conversation. Conversations are never prefetched."""
        return await self._source.reread(conversation_id, messages)

    async def messages(self, request: MessagesRequest) -> MessagesAnswered:
        """Read messages of one conversation. These are never prefetched either."""
        return await self._source.messages(request)

    @property
    def refusal(self) -> Refused | None:
        """The refusal of the next prefetched request or, if it is a rate limit, of any prefetched request.

        A limit holds at once. Any other refusal is about its own cursor, and counts once the walk gets there.
        """
        arrived = _arrived(self._ahead[-1]) if self._ahead else None
        if not isinstance(arrived, Refused):
            return None
        is_limit = rule_for(arrived.problem, has_cursor=True).remedy is Remedy.WAIT
        return arrived if is_limit or len(self._ahead) == 1 else None

    def forget(self) -> Request | None:
        """Drop the prefetched answers, and return the last request, which is being settled."""
        last = self._ahead[-1] if self._ahead else None
        while self._ahead:
            self._take()
        return last.request if last is not None else None

    async def cancel(self) -> None:
        """Cancel the request in flight, and wait until it has ended."""
        asked = {each.outcome for each in self._ahead}
        self.forget()
        for each in asked:
            each.cancel()
        if asked:
            await asyncio.wait(asked)


def _arrived(ahead: _Prefetched) -> Answered | None:
    is_there = ahead.outcome.done() and not ahead.outcome.cancelled()
    return ahead.outcome.result() if is_there else None


def _rows_of(arrived: Answered) -> int:
    conversations = arrived.batch.conversations if isinstance(arrived, Fetched) else ()
    return len(conversations) + sum(len(each.interactions) for each in conversations)


def _is_same(one: Request, other: Request) -> bool:
    return (one.cursor, one.limit, one.messages, one.detail) == (
        other.cursor,
        other.limit,
        other.messages,
        other.detail,
    )


def _next_request(request: Request, outcome: Answered) -> Request | None:
    """Return the request that is sure to follow this outcome; None if the walk or the run may end here."""
    if request.batches_left <= 0 or request.detail is not Detail.NESTED or not isinstance(outcome, Fetched):
        return None  # after a reduced request, the next may be of another size
    cursor = outcome.batch.next_cursor
    if cursor is None and request.until is None and request.cursor is not None:
        return replace(request, cursor=None, batches_left=0)  # the catch-up scan, after a walk to the end of the inbox
    times = [each.updated_time for each in outcome.batch.conversations]
    if cursor is None or cursor == request.cursor or reaches_back(times, request.until):
        return None
    return replace(request, cursor=cursor, batches_left=request.batches_left - 1)
