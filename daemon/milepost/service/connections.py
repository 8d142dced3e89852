"""The connections to the listener: a limited number, in which strangers never take the place of those who may ask.

Anybody who reaches the port can open connections and leave them silent. So a connection counts as a stranger's until a
request on it was admitted. Where all places are taken, the oldest stranger makes room; and whoever has not sent a
request after some seconds is cut off anyway. Those who are admitted are never cut off for others.
"""

import asyncio
import time
from collections.abc import Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

MAX_CONNECTIONS = 800  # the default limit of open files is 1,024, and the sync needs some
FIRST_REQUEST_SECONDS = 10.0
LOG_SECONDS = 60.0  # between two lines about strangers who made room

_TOO_MANY_CONNECTIONS = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 22\r\n\r\ntoo many connections\r\n"
)


class Strangers:
    """The connections of whom nothing is known yet, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        self._log_at = time.monotonic()
        self._made_room = 0

    def add(self, connection: web.RequestHandler) -> None:
        """Add a new connection, which has FIRST_REQUEST_SECONDS to send a request."""
        expiring = asyncio.get_running_loop().call_later(FIRST_REQUEST_SECONDS, self._cut_off, connection)
        self._waiting[connection] = expiring

    def make_room(self) -> bool:
        """Cut off the oldest; return whether there was one."""
        while self._waiting:
            if self._cut_off(next(iter(self._waiting))):
                self._log()
                return True
        return False

    def admit(self, connection: web.RequestHandler) -> None:
        """Take a connection for one of those who may ask."""
        self._waiting.pop(connection, None)

    def middlewares(self, is_admitted: Callable[[web.Request], bool]) -> tuple[Middleware, Middleware]:
        """Return what has to be around every request, and around those that were let through."""

        @web.middleware
        async def hear(request: web.Request, handler: Handler) -> web.StreamResponse:
            expiring = self._waiting.get(request.protocol)
            if expiring is not None:
                expiring.cancel()
            return await handler(request)

        @web.middleware
        async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
            if is_admitted(request):
                self.admit(request.protocol)
            return await handler(request)

        return hear, admit

    def _cut_off(self, connection: web.RequestHandler) -> bool:
        """Cut off a connection; return whether it was still there."""
        self._waiting.pop(connection).cancel()
        transport = connection.transport
        if transport is None or transport.is_closing():
            return False
        transport.abort()  # not `close`, which waits for a client that does not read
        return True

    def _log(self) -> None:
        self._made_room += 1
        if time.monotonic() >= self._log_at:
            structlog.get_logger("milepost").warning(
                "too many connections",
                closed=self._made_room,
                hint="connections that sent no token made room for others; see who opens them: docs/http-api.md",
            )
            self._made_room, self._log_at = 0, time.monotonic() + LOG_SECONDS


class LimitedSite(web.BaseSite):
    """A listener that holds no more than `max_connections` at a time."""

    def __init__(
        self, runner: web.BaseRunner, address: tuple[str, int], strangers: Strangers, *, max_connections: int
    ) -> None:
        super().__init__(runner)
        self._host, self._port = address
        self._strangers = strangers
        self._max_connections = max_connections

    @property
    def name(self) -> str:
        """The address, for people."""
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises OSError if that is impossible, UnicodeError for a host that is not a valid name."""
        await super().start()
        self._server = await asyncio.get_running_loop().create_server(self._protocol, self._host, self._port)

    def _protocol(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None:
            return _Refusal()
        if len(server.connections) >= self._max_connections and not self._strangers.make_room():
            return _Refusal()
        connection = server()
        self._strangers.add(connection)
        return connection


class _Refusal(asyncio.Protocol):
    """Refuses a connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(_TOO_MANY_CONNECTIONS)
            transport.close()
