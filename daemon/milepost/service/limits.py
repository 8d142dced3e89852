"""How much is taken on at a time: so many connections, and so many requests a second. The rest is told to come back.

The numbers are far above what a status page on each of 200 desks asks for, and far below what hurts the sync.
"""

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from milepost.service.allowance import Allowance, client_of, too_many
from milepost.service.auth import is_admitted

MAX_CONNECTIONS = 800  # a process may hold 1,024 files open where nobody has raised that, and the sync needs some
MAX_REQUESTS, IN_SECONDS = 2_000, 10.0
NEVER_REFUSED = frozenset({"/healthz"})

_CROWDED = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 22\r\n\r\ntoo many connections\r\n"
)


def paced() -> Middleware:
    """Limit the rate of requests: of all who are admitted together, and of each other client for itself.

    So clients without a token take nothing from those who have it, nor from others who want to log in.
    """
    known, unknown = Allowance(MAX_REQUESTS, IN_SECONDS), Allowance(MAX_REQUESTS, IN_SECONDS)

    @web.middleware
    async def pace(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in NEVER_REFUSED:
            wait_seconds = known.take("") if is_admitted(request) else unknown.take(client_of(request))
            if wait_seconds:  # nobody is kept waiting for room
                raise too_many("too many requests", wait_seconds)
        return await handler(request)

    return pace


class BoundedSite(web.BaseSite):
    """Listens on an address, and holds no more than `max_connections` at a time."""

    def __init__(self, runner: web.BaseRunner, host: str, port: int, *, max_connections: int) -> None:
        super().__init__(runner)
        self._host = host
        self._port = port
        self._max_connections = max_connections

    @property
    def name(self) -> str:
        """The address, for people."""
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises OSError where that cannot be, or UnicodeError for a host that is no name."""
        await super().start()
        self._server = await asyncio.get_running_loop().create_server(self._protocol, self._host, self._port)

    def _protocol(self) -> asyncio.Protocol:
        serving = self._runner.server
        if serving is None or len(serving.connections) >= self._max_connections:
            return _Crowded()
        return serving()


class _Crowded(asyncio.Protocol):
    """Turns a connection away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(_CROWDED)
            transport.close()
