"""The HTTP listener: its address, its connections, the headers of every response, and errors as problem+json.

Other modules declare the routes. A route refuses by raising one of aiohttp's HTTP errors with a `text` that says why.
"""

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from milepost.core.errors import BadConfiguration, MilepostError, may_pass
from milepost.engine.interrupt import bulkhead
from milepost.service.auth import (
    Sessions,
    answer_preflights,
    is_admitted,
    refuse_foreign_pages,
    require_local_name,
    require_token,
    show_to,
)
from milepost.service.limits import WrongTokens, limit_requests
from milepost.settings.types import authority

MAX_BODY_BYTES = 64 * 1024
MAX_IDLE_SECONDS = 75.0  # longer than the usual time between two scrapes
GRACE_SECONDS = 1.0  # for requests that are open when the listener closes
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
HINTS = {
    errno.EADDRINUSE: "another program, perhaps another Milepost, is listening there: set {key} to a free port",
    errno.EMFILE: "let this process open more files: LimitNOFILE in its unit, or ulimit -n",
    errno.EACCES: "set {key} to a port above 1023, or grant CAP_NET_BIND_SERVICE",
}
PASSING_HINT = "it may pass: a systemd unit tries again"
OTHER_HINT = "set {key} to an address of this machine, such as 127.0.0.1:9464 or [::1]:9464"


class Allowed(msgspec.Struct, frozen=True):
    """The allowed host names, and the allowed origins, whose pages may read the events and the API."""

    hosts: Collection[str] = ()
    origins: Collection[str] = ()


NOBODY_ELSE = Allowed()


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    routes: Iterable[web.AbstractRouteDef],
    *,
    token: str = "",
    wrong_tokens: WrongTokens | None = None,
    allowed: Allowed = NOBODY_ELSE,
) -> AsyncIterator[str]:
    """Serve the routes during the block, and yield the URL of the listener.

    Args:
        host: a name or an address; an IPv6 address without brackets.
        port: 0 takes a free one.
        routes: what to serve.
        token: what clients must send as `Authorization: Bearer …`, or have sent to /login, for everything but
            /healthz; with an empty one they must address the loopback or `host` by name instead.
        wrong_tokens: limits, counts and logs the wrong ones.
        allowed: further names by which clients may address it without a token, and whose pages may read from it.

    Raises:
        BadConfiguration: the address cannot be listened on.
        MilepostError: the same, for a reason that may pass.
    """
    wrong_tokens = wrong_tokens or WrongTokens()
    admission = require_local_name(host, allowed.hosts)
    if token:
        admission = require_token(Sessions(token), wrong_tokens, lambda: datetime.now(UTC))
    strangers = Strangers()
    application = _application(admission, strangers, allowed.origins)
    application.add_routes(routes)
    # aiohttp waits twice: for the response, then for the handler.
    runner = runner_of(application, shutdown_timeout=GRACE_SECONDS / 2)
    async with listening(runner, (host, port), strangers, key="http.listen") as url, wrong_tokens.logging():
        yield url


def _application(admission: Middleware, strangers: "Strangers", allowed_origins: Collection[str]) -> web.Application:
    hear, admit = strangers.middlewares(is_admitted)
    application = web.Application(
        middlewares=[  # from the outside in
            hear,
            _errors_as_problems,
            answer_preflights(allowed_origins),
            admission,
            admit,
            limit_requests(is_admitted),
            refuse_foreign_pages,
        ],
        client_max_size=MAX_BODY_BYTES,
    )
    application.on_response_prepare.extend((add_headers, show_to(allowed_origins)))
    return application


def runner_of(application: web.Application, **options: Any) -> web.AppRunner:  # noqa: ANN401  (they are aiohttp's)
    """Return a runner that logs neither requests nor malformed ones, because anybody can send those."""
    logger = logging.Logger("aiohttp.server")  # noqa: LOG001  (the process's own would keep the filter for good)
    logger.parent = logging.getLogger(logger.name)
    broken = (HttpProcessingError, web.RequestPayloadError, ConnectionResetError)  # the last: the client has gone
    logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], broken)))
    return web.AppRunner(application, access_log=None, logger=logger, keepalive_timeout=MAX_IDLE_SECONDS, **options)


@asynccontextmanager
async def listening(
    runner: web.AppRunner, address: tuple[str, int], strangers: "Strangers", *, key: str
) -> AsyncIterator[str]:
    """Listen on an address during the block, and yield the URL. `key` is where config.yaml has the address.

    Raises BadConfiguration if that is impossible; MilepostError if that may pass.
    """
    await runner.setup()
    try:
        await _listen(runner, address, strangers, key)
        host, port, *_ = runner.addresses[0]
        yield f"http://{authority(host, port)}"
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, address: tuple[str, int], strangers: "Strangers", key: str) -> None:
    try:
        await LimitedSite(runner, address, strangers).start()
    except (OSError, UnicodeError) as error:  # UnicodeError: the host cannot be a DNS name
        reason, hint = "the host has no address", OTHER_HINT
        kind: type[MilepostError] = BadConfiguration
        if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno is not None:
            reason, hint = os.strerror(error.errno).lower(), HINTS.get(error.errno, OTHER_HINT)
            if may_pass(error):
                kind, hint = MilepostError, HINTS.get(error.errno, PASSING_HINT)
        raise kind(f"cannot listen on {authority(*address)}: {reason}", hint=hint.format(key=key)) from error


# --- around every request, from the outside in ------------------------------------------------------------------------


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add the headers that every response has."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "milepost"  # aiohttp's own names versions


@web.middleware
async def _errors_as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as problem+json (RFC 9457). A bug is logged, and answered without details."""

    async def respond() -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPError as error:
            return _problem(error)
        except (web.RequestPayloadError, ConnectionResetError):  # raised where the body is read
            return _problem(web.HTTPBadRequest(text="the body is incomplete, or not encoded as its header says"))

    response = await bulkhead(f"http {request.method} {request.path}", respond())
    return _problem(web.HTTPInternalServerError()) if isinstance(response, Exception) else response


def headers_of(error: web.HTTPException) -> dict[str, str]:
    """Return the headers of an error, without those that describe its body."""
    return {name: value for name, value in error.headers.items() if not name.startswith("Content-")}


def _problem(error: web.HTTPError) -> web.Response:
    kind = getattr(error, "problem_type", "about:blank")
    problem: dict[str, str | int] = {"type": kind, "title": error.reason, "status": error.status}
    if error.text is not None and error.text != f"{error.status}: {error.reason}":  # that is aiohttp's own
        problem["detail"] = error.text
    return web.Response(
        status=error.status,
        headers=headers_of(error),
        body=msgspec.json.encode(problem),
        content_type="application/problem+json",
    )


# --- connections ------------------------------------------------------------------------------------------------------

# Anybody who reaches the port can open connections and leave them silent. So the number of connections is limited, and
# strangers must not displace admitted clients: a connection is a stranger's until a request on it was admitted. When
# all places are taken, the stranger that has waited longest is disconnected; and a connection without a request after
# some seconds is closed anyway. Admitted connections are never closed to make room.
MAX_CONNECTIONS = 800  # the default limit of open files is 1,024, and the sync needs some
FIRST_REQUEST_SECONDS = 10.0
LOG_SECONDS = 60.0  # between two log lines about disconnected strangers

_TOO_MANY_CONNECTIONS = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 22\r\n\r\ntoo many connections\r\n"
)


class Strangers:
    """The connections without an admitted request yet, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        self._log_at = time.monotonic()
        self._made_room = 0

    def add(self, connection: web.RequestHandler) -> None:
        """Add a new connection, which has FIRST_REQUEST_SECONDS to send a request; forget those that have left."""
        # One that has sent a request has no timer any more. Before that, it may not be connected yet.
        for left in [each for each, timer in self._waiting.items() if timer.cancelled() and each.transport is None]:
            del self._waiting[left]
        expiring = asyncio.get_running_loop().call_later(FIRST_REQUEST_SECONDS, self._cut_off, connection)
        self._waiting[connection] = expiring

    def make_room(self) -> bool:
        """Disconnect the oldest stranger; return whether there was one."""
        while self._waiting:
            if self._cut_off(next(iter(self._waiting))):
                self._log()
                return True
        return False

    def admit(self, connection: web.RequestHandler) -> None:
        """Remove a connection from the strangers: a request on it was admitted."""
        self._waiting.pop(connection, None)

    def middlewares(self, is_admitted: Callable[[web.Request], bool]) -> tuple[Middleware, Middleware]:
        """Return the middleware for every request, and the one for the requests that access control let through."""

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
        """Disconnect a stranger; return whether it was still connected."""
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
    """A listener that holds no more than MAX_CONNECTIONS at a time."""

    def __init__(self, runner: web.BaseRunner, address: tuple[str, int], strangers: Strangers) -> None:
        super().__init__(runner)
        self._host, self._port = address
        self._strangers = strangers

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
        if len(server.connections) >= MAX_CONNECTIONS and not self._strangers.make_room():
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
