"""Who may ask, and for what: the token, the name that the listener was called by, and whose page sent the request.

A browser sends requests in the name of any page that it shows. What such a page cannot do is name another host than
its own, take the marks off that the browser puts on its requests, or send JSON to a host that has not agreed to it
(Fetch Standard, "CORS protocol"). A page whose own name was pointed at this machine (DNS rebinding) gives itself away
by that name.
"""

import hmac
import re

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from milepost.settings.values import is_loopback

OPEN_TO_ALL = frozenset({"/healthz"})
CHANGES_NOTHING = frozenset({"GET", "HEAD", "OPTIONS"})
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?")


def with_token(token: str) -> Middleware:
    """Ask for the token. Only the header counts: URLs end up in logs and histories."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN_TO_ALL:
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
