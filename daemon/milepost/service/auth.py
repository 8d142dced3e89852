"""Access control: the token, sessions, the Host header, and the origin of a browser's page.

A browser sends requests on behalf of any page that it shows. But such a page cannot send a Host other than its own,
remove the headers that the browser adds, or send JSON to a host that has not allowed it (Fetch Standard, "CORS
protocol"). A page whose name was pointed at this machine (DNS rebinding) is recognised by that name in the Host header.
"""

import hmac
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from msgspec import Meta, Struct

from milepost import __version__
from milepost.service.endpoint import COOKIE, AnyOperation, Call, Nothing, Operation
from milepost.service.limits import WrongTokens, client_of, too_many
from milepost.settings.types import is_loopback

MAX_SESSION_SECONDS = 12 * 60 * 60
MAX_SKEW_SECONDS = 60
COMMAND_LINE = f"milepost/{__version__}"  # the User-Agent of the commands
OPEN_PATHS = frozenset({"/healthz", "/login", "/runbooks"})
STATUS_PAGE = "/"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
IS_ADMITTED = web.RequestKey("is_admitted", bool)
_COOKIE_VALUE = re.compile(r"([0-9]{1,12})\.([0-9a-f]{64})")
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?")


class Sessions:
    """Sessions of the status page: after the token was sent once, a cookie admits the browser for half a day.

    Nothing is stored. The cookie holds its own expiry, signed with the token. So a session survives a restart of the
    daemon, and ends when the token changes. Whoever has the cookie is admitted, as with the token itself.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def is_token(self, given: str) -> bool:
        """Return whether this is the token, comparing in constant time."""
        # As bytes, because compare_digest refuses text beyond ASCII.
        return hmac.compare_digest(given.encode(errors="surrogateescape"), self._token)

    def open(self, now: datetime) -> str:
        """Return the value of a cookie that is valid from now on, for MAX_SESSION_SECONDS."""
        ends_at = str(int(now.timestamp()) + MAX_SESSION_SECONDS)
        return f"{ends_at}.{self._sign(ends_at)}"

    def is_open(self, cookie: str, now: datetime) -> bool:
        """Return whether the value of a cookie belongs to an open session.

        A session that ends too far in the future was opened while the clock was ahead. It does not count as open,
        because it would last longer than half a day.
        """
        if not self.is_signed(cookie):
            return False
        left_seconds = int(cookie.partition(".")[0]) - now.timestamp()
        return 0 < left_seconds <= MAX_SESSION_SECONDS + MAX_SKEW_SECONDS

    def is_signed(self, cookie: str) -> bool:
        """Return whether the value of a cookie was signed for a session, open or expired."""
        match = _COOKIE_VALUE.fullmatch(cookie)
        return match is not None and hmac.compare_digest(match[2], self._sign(match[1]))

    def _sign(self, ends_at: str) -> str:
        return hmac.new(self._token, f"session of the status page until {ends_at}".encode(), sha256).hexdigest()


# --- logging in and out -----------------------------------------------------------------------------------------------


class Credentials(Struct, frozen=True, forbid_unknown_fields=True):
    """The value of http.token."""

    token: Annotated[str, Meta(max_length=1000)]

    def __repr__(self) -> str:
        return "Credentials(…)"


def login(sessions: Sessions | None, wrong_tokens: WrongTokens, now: Callable[[], datetime]) -> Sequence[AnyOperation]:
    """Declare the operations that open and close a session. `sessions` is None if no token is required."""

    async def log_in(call: Call[Nothing, Credentials]) -> web.Response:
        if sessions is None:
            raise web.HTTPConflict(text="http.token is not set: there is nothing to log in to")
        if not sessions.is_token(call.body.token):
            if wait_seconds := wrong_tokens.count(client_of(call.request)):
                raise too_many("too many wrong tokens", wait_seconds)
            raise web.HTTPForbidden(text="wrong token: send the value of http.token")
        response = web.Response(status=204)
        response.set_cookie(
            COOKIE,
            sessions.open(now()),
            max_age=MAX_SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=_came_over_tls(call.request),
        )
        return response

    async def log_out(call: Call[Nothing, Nothing]) -> web.Response:
        response = web.Response(status=204)
        response.del_cookie(COOKIE, httponly=True, samesite="Strict", secure=_came_over_tls(call.request))
        return response

    return [
        Operation(
            "POST",
            "/login",
            "Open a session, kept in a cookie",
            parameters=Nothing,
            body=Credentials,
            response=None,
            handle=log_in,
            statuses=(204,),
            problems={403: "wrong token", 409: "no token is required"},
        ),
        Operation(
            "POST",
            "/logout",
            "Delete the session's cookie",
            parameters=Nothing,
            body=Nothing,
            response=None,
            handle=log_out,
            statuses=(204,),
        ),
    ]


def _came_over_tls(request: web.Request) -> bool:
    """Return whether the client spoke TLS to the first proxy. The daemon itself speaks plain HTTP.

    Anybody can send the header, but a false one only keeps the sender's own browser from sending the cookie in clear.
    """
    first, _, _ = request.headers.get("X-Forwarded-Proto", "").partition(",")
    return first.strip().lower() == "https"


# --- middlewares ------------------------------------------------------------------------------------------------------


def require_token(sessions: Sessions, wrong_tokens: WrongTokens, now: Callable[[], datetime]) -> Middleware:
    """Require the token or the cookie of a session. Both count in headers only: URLs end up in logs and histories.

    The status page is let through; it shows the login page to whoever has neither.
    """

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_in_session = sessions.is_open(request.cookies.get(COOKIE, ""), now())
        request[IS_ADMITTED] = _has_token(request, sessions) or is_in_session
        if request[IS_ADMITTED] or request.path in OPEN_PATHS:
            return await handler(request)
        wait_seconds = wrong_tokens.count(client_of(request)) if _is_guess(request, sessions) else 0.0
        if request.path == STATUS_PAGE and request.method in SAFE_METHODS:
            return await handler(request)
        if wait_seconds:
            raise too_many("too many wrong tokens", wait_seconds)
        raise web.HTTPUnauthorized(
            text="send the value of http.token in the header Authorization: Bearer …",
            headers={"WWW-Authenticate": 'Bearer realm="milepost"'},
        )

    return guard


def is_admitted(request: web.Request) -> bool:
    """Return whether a request may see more than the login page: it is authenticated, or no token is required."""
    is_known: bool = request.get(IS_ADMITTED, True)
    return is_known


def _has_token(request: web.Request, sessions: Sessions) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_right = sessions.is_token(given.strip())
    return scheme.lower() == "bearer" and is_right


def _is_guess(request: web.Request, sessions: Sessions) -> bool:
    """Return whether a request tries to guess the token, in a header or a cookie. An expired session is no guess."""
    cookie = request.cookies.get(COOKIE, "")
    return "Authorization" in request.headers or (cookie != "" and not sessions.is_signed(cookie))


def require_local_name(listening_host: str, allowed_hosts: Collection[str]) -> Middleware:
    """Require a Host header that names the loopback, the host that the daemon listens on, or an allowed host.

    The port may differ, as with a tunnel; an attacker's page cannot forge the name.
    """
    names = {name.lower() for name in (listening_host, *allowed_hosts)}

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = _host_of(request.headers.get("Host", ""))
        if request.path not in OPEN_PATHS and host not in names and not is_loopback(host):
            raise web.HTTPMisdirectedRequest(
                text="without http.token, only requests to localhost, 127.0.0.1, [::1] and the names in "
                "http.allowed_hosts are answered"
            )
        return await handler(request)

    return guard


@web.middleware
async def refuse_foreign_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse changes requested by another site's page, or by its forms, which cannot send JSON."""
    leads_nowhere = request.match_info.http_exception is not None
    if request.method in SAFE_METHODS or leads_nowhere:
        return await handler(request)
    origin = request.headers.get("Origin")
    own = request.headers.get("Host", "").lower()
    is_foreign = origin is not None and origin.partition("://")[2].lower() != own
    if is_foreign or request.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}:
        raise web.HTTPForbidden(text="a page of another site must not change anything here")
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send the header Content-Type: application/json")
    return await handler(request)


def _host_of(authority: str) -> str:
    """Return the host of a Host header, or "" if the header is invalid."""
    match = _AUTHORITY.fullmatch(authority.lower())
    return "" if match is None else match[1] or match[2]


# --- actors -----------------------------------------------------------------------------------------------------------


def actor_of(request: web.Request) -> str:
    """Return who requested an action, with what client and from where, for the journal. It is not verified."""
    return f"{_means(request)} from {request.remote or 'nowhere'}"


def _means(request: web.Request) -> str:
    if request.headers.get("Sec-Fetch-Site") == "same-origin" or COOKIE in request.cookies:
        return "status page"
    return "command line" if request.headers.get("User-Agent", "").startswith("milepost/") else "API"


# --- pages of other origins -------------------------------------------------------------------------------------------

READABLE = "/api/"
METHODS = frozenset({"GET", "HEAD"})
# Only clients that set Last-Event-ID themselves have to ask for it; an EventSource may always send it.
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Authorization, If-None-Match, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}
SHOWN_HEADERS = "ETag, Retry-After"  # of a response, besides those that every page may read

OnPrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def answer_preflights(allowed_origins: Collection[str]) -> Middleware:
    """Answer CORS preflight requests, which a browser sends without the token before a request that has it.

    So pages of the allowed origins can read events and the API (Fetch, "CORS protocol"). They can only read: changes
    requested by another site's page are always refused. The browser's session does not admit such a page either; if a
    token is required, the page has to send it.
    """

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method == "OPTIONS" and asked in METHODS and _is_allowed(request, allowed_origins):
            return web.Response(status=204, headers=PREFLIGHT)
        return await handler(request)

    return answer


def show_to(allowed_origins: Collection[str]) -> OnPrepare:
    """Return a hook that adds the CORS headers, without which a browser hides responses and errors from a page."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        if not allowed_origins or not request.path.startswith(READABLE):
            return
        response.headers["Vary"] = ", ".join(filter(None, (response.headers.get("Vary"), "Origin")))
        if _is_allowed(request, allowed_origins):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = SHOWN_HEADERS

    return add


def _is_allowed(request: web.Request, allowed_origins: Collection[str]) -> bool:
    return request.path.startswith(READABLE) and request.headers.get("Origin") in allowed_origins
