"""The Facebook source keeps the contract of every Source, against a small list edge on the loopback interface."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from contracts.source_contract import Fault, Inbox, SourceContract
from kit.graph_answers import PAGE_ID, TOKEN, error, listed, message, thread
from kit.loopback import Answering, nowhere, sending, serving
from milepost.core.model import Platform, Stream
from milepost.sources.facebook.client import GraphClient
from milepost.sources.facebook.inbox import FacebookInbox

NEWEST_AT = datetime(2026, 6, 26, 1, 13, 24, tzinfo=UTC)
IDS = tuple(f"t_{number}" for number in range(11))


def list_edge(*, with_gaps: bool = False) -> Answering:
    """Answer as the conversations edge does. A cursor is the position after it; a gap's ends with a dot."""

    async def answer(request: web.Request) -> web.Response:
        after, limit = request.query.get("after", "0"), int(request.query["limit"])
        if not after.rstrip(".").isdecimal():
            return web.json_response(error(2642, "(#2642) Invalid cursors values"), status=400)
        start = int(after.rstrip("."))
        if with_gaps and start and not after.endswith("."):
            return web.json_response(listed(after=f"{start}.", next_url=f"{request.url}&after={start}."))
        end = min(start + limit, len(IDS))
        wants_messages = "messages.limit" in request.query["fields"]
        threads = [told(number, messages=wants_messages) for number in range(start, end)]
        next_url = str(request.url) if end < len(IDS) else None
        return web.json_response(listed(*threads, after=str(end), next_url=next_url))

    return answer


def told(number: int, *, messages: bool) -> dict[str, object]:
    updated_time = (NEWEST_AT - timedelta(hours=number)).strftime("%Y-%m-%dT%H:%M:%S+0000")
    return thread(IDS[number], *([message(f"m_{number}")] if messages else []), updated_time=updated_time)


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
    async def inbox(self, world: AsyncExitStack) -> Inbox:
        base_url = await world.enter_async_context(serving(list_edge()))
        return Inbox(await opened(world, base_url), IDS)

    @pytest.fixture
    async def gapped_inbox(self, world: AsyncExitStack) -> Inbox:
        base_url = await world.enter_async_context(serving(list_edge(with_gaps=True)))
        return Inbox(await opened(world, base_url), IDS)

    @pytest.fixture
    async def faulty(self, world: AsyncExitStack, request: pytest.FixtureRequest) -> FacebookInbox:
        match request.param:
            case Fault.UNREACHABLE:
                return await opened(world, nowhere())
            case Fault.SILENT:
                return await opened(world, await world.enter_async_context(sending(hangs=True)), timeout_seconds=0.3)
            case Fault.RESET:
                server = sending(aborts=True)
            case Fault.CUT_SHORT:
                server = sending(CUT_SHORT)
            case fault:
                server = serving(ANSWERS[fault])
        return await opened(world, await world.enter_async_context(server))


async def opened(world: AsyncExitStack, base_url: str, timeout_seconds: float = 20.0) -> FacebookInbox:
    client = GraphClient(base_url, "v26.0", clock=clock, request_timeout_seconds=timeout_seconds, max_body_bytes=2**19)
    await world.enter_async_context(client)
    return FacebookInbox(client, Stream(Platform.MESSENGER, PAGE_ID), TOKEN, limiter=None)
