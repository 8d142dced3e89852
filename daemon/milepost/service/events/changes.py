"""`/api/changes`: the rows that changed, page by page, or as server-sent events whose ids are the seqs to resume from.

Each reader queries the database at its own pace: only the database knows what a commit changed, and a page of changes
is a cheap query. A reader looks again after each commit, and every second because other processes write as well.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from milepost.core.changes import ALL_KINDS, Change, ChangeKind, ChangeReader, ChangesPage
from milepost.core.model import Stream
from milepost.engine.feed import Notice, Recorded
from milepost.service.api.journal import MAX_SEQ
from milepost.service.endpoint import AnyOperation, Call, Limit, Operation, Reply, StreamKey, etag_of
from milepost.service.events.broadcast import BEAT_SECONDS, HEARTBEAT_SECONDS, RETRY_MILLISECONDS, Unavailable
from milepost.service.events.route import MEDIA_TYPE, last_event_id, send_events

POLL_SECONDS = 1.0
PAGE = 200
MAX_READERS = 50

_encode = msgspec.json.Encoder().encode


class ChangesQuery(Struct, frozen=True):
    """Which changes a reader wants, and after which seq."""

    after: int = 0
    kinds: frozenset[ChangeKind] = ALL_KINDS
    stream: Stream | None = None


class ChangeStream:
    """Reads the feed of commits, and serves the readers of the change feed."""

    def __init__(self, reader: ChangeReader) -> None:
        self._reader = reader
        self._readers = 0
        self._news = asyncio.Event()
        self._is_over = False

    def read(self, notice: Notice) -> None:
        """Wake the readers after a commit."""
        if isinstance(notice, Recorded):
            self._wake()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve readers during the block. At its end they are disconnected, and can resume where they were."""
        try:
            yield
        finally:
            self._is_over = True
            self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def follow(self, query: ChangesQuery) -> AsyncGenerator[bytes, None]:
        """Yield what is sent to a reader, until the daemon ends.

        Raises Unavailable before it yields anything, and a MilepostError at any time if the database is unavailable.
        """
        if self._is_over:
            raise Unavailable("the daemon is shutting down")
        if self._readers >= MAX_READERS:
            raise Unavailable(f"{MAX_READERS} readers are connected already: try again in a minute")
        self._readers += 1
        try:
            async with aclosing(self._pieces(query)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._readers -= 1

    async def _pieces(self, query: ChangesQuery) -> AsyncGenerator[bytes, None]:
        loop, place, news = asyncio.get_running_loop(), query.after, self._news
        page = await self._reader.read_changes(place, PAGE, query.kinds, query.stream)
        # How to reconnect, so that a browser knows its position even before the first change. The feed may end before
        # the requested place: see ChangesPage.
        yield b"retry: %d\nid: %d\n\n" % (RETRY_MILLISECONDS, min(place, page.next))
        due_at = loop.time() + HEARTBEAT_SECONDS
        while True:
            if page.changes:
                yield b"".join(map(_event, page.changes))
                due_at = loop.time() + HEARTBEAT_SECONDS
            elif loop.time() >= due_at:
                # With the seq, so that a reader that filters resumes where it was, not at its last change.
                yield b": alive\nid: %d\n\n" % page.next
                due_at = loop.time() + HEARTBEAT_SECONDS
            if self._is_over:
                return
            if page.next == place:
                await self._wait(news)
            place, news = page.next, self._news
            page = await self._reader.read_changes(place, PAGE, query.kinds, query.stream)

    async def _wait(self, news: asyncio.Event) -> None:
        """Wait for news, which may come many times a second, or for the next poll."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await news.wait()
        if not self._is_over:
            await asyncio.sleep(BEAT_SECONDS)


def _event(change: Change) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (change.seq, _encode(change))


_KIND = "|".join(ChangeKind)


class ChangesFollowed(Struct, frozen=True, forbid_unknown_fields=True):
    """Which changes to send. The header Last-Event-ID goes before `after`."""

    after: Annotated[
        int, Meta(ge=0, le=MAX_SEQ, description="only changes with a greater seq: the `next` of the last page")
    ] = 0
    kinds: Annotated[
        tuple[Annotated[str, Meta(pattern=f"^({_KIND})(,({_KIND}))*$")], ...],
        Meta(description=f"only changes of these kinds, separated by commas: {', '.join(ChangeKind)}"),
    ] = ()
    stream: StreamKey | None = None


class ChangesAsked(ChangesFollowed, frozen=True, forbid_unknown_fields=True):
    """Which changes to list."""

    limit: Limit = 100


def changes(reader: ChangeReader) -> Sequence[AnyOperation]:
    """Declare the operation that lists changes."""

    async def list_changes(call: Call[ChangesAsked, None]) -> Reply[ChangesPage]:
        asked = call.parameters
        query = _query(asked, asked.after)
        page = await reader.read_changes(query.after, asked.limit, query.kinds, query.stream)
        # Every change of a row gives it a new seq.
        return Reply(page, etag=etag_of([page.next, *(change.seq for change in page.changes)]))

    return [
        Operation(
            "GET",
            "/api/changes",
            "List the rows that changed, in the order of their changes, each as it is now",
            parameters=ChangesAsked,
            response=ChangesPage,
            handle=list_changes,
            statuses=(200, 304),
        )
    ]


def change_stream(followed: ChangeStream) -> Sequence[AnyOperation]:
    """Declare the change feed as server-sent events."""

    async def follow_changes(call: Call[ChangesFollowed, None]) -> web.StreamResponse:
        asked, last_id = call.parameters, last_event_id(call.request)
        query = _query(asked, asked.after if last_id is None else last_id)
        async with aclosing(followed.follow(query)) as pieces:
            return await send_events(call.request, pieces)

    return [
        Operation(
            "GET",
            "/api/changes/stream",
            "Follow the rows that change, as server-sent events: each is a change, and its id is the seq",
            parameters=ChangesFollowed,
            response=Change,
            handle=follow_changes,
            media_type=MEDIA_TYPE,
            max_seconds=None,
        )
    ]


def _query(asked: ChangesFollowed, after: int) -> ChangesQuery:
    kinds = frozenset(ChangeKind(kind) for each in asked.kinds for kind in each.split(","))
    return ChangesQuery(after, kinds or ALL_KINDS, None if asked.stream is None else Stream.parse(asked.stream))
