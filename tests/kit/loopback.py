"""Servers on the loopback interface that respond properly, badly or not at all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from enum import Enum

from aiohttp import web
from aiohttp.test_utils import TestServer

from kit.ports import unused_port

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answering) -> AsyncIterator[str]:
    """Serve every path with one function; yields the base URL."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application, host="127.0.0.1") as server:
        yield str(server.make_url("/")).rstrip("/")


class Ending(Enum):
    """What happens to the connection after the last piece."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


# From the head of a request: the pieces of the response, and how the connection ends.
Script = Callable[[bytes], tuple[Iterable[bytes], Ending]]


@asynccontextmanager
async def following(script: Script) -> AsyncIterator[str]:
    """Answer each connection once, with the bytes of the script; yields the base URL."""
    released = asyncio.Event()
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            pieces, ending = script(await reader.readuntil(b"\r\n\r\n"))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if ending is Ending.HANG:
                await released.wait()
            if ending is Ending.RESET:
                writer.transport.abort()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.ensure_future(talk(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:  # otherwise the server waits for its connections forever (from Python 3.12 on)
            released.set()
            await asyncio.gather(*talks)


def sending(*pieces: bytes, aborts: bool = False, hangs: bool = False) -> AbstractAsyncContextManager[str]:
    """Send exactly these bytes to every client; then close the connection, reset it, or leave it open and silent."""
    ending = Ending.HANG if hangs else Ending.RESET if aborts else Ending.CLOSE
    return following(lambda _: (pieces, ending))


def nowhere() -> str:
    """Return a base URL where nothing listens."""
    return f"http://127.0.0.1:{unused_port()}"
