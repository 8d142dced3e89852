"""Who may ask, and for what: the token, the name that the listener was called by, and whose page sent the request.

A browser sends requests in the name of any page that it shows. What such a page cannot do is name another host than
its own, take the marks off that the browser puts on its requests, or send JSON to a host that has not agreed to it
(Fetch Standard, "CORS protocol"). A page whose own name was pointed at this machine (DNS rebinding) gives itself away
by that name.
"""

import re
from collections.abc import Callable
from datetime import datetime

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from milepost.service.allowance import client_of, too_many
from milepost.service.sessions import COOKIE, Sessions
from milepost.service.wrong_tokens import WrongTokens
from milepost.settings.types import is_loopback

OPEN_TO_ALL = frozenset({"/healthz", "/login"})
ASKS_FOR_LOGIN = "/"
CHANGES_NOTHING = frozenset({"GET", "HEAD", "OPTIONS"})
IS_ADMITTED = web.RequestKey("is_admitted", bool)
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?")


def with_token(sessions: Sessions, wrong_tokens: WrongTokens, now: Callable[[], datetime]) -> Middleware:
    """Ask for the token, or for the cookie of a session. Only headers count: URLs end up in logs and histories.

    The status page is let through to where it says who may see it: without either, the login page is shown there.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[IS_ADMITTED] = _brings_token(request, sessions) or _is_in_session(request, sessions, now())
        if request[IS_ADMITTED] or request.path in OPEN_TO_ALL:
            return await handler(request)
        wait_seconds = wrong_tokens.count(client_of(request)) if _brings_wrong_one(request, sessions) else 0.0
        if request.path == ASKS_FOR_LOGIN and request.method in CHANGES_NOTHING:
            return await handler(request)
        if wait_seconds:
            raise too_many("too many wrong tokens", wait_seconds)
        raise web.HTTPUnauthorized(
            text="send the value of http.token in a header: Authorization: Bearer …",
            headers={"WWW-Authenticate": 'Bearer realm="milepost"'},
        )

    return guard


def is_admitted(request: web.Request) -> bool:
    """Whether a request may see more than the login page: who asks is known, or nobody need be."""
    is_known: bool = request.get(IS_ADMITTED, True)
    return is_known


def _brings_token(request: web.Request, sessions: Sessions) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_right = sessions.is_token(given.strip())
    return scheme.lower() == "bearer" and is_right


def _brings_wrong_one(request: web.Request, sessions: Sessions) -> bool:
    """Whether the request carries a guess, in a header or as a forged cookie. A session that has ended is none."""
    cookie = request.cookies.get(COOKIE, "")
    return "Authorization" in request.headers or (cookie != "" and not sessions.has_sealed(cookie))


def _is_in_session(request: web.Request, sessions: Sessions, now: datetime) -> bool:
    return sessions.knows(request.cookies.get(COOKIE, ""), now)


def called_by_name(listens_on: str) -> Middleware:
    """Ask to be called by a name of this machine's loopback, or by the host that is listened on; whatever the port.

    The port may be another one where a tunnel leads here; a name is what an attacker's page cannot forge.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = _host_of(request.headers.get("Host", ""))
        if request.path not in OPEN_TO_ALL and host != listens_on.lower() and not is_loopback(host):
            raise web.HTTPMisdirectedRequest(
                text="without http.token only this machine is answered: call it localhost, 127.0.0.1 or [::1]"
            )
        return await handler(request)

    return guard


@web.middleware
async def from_own_page(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let nothing be changed in the name of another site's page, nor by its forms, which cannot send JSON."""
    leads_nowhere = request.match_info.http_exception is not None
    if request.method in CHANGES_NOTHING or leads_nowhere:
        return await handler(request)
    origin = request.headers.get("Origin")
    own = request.headers.get("Host", "").lower()
    is_foreign = origin is not None and origin.partition("://")[2].lower() != own
    if is_foreign or request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
        raise web.HTTPForbidden(text="a page of another site may change nothing here")
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send it with the header Content-Type: application/json")
    return await handler(request)


def _host_of(authority: str) -> str:
    """Take the host out of a Host header; nothing where it is not one."""
    match = _AUTHORITY.fullmatch(authority.lower())
    return "" if match is None else match[1] or match[2]
