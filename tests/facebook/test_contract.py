"""The Facebook source fulfils the contract of every Source, against a small list edge on the loopback interface."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest
from aiohttp import web

from contracts.source_contract import Fault, Inbox, RecordingGate, SourceContract
from kit.graph_answers import PAGE, PAGE_ID, error, listed, message, thread
from kit.graph_client import access_of
from kit.loopback import Answering, nowhere, sending, serving
from milepost.core.model import Platform, Stream
from milepost.facebook.client import GraphClient
from milepost.facebook.inbox import FacebookInbox

NEWEST_AT = datetime(2026, 6, 26, 1, 13, 24, tzinfo=UTC)
IDS = (*(f"t_{number}" for number in range(10)), "aWdfZG1f/dGhyZWFkOj+E6SUdNZXNzYWdl==")
THREAD_EDGE = re.compile(r",?messages\.limit\((\d+)\)\{[^}]*\}")


def graph(calls: list[str], *, with_gaps: bool = False) -> Answering:
    """Respond as the conversations edge and threads do. A cursor is the position after it; a gap's ends with a dot."""

    async def respond(request: web.Request) -> web.Response:
        calls.append(str(request.rel_url))
        _, _, owner, *edge = (unquote(segment) for segment in request.rel_url.raw_path.split("/"))
        fields = request.query["fields"]
        if edge != ["conversations"]:
            if owner not in IDS:
                return web.json_response(error(100, error_subcode=33), status=400)
            return web.json_response(thread_node(IDS.index(owner), fields))
        after, limit = request.query.get("after", "0"), int(request.query["limit"])
        if not after.rstrip(".").isdecimal():
            return web.json_response(error(2642, "(#2642) Invalid cursors values"), status=400)
        start = int(after.rstrip("."))
        if with_gaps and start and not after.endswith("."):
            return web.json_response(listed(after=f"{start}.", next_url=f"{request.url}&after={start}."))
        end = min(start + limit, len(IDS))
        threads = [thread_node(number, fields) for number in range(start, end)]
        next_url = str(request.url) if end < len(IDS) else None
        return web.json_response(listed(*threads, after=str(end), next_url=next_url))

    return respond


def thread_node(number: int, fields: str) -> dict[str, object]:
    """Return the requested fields of a thread, which has three messages, one of them ours."""
    updated_time = (NEWEST_AT - timedelta(hours=number)).strftime("%Y-%m-%dT%H:%M:%S+0000")
    edge = THREAD_EDGE.search(fields)
    messages = [message(f"m_{number}_{place}", PAGE if place == 1 else None) for place in range(3)]
    whole = thread(IDS[number], *messages[: int(edge[1]) if edge else 0], updated_time=updated_time)
    names = {*THREAD_EDGE.sub("", fields).split(","), "messages"}
    return {name: value for name, value in whole.items() if name in names}


def clock() -> datetime:
    return NEWEST_AT


async def truncated_json(request: web.Request) -> web.Response:
    return web.Response(body=b'{"data":[{"id":"t_1","upda')


async def html_502(request: web.Request) -> web.Response:
    return web.Response(status=502, text="<html><h1>Sorry, something went wrong.</h1>", content_type="text/html")


async def elsewhere(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": "https://example.org/login?next=x"})


async def huge(request: web.Request) -> web.Response:
    return web.Response(body=b" " * 2**20)


async def unknown_error(request: web.Request) -> web.Response:
    return web.json_response(error(1), status=500)


CUT_SHORT = b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"data":['
ANSWERS = {
    Fault.TRUNCATED_JSON: truncated_json,
    Fault.HTML: html_502,
    Fault.REDIRECT: elsewhere,
    Fault.OVERSIZE: huge,
    Fault.ERROR: unknown_error,
}


class TestFacebookInbox(SourceContract):
    @pytest.fixture
    async def world(self) -> AsyncIterator[AsyncExitStack]:
        async with AsyncExitStack() as world:
            yield world

    @pytest.fixture
    async def inbox(self, world: AsyncExitStack, gate: RecordingGate) -> Inbox:
        calls: list[str] = []
        base_url = await world.enter_async_context(serving(graph(calls)))
        return Inbox(await opened(world, base_url, gate), IDS, calls)

    @pytest.fixture
    async def gapped_inbox(self, world: AsyncExitStack, gate: RecordingGate) -> Inbox:
        calls: list[str] = []
        base_url = await world.enter_async_context(serving(graph(calls, with_gaps=True)))
        return Inbox(await opened(world, base_url, gate), IDS, calls)

    @pytest.fixture
    async def faulty(self, world: AsyncExitStack, gate: RecordingGate, request: pytest.FixtureRequest) -> FacebookInbox:
        match request.param:
            case Fault.UNREACHABLE:
                return await opened(world, nowhere(), gate)
            case Fault.SILENT:
                silent = await world.enter_async_context(sending(hangs=True))
                return await opened(world, silent, gate, timeout_seconds=0.3)
            case Fault.RESET:
                server = sending(aborts=True)
            case Fault.CUT_SHORT:
                server = sending(CUT_SHORT)
            case fault:
                server = serving(ANSWERS[fault])
        return await opened(world, await world.enter_async_context(server), gate)


async def opened(
    world: AsyncExitStack, base_url: str, gate: RecordingGate, timeout_seconds: float = 20.0
) -> FacebookInbox:
    client = GraphClient(base_url, "v26.0", clock=clock, request_timeout_seconds=timeout_seconds, max_body_bytes=2**19)
    await world.enter_async_context(client)
    return FacebookInbox(client, Stream(Platform.MESSENGER, PAGE_ID), access_of(), gate)
