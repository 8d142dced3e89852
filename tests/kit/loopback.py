"""Servers on the loopback interface that answer well, badly or not at all."""

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
    """Serve every path with one function; gives the base URL."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application, host="127.0.0.1") as server:
        yield str(server.make_url("/")).rstrip("/")


class Ending(Enum):
    """What becomes of the connection when all was said."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


# What is said to a request, given its head, piece by piece, and how it ends.
Script = Callable[[bytes], tuple[Iterable[bytes], Ending]]


@asynccontextmanager
async def following(script: Script) -> AsyncIterator[str]:
    """Answer each connection once, in whatever bytes the script says; gives the base URL."""
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
        finally:  # or the server waits for its connections for ever (from Python 3.12 on)
            released.set()
            await asyncio.gather(*talks)


def sending(*pieces: bytes, aborts: bool = False, hangs: bool = False) -> AbstractAsyncContextManager[str]:
    """Send these very bytes to whoever asks; then close the connection, reset it, or leave it open and silent."""
    ending = Ending.HANG if hangs else Ending.RESET if aborts else Ending.CLOSE
    return following(lambda _: (pieces, ending))


def nowhere() -> str:
    """Give a base URL where nothing listens."""
    return f"http://127.0.0.1:{unused_port()}"
