"""Lets pages of other origins that the configuration names read events and API in a browser (Fetch, "CORS protocol").

Reading only: what a page of another site asks to change is refused in any case. A browser's session is no argument for
such a page either; where there is a token, it has to bring it.
"""

from collections.abc import Awaitable, Callable, Collection

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

READABLE = "/api/"
METHODS = frozenset({"GET", "HEAD"})
# Last-Event-ID is asked about by those only who set it themselves; an EventSource may send it anyway.
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Authorization, If-None-Match, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}
SHOWN_HEADERS = "ETag, Retry-After"  # of an answer, beside those that every page may read

OnPrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def answer_preflights(allowed_origins: Collection[str]) -> Middleware:
    """Answer what a browser asks before it sends a request with a token, which it sends without one."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method == "OPTIONS" and asked in METHODS and _is_allowed(request, allowed_origins):
            return web.Response(status=204, headers=PREFLIGHT)
        return await handler(request)

    return answer


def show_to(allowed_origins: Collection[str]) -> OnPrepare:
    """Return what adds the headers without which a browser keeps a response, an error too, from a page."""

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
