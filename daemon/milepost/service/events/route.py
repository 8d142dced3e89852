"""`GET /api/events`: the event stream over HTTP."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated

import structlog
from aiohttp import web
from msgspec import Meta, Struct

from milepost.core.errors import MilepostError
from milepost.service.api.endpoint import AnyOperation, Call, Operation, StreamKey
from milepost.service.events.broadcast import Broadcast, Unavailable
from milepost.service.events.following import Wanted
from milepost.service.events.messages import Message, Status

MAX_LAST = 500
MAX_STREAMS = 50  # that one reader names
MAX_WRITE_SECONDS = 20.0  # until a reader who takes nothing is cut off: it comes back with its place
SEND_BUFFER_BYTES = 64 * 1024  # for a reader who is slow; the kernel would take megabytes for each
MEDIA_TYPE = "text/event-stream"
HEADERS = {
    "Content-Type": MEDIA_TYPE,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would collect events until a buffer is full
}


class EventsAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Which events are told."""

    stream: Annotated[
        tuple[StreamKey, ...], Meta(max_length=MAX_STREAMS, description="only events of these streams")
    ] = ()
    status: Annotated[tuple[Status, ...], Meta(description="only events with these statuses")] = ()
    last: Annotated[int, Meta(ge=0, le=MAX_LAST, description="begin with so many of the newest entries")] = 0


def event_stream(broadcast: Broadcast, *, max_write_seconds: float = MAX_WRITE_SECONDS) -> Sequence[AnyOperation]:
    """Declare the event stream.

    It is written with aiohttp's own response: aiohttp-sse encodes each event for each reader anew, and keeps a task for
    each reader's heartbeat.
    """

    async def follow_events(call: Call[EventsAsked, None]) -> web.StreamResponse:
        request = call.request
        if request.method == "HEAD":  # which aiohttp takes for a GET: it would never end
            raise web.HTTPMethodNotAllowed("HEAD", ["GET"])
        async with aclosing(broadcast.follow(_wanted(call))) as pieces:
            try:
                opening = await anext(pieces)
            except Unavailable as error:
                raise web.HTTPServiceUnavailable(text=error.message, headers={"Retry-After": "60"}) from error
            response = web.StreamResponse(headers=HEADERS)
            await response.prepare(request)
            await _write(request, response, opening, pieces, max_write_seconds)
        return response

    return [
        Operation(
            "GET",
            "/api/events",
            "Follow what happens, as server-sent events; each is a message, its id the entry's seq",
            parameters=EventsAsked,
            response=Message,
            handle=follow_events,
            media_type=MEDIA_TYPE,
            max_seconds=None,
        )
    ]


def _wanted(call: Call[EventsAsked, None]) -> Wanted:
    """Say what is wanted from where on. Raises HTTPBadRequest for a place that is none."""
    asked, last_id = call.parameters, call.request.headers.get("Last-Event-ID", "")
    if last_id and not re.fullmatch(r"[0-9]{1,18}", last_id):
        raise web.HTTPBadRequest(text="the header Last-Event-ID is not the id of an event: these are numbers")
    streams = tuple(dict.fromkeys(asked.stream))
    return Wanted(streams, frozenset(asked.status), int(last_id) if last_id else None, asked.last)


async def _write(
    request: web.Request,
    response: web.StreamResponse,
    opening: bytes,
    pieces: AsyncIterator[bytes],
    max_write_seconds: float,
) -> None:
    """Write until the reader goes, is too slow, or the daemon ends."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    log = structlog.get_logger("milepost")
    try:
        await response.write(opening)
        async for piece in pieces:
            async with asyncio.timeout(max_write_seconds):
                await response.write(piece)
    except ConnectionError:  # it has gone
        pass
    except TimeoutError:
        log.info("reader of events cut off", seconds=max_write_seconds, hint="it took nothing; it may come back")
        transport.abort()
    except MilepostError as error:
        log.warning("reader of events cut off", reason=error.message, hint="it comes back by itself")
        transport.abort()
