"""A limited number of connections, in which strangers never take the place of those who may ask."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from milepost.service import http
from milepost.service.availability import probes
from milepost.service.http import serve
from service.listening import TOKEN, thing, well

GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
BEARER = f"Authorization: Bearer {TOKEN}\r\n".encode()
OK = "HTTP/1.1 200 OK"

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
def three_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 3)


async def take(request: web.Request) -> web.Response:
    await request.read()
    return web.Response()


@asynccontextmanager
async def listener(token: str = TOKEN) -> AsyncIterator[int]:
    routes = [web.get("/thing", thing), web.post("/login", take), *probes(well, lambda: None)]
    async with serve("127.0.0.1", 0, routes, token=token) as url:
        yield int(url.rpartition(":")[2])


async def opened(port: int, sending: bytes = b"") -> Line:
    """Open a connection, send something, and wait until the listener has accepted it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sending)
    await writer.drain()
    return reader, writer


async def asked(port: int, path: bytes, headers: bytes = BEARER) -> str:
    """Return the first line of the answer to a request on a connection of its own."""
    reader, writer = await opened(port, GET % (path, headers))
    line = await first_line(reader)
    await ended(writer)
    return line


async def is_cut_off(line: Line) -> bool:
    reader, writer = line
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True
    finally:
        await ended(writer)


SILENT = {
    "silent": b"",
    "slow with a request": b"GET /thing HTTP/1.1\r\nHost: local",
    "slow with a body": (
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n{"
    ),
}


@pytest.mark.parametrize("sending", SILENT.values(), ids=SILENT)
async def test_strangers_do_not_keep_out_those_who_may_ask(sending: bytes) -> None:
    async with listener() as port:
        strangers = [await opened(port, sending) for _ in range(5)]
        for path in (b"/healthz", b"/thing", b"/readyz"):
            assert await asked(port, path) == OK
        assert await is_cut_off(strangers[0])
        for _, writer in strangers:
            await ended(writer)


async def test_a_stranger_does_not_cut_off_those_who_may_ask() -> None:
    async with listener() as port:
        admitted = [await opened(port, GET % (b"/thing", BEARER)) for _ in range(3)]
        assert [await first_line(reader) for reader, _ in admitted] == [OK] * 3
        assert await asked(port, b"/healthz", b"") == "HTTP/1.1 503 Service Unavailable"
        for reader, writer in admitted:
            await reader.readuntil(b"there\n")
            writer.write(GET % (b"/thing", BEARER))
            assert await first_line(reader) == OK
            await ended(writer)


async def test_a_wrong_token_is_no_place_to_keep() -> None:
    async with listener() as port:
        guessing = [await opened(port, GET % (b"/thing", b"Authorization: Bearer x\r\n")) for _ in range(3)]
        assert [await first_line(reader) for reader, _ in guessing] == ["HTTP/1.1 401 Unauthorized"] * 3
        assert await asked(port, b"/thing") == OK
        for _, writer in guessing:
            await ended(writer)


async def test_strangers_who_made_room_are_logged_once_a_minute() -> None:
    with capture_logs() as logs:
        async with listener() as port:
            lines = [await opened(port) for _ in range(10)]
            assert await asked(port, b"/healthz") == OK
            for _, writer in lines:
                await ended(writer)
    assert [entry["event"] for entry in logs] == ["too many connections"]


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize("sending", [b"", b"GET /thing HT"])
async def test_whoever_sends_no_request_is_cut_off_after_a_while(
    monkeypatch: pytest.MonkeyPatch, sending: bytes, token: str
) -> None:
    monkeypatch.setattr(http, "FIRST_REQUEST_SECONDS", 0.05)
    async with listener(token) as port, asyncio.timeout(60):
        assert await is_cut_off(await opened(port, sending))


async def test_a_connection_that_has_sent_a_request_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_REQUEST_SECONDS", 2.0)
    async with listener("") as port:
        reader, writer = await opened(port, GET % (b"/thing", b""))
        await reader.readuntil(b"there\n")
        assert await is_cut_off(await opened(port))  # one that came later: the time is over
        writer.write(GET % (b"/thing", b""))
        assert await first_line(reader) == OK
        await ended(writer)


async def test_connections_are_limited_and_freed_again() -> None:
    async with listener("") as port:
        held = [await opened(port, GET % (b"/thing", b"")) for _ in range(3)]
        assert [await first_line(reader) for reader, _ in held] == [OK] * 3
        reader, writer = await opened(port, GET % (b"/thing", b""))
        text = (await reader.read()).decode()
        assert text.startswith("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n")
        assert text.endswith("\r\n\r\ntoo many connections\r\n")
        await ended(writer)
        await ended(held[0][1])
        async with asyncio.timeout(60):
            while True:  # the server has to hear of the end
                reader, writer = await opened(port, GET % (b"/thing", b""))
                line = await first_line(reader)
                await ended(writer)
                if line == OK:
                    break
        for _, writer in held[1:]:
            await ended(writer)


@pytest.mark.parametrize("path", [b"/healthz", b"/thing"])
async def test_strangers_that_have_left_are_forgotten(path: bytes) -> None:
    async with listener() as port:
        before = held_in_memory()
        for _ in range(50):
            await asked(port, path, headers=b"")
        assert held_in_memory() - before < 10


def held_in_memory() -> int:
    """Return how many connections are in memory, whether they have ended or not."""
    gc.collect()
    return sum(type(each) is web.RequestHandler for each in gc.get_objects())


async def first_line(reader: asyncio.StreamReader) -> str:
    return (await reader.readline()).decode().strip()


async def ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionResetError):
        await writer.wait_closed()
