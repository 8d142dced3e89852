"""`GET /api/events`: the event stream over HTTP."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated

import msgspec
import structlog
from aiohttp import web
from msgspec import Meta, Struct

from milepost.core.errors import MilepostError
from milepost.core.model import Stream
from milepost.service.events.broadcast import Broadcast
from milepost.service.events.following import Wanted
from milepost.service.events.message import Status

MAX_LAST = 500
MAX_STREAMS = 50  # that one reader names
MAX_WRITE_SECONDS = 20.0  # until a reader who takes nothing is cut off: it comes back with its place
SEND_BUFFER_BYTES = 64 * 1024  # for a reader who is slow; the kernel would take megabytes for each
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would collect events until a buffer is full
}


class _Query(Struct, frozen=True, forbid_unknown_fields=True):
    stream: Annotated[tuple[str, ...], Meta(max_length=MAX_STREAMS)] = ()
    status: tuple[Status, ...] = ()
    last: Annotated[tuple[Annotated[int, Meta(ge=0, le=MAX_LAST)], ...], Meta(max_length=1)] = (0,)


def event_stream(
    broadcast: Broadcast, *, max_write_seconds: float = MAX_WRITE_SECONDS
) -> Sequence[web.AbstractRouteDef]:
    """Give the route of the event stream.

    It is written with aiohttp's own response: aiohttp-sse encodes each event for each reader anew, and keeps a task for
    each reader's heartbeat.
    """

    async def get(request: web.Request) -> web.StreamResponse:
        async with aclosing(broadcast.follow(_wanted(request))) as pieces:
            try:
                opening = await anext(pieces)
            except MilepostError as error:
                raise web.HTTPServiceUnavailable(text=error.message, headers={"Retry-After": "60"}) from error
            response = web.StreamResponse(headers=HEADERS)
            await response.prepare(request)
            await response.write(opening)
            await _write(request, response, pieces, max_write_seconds)
        return response

    return [web.get("/api/events", get, allow_head=False)]


def _wanted(request: web.Request) -> Wanted:
    """Read what is asked for. Raises HTTPBadRequest, which says what is wrong."""
    given = {name: request.query.getall(name) for name in request.query}
    try:
        query = msgspec.convert(given, _Query, strict=False)
        streams = tuple(dict.fromkeys(Stream.parse(key).key for key in query.stream))
    except ValueError as error:  # msgspec's are of that kind
        raise web.HTTPBadRequest(text=f"the query is not as it should be: {error}") from error
    last_id = request.headers.get("Last-Event-ID", "")
    if last_id and not re.fullmatch(r"[0-9]{1,18}", last_id):
        raise web.HTTPBadRequest(text="Last-Event-ID is not the id of an event: they are numbers")
    return Wanted(streams, frozenset(query.status), int(last_id) if last_id else None, *query.last)


async def _write(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[bytes], max_write_seconds: float
) -> None:
    """Write until the reader goes, is too slow, or the daemon ends."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    log = structlog.get_logger("milepost")
    try:
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
