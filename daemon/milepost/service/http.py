"""The HTTP listener: where it listens, who may ask, what every answer carries, and how errors are told.

What there is to ask comes as routes from elsewhere. A route says no by raising one of aiohttp's HTTP errors with a
`text` that tells the user why.
"""

import errno
import hmac
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from milepost.core.errors import BadConfiguration
from milepost.engine.bulkhead import bulkhead

MAX_BODY_BYTES = 64 * 1024
MAX_IDLE_SECONDS = 75.0  # longer than the pause between two scrapes
GRACE_SECONDS = 1.0  # for requests that are open when the listener closes
OPEN_TO_ALL = frozenset({"/healthz"})
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
HINTS = {
    errno.EADDRINUSE: "another program, perhaps another Milepost, listens there: set http.listen to a free port",
    errno.EACCES: "set http.listen to a port above 1023, or grant CAP_NET_BIND_SERVICE",
}
OTHER_HINT = "set http.listen to an address of this machine, such as 127.0.0.1:9464 or [::1]:9464"


@asynccontextmanager
async def serve(host: str, port: int, routes: Iterable[web.AbstractRouteDef], *, token: str = "") -> AsyncIterator[str]:
    """Serve the routes during the block, and give the URL of the listener.

    Args:
        host: a name or an address, an IPv6 one without brackets.
        port: 0 takes a free one.
        routes: what there is to ask.
        token: what callers must bring as `Authorization: Bearer …`, for everything but /healthz; empty asks for none.

    Raises:
        BadConfiguration: the address cannot be listened on.
    """
    application = web.Application(middlewares=[_told_as_problems, _guarded_by(token)], client_max_size=MAX_BODY_BYTES)
    application.add_routes(routes)
    application.on_response_prepare.append(_add_headers)
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=_deaf_to_nonsense(),
        keepalive_timeout=MAX_IDLE_SECONDS,
        shutdown_timeout=GRACE_SECONDS / 2,  # which aiohttp waits twice: for an answer, then for a handler to end
    )
    await runner.setup()
    try:
        await _listen(runner, host, port)
        yield _url(runner)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except (OSError, UnicodeError) as error:  # UnicodeError: a host that cannot be written in the DNS
        why, hint = "the host has no address", OTHER_HINT
        if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno is not None:
            why, hint = os.strerror(error.errno).lower(), HINTS.get(error.errno, OTHER_HINT)
        raise BadConfiguration(f"cannot listen on {_authority(host, port)}: {why}", hint=hint) from error


def _deaf_to_nonsense() -> logging.Logger:
    """Give a logger for aiohttp that drops its traceback for each request that is not HTTP: anybody can send those."""
    logger = logging.Logger("aiohttp.server")  # noqa: LOG001  (the process's own would keep the filter for good)
    logger.parent = logging.getLogger(logger.name)
    logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    return logger


def _url(runner: web.AppRunner) -> str:
    host, port, *_ = runner.addresses[0]
    return f"http://{_authority(host, port)}"


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- around every request, from the outside in ------------------------------------------------------------------------


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "milepost"  # aiohttp's own tells versions


@web.middleware
async def _told_as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as problem+json (RFC 9457). One that is a bug is logged, and told without its particulars."""

    async def answer() -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPError as error:
            return _problem(error)

    answered = await bulkhead(f"http {request.method} {request.path}", answer())
    return _problem(web.HTTPInternalServerError()) if isinstance(answered, Exception) else answered


def _guarded_by(token: str) -> Middleware:
    """Ask for the token. Only the header counts: URLs end up in logs and histories."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token and request.path not in OPEN_TO_ALL:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            # In bytes, as compare_digest refuses text beyond ASCII; the same time for any wrong token.
            is_right = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token.encode())
            if scheme.lower() != "bearer" or not is_right:
                raise web.HTTPUnauthorized(
                    text="send the value of http.token in a header: Authorization: Bearer …",
                    headers={"WWW-Authenticate": 'Bearer realm="milepost"'},
                )
        return await handler(request)

    return guard


def _problem(error: web.HTTPError) -> web.Response:
    problem: dict[str, str | int] = {"type": "about:blank", "title": error.reason, "status": error.status}
    if error.text is not None and error.text != f"{error.status}: {error.reason}":  # that is aiohttp's own
        problem["detail"] = error.text
    headers = {name: value for name, value in error.headers.items() if not name.startswith("Content-")}
    return web.Response(
        status=error.status,
        headers=headers,
        body=msgspec.json.encode(problem),
        content_type="application/problem+json",
    )
