"""`GET /api/events`: the event stream over HTTP."""

import asyncio
import re
import socket
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated

import structlog
from aiohttp import web
from msgspec import Meta, Struct

from milepost.core.errors import MilepostError
from milepost.service.endpoint import AnyOperation, Call, Operation, StreamKey
from milepost.service.events.broadcast import Broadcast, EventQuery, Unavailable
from milepost.service.events.messages import Message, Status

MAX_LAST = 500
MAX_STREAMS = 50  # that one reader may name
MAX_WRITE_SECONDS = 20.0  # then a reader that reads nothing is disconnected; it can resume from its last id
SEND_BUFFER_BYTES = 64 * 1024  # the kernel would buffer megabytes for each slow reader
MEDIA_TYPE = "text/event-stream"
HEADERS = {
    "Content-Type": MEDIA_TYPE,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # or nginx would hold events back until a buffer is full
}


class EventsAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Which events to send."""

    stream: Annotated[
        tuple[StreamKey, ...], Meta(max_length=MAX_STREAMS, description="only events of these streams")
    ] = ()
    status: Annotated[tuple[Status, ...], Meta(description="only events with these statuses")] = ()
    last: Annotated[int, Meta(ge=0, le=MAX_LAST, description="begin with this many of the newest entries")] = 0
    digest: Annotated[bool, Meta(description="of similar events, send one for all every few seconds; compressed")] = (
        False
    )


def event_stream(broadcast: Broadcast) -> Sequence[AnyOperation]:
    """Declare the event stream.

    It uses aiohttp's own response: aiohttp-sse encodes each event anew for each reader, and keeps a task for each
    reader's heartbeat.
    """

    async def follow_events(call: Call[EventsAsked, None]) -> web.StreamResponse:
        async with aclosing(broadcast.follow(_query(call))) as pieces:
            return await send_events(call.request, pieces, may_compress=call.parameters.digest)

    return [
        Operation(
            "GET",
            "/api/events",
            "Follow what happens, as server-sent events: each is a message, and its id is the entry's seq",
            parameters=EventsAsked,
            response=Message,
            handle=follow_events,
            media_type=MEDIA_TYPE,
            max_seconds=None,
        )
    ]


async def send_events(
    request: web.Request, pieces: AsyncIterator[bytes], *, may_compress: bool = False
) -> web.StreamResponse:
    """Send the pieces of an event stream. Raises one of aiohttp's HTTP errors, but only before the first piece."""
    if request.method == "HEAD":  # aiohttp treats it as a GET, which would never end
        raise web.HTTPMethodNotAllowed("HEAD", ["GET"])
    try:
        first, rest = await anext(pieces), aiter(pieces)
    except Unavailable as error:
        raise web.HTTPServiceUnavailable(text=error.message, headers={"Retry-After": "60"}) from error
    response = web.StreamResponse(headers=HEADERS)
    if may_compress and "gzip" in request.headers.get("Accept-Encoding", ""):
        response.headers["Content-Encoding"] = "gzip"
        first, rest = _compressed(first, pieces)
    await response.prepare(request)
    await _write(request, response, first, rest)
    return response


def last_event_id(request: web.Request) -> tuple[int, str | None] | None:
    """Return the seq from which a reader resumes, and the mark if one follows it, as in the ids of the change feed.

    Raises HTTPBadRequest for a Last-Event-ID that does not begin with a number.
    """
    last_id = request.headers.get("Last-Event-ID", "")
    seq, hyphen, mark = last_id.partition("-")
    if last_id and not re.fullmatch(r"[0-9]{1,18}", seq):
        raise web.HTTPBadRequest(text="the header Last-Event-ID is not the id of an event, which begins with a number")
    return (int(seq), mark if hyphen else None) if last_id else None


def _query(call: Call[EventsAsked, None]) -> EventQuery:
    """Return the reader's query. Raises as `last_event_id` does."""
    asked, resumed = call.parameters, last_event_id(call.request)
    streams = tuple(dict.fromkeys(asked.stream))
    after = None if resumed is None else resumed[0]
    return EventQuery(streams, frozenset(asked.status), after, asked.last, asked.digest)


def _compressed(first: bytes, pieces: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """Compress the pieces, flushing each, so that it can be read at once. aiohttp's compression does not flush."""
    # A window of 8 kB, which holds some twenty events: a reader costs 32 kB, not 256.
    compressor = zlib.compressobj(wbits=16 + 13, memLevel=6)

    def compress(piece: bytes) -> bytes:
        return compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH)

    async def rest() -> AsyncIterator[bytes]:
        async for piece in pieces:
            yield compress(piece)
        yield compressor.flush()

    return compress(first), rest()


async def _write(
    request: web.Request,
    response: web.StreamResponse,
    first: bytes,
    pieces: AsyncIterator[bytes],
) -> None:
    """Write until the reader disconnects, is too slow, or the daemon ends."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    log = structlog.get_logger("milepost")
    try:
        await response.write(first)
        async for piece in pieces:
            async with asyncio.timeout(MAX_WRITE_SECONDS):
                await response.write(piece)
    except ConnectionError:  # it has disconnected
        pass
    except TimeoutError:
        log.info("event reader disconnected", seconds=MAX_WRITE_SECONDS, hint="it took nothing; it may reconnect")
        transport.abort()
    except MilepostError as error:
        log.warning("event reader disconnected", reason=error.message, hint="it reconnects by itself")
        transport.abort()
