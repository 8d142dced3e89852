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
    """Which changes a reader wants, and after which seq, with the mark that came with it; None if it uses no marks."""

    after: int = 0
    mark: str | None = None
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

        Raises Unavailable before it yields anything, and a MilepostError at any time if the database is unavailable, or
        no longer has what the reader has read.
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
        id_of = _seq_only if query.mark is None else _with_mark
        page = await self._reader.read_changes(place, PAGE, query.kinds, query.stream, query.mark or "")
        # How to reconnect, so that a browser knows its position even before the first change. The feed may end before
        # the requested place: see ChangesPage.
        yield b"retry: %d\nid: %b\n\n" % (RETRY_MILLISECONDS, id_of(min(place, page.next), page.mark))
        due_at = loop.time() + HEARTBEAT_SECONDS
        while True:
            if page.changes:
                yield b"".join(_event(id_of(change.seq, page.mark), change) for change in page.changes)
                due_at = loop.time() + HEARTBEAT_SECONDS
            elif loop.time() >= due_at:
                # With the seq, so that a reader that filters resumes where it was, not at its last change.
                yield b": alive\nid: %b\n\n" % id_of(page.next, page.mark)
                due_at = loop.time() + HEARTBEAT_SECONDS
            if self._is_over:
                return
            if page.next == place:
                await self._wait(news)
            place, news = page.next, self._news
            page = await self._reader.read_changes(place, PAGE, query.kinds, query.stream, page.mark)

    async def _wait(self, news: asyncio.Event) -> None:
        """Wait for news, which may come many times a second, or for the next poll."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await news.wait()
        if not self._is_over:
            await asyncio.sleep(BEAT_SECONDS)


def _event(event_id: bytes, change: Change) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (event_id, _encode(change))


def _seq_only(seq: int, _: str) -> bytes:
    return b"%d" % seq


def _with_mark(seq: int, mark: str) -> bytes:
    """Return what a reader sends as Last-Event-ID to resume after a seq; `last_event_id` takes it apart."""
    return f"{seq}-{mark}".encode()


Mark = Annotated[
    str, Meta(max_length=100, description="the `mark` of the last page, or empty; 409 if changes were lost since")
]
_KIND = "|".join(ChangeKind)


class ChangesFollowed(Struct, frozen=True, forbid_unknown_fields=True):
    """Which changes to send. The header Last-Event-ID goes before `after` and `mark`, as far as it has both."""

    after: Annotated[
        int, Meta(ge=0, le=MAX_SEQ, description="only changes with a greater seq: the `next` of the last page")
    ] = 0
    kinds: Annotated[
        tuple[Annotated[str, Meta(pattern=f"^({_KIND})(,({_KIND}))*$")], ...],
        Meta(description=f"only changes of these kinds, separated by commas: {', '.join(ChangeKind)}"),
    ] = ()
    stream: StreamKey | None = None
    mark: Mark | None = None


REWRITTEN = {409: "a restore or a failover has lost changes that the mark covers: begin again at `after=0`"}


class ChangesAsked(ChangesFollowed, frozen=True, forbid_unknown_fields=True):
    """Which changes to list."""

    limit: Limit = 100


def changes(reader: ChangeReader) -> Sequence[AnyOperation]:
    """Declare the operation that lists changes."""

    async def list_changes(call: Call[ChangesAsked, None]) -> Reply[ChangesPage]:
        asked = call.parameters
        query = _query(asked, asked.after, asked.mark)
        page = await reader.read_changes(query.after, asked.limit, query.kinds, query.stream, query.mark or "")
        # Every change of a row gives it a new seq.
        return Reply(page, etag=etag_of([page.next, page.mark, *(change.seq for change in page.changes)]))

    return [
        Operation(
            "GET",
            "/api/changes",
            "List the rows that changed, in the order of their changes, each as it is now",
            parameters=ChangesAsked,
            response=ChangesPage,
            handle=list_changes,
            statuses=(200, 304),
            problems=REWRITTEN,
        )
    ]


def change_stream(followed: ChangeStream) -> Sequence[AnyOperation]:
    """Declare the change feed as server-sent events."""

    async def follow_changes(call: Call[ChangesFollowed, None]) -> web.StreamResponse:
        asked = call.parameters
        after, mark = last_event_id(call.request) or (asked.after, None)
        query = _query(asked, after, asked.mark if mark is None else mark)
        async with aclosing(followed.follow(query)) as pieces:
            return await send_events(call.request, pieces)

    return [
        Operation(
            "GET",
            "/api/changes/stream",
            "Follow the rows that change, as server-sent events: each is a change, and its id the seq to resume from",
            parameters=ChangesFollowed,
            response=Change,
            handle=follow_changes,
            problems=REWRITTEN,
            media_type=MEDIA_TYPE,
            max_seconds=None,
        )
    ]


def _query(asked: ChangesFollowed, after: int, mark: str | None) -> ChangesQuery:
    kinds = frozenset(ChangeKind(kind) for each in asked.kinds for kind in each.split(","))
    return ChangesQuery(after, mark, kinds or ALL_KINDS, None if asked.stream is None else Stream.parse(asked.stream))
