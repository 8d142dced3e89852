"""A private certificate authority, HTTPS servers that it vouches for, and a proxy in between."""

import asyncio
import base64
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from kit.loopback import Answering


def certified(folder: Path, host: str = "localhost") -> tuple[ssl.SSLContext, Path]:
    """Create an authority's certificate for a host; return a server's context, and the file to be trusted.

    It takes the program `openssl`.
    """
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}"]
    kind = "IP" if host[0].isdigit() else "DNS"
    named = ["-addext", f"subjectAltName={kind}:{host}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make, *named], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context, certificate


@asynccontextmanager
async def serving_tls(answer: Answering, context: ssl.SSLContext, host: str = "localhost") -> AsyncIterator[str]:
    """Serve every path over TLS with one function; yields the base URL."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(application, scheme="https", host=host)
    await server.start_server(ssl=context)
    try:
        yield str(server.make_url("/")).rstrip("/")
    finally:
        await server.close()


class ConnectProxy:
    """An HTTP proxy. It connects whatever it is asked for to one port of this machine."""

    def __init__(self, leads_to: int, *, credentials: str = "", status: bytes = b"200 OK") -> None:
        self.asked: list[str] = []
        self.port = 0
        self._leads_to = leads_to
        self._authorization = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None
        self._status = status
        self._talks: list[asyncio.Task[None]] = []
        self._lines: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["ConnectProxy"]:
        """Serve during the block."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            try:
                yield self
            finally:
                for line in self._lines:
                    line.transport.abort()
                await asyncio.gather(*self._talks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._talks.append(asyncio.ensure_future(self._talk(reader, writer)))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._lines.append(writer)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.asked.append(head[0])
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        is_known = self._authorization in (None, headers.get("proxy-authorization"))
        status = self._status if is_known else b"407 Proxy Authentication Required"
        writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
        if status.startswith(b"200"):
            answers, there = await asyncio.open_connection("127.0.0.1", self._leads_to)
            self._lines.append(there)
            await asyncio.gather(_pass_on(reader, there), _pass_on(answers, writer))
        await _close(writer)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
