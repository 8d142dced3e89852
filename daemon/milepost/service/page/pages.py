"""The two pages: the status page, and the form to sign in where a token is asked for."""

from collections.abc import Sequence

from aiohttp import web

from milepost import __version__
from milepost.service.auth import is_admitted
from milepost.service.page.document import Document, document

# In the order in which they run: what a file does when it is read needs only what is before it.
STATUS_SCRIPTS = (
    "words", "elements", "states", "daemon", "notices", "connection", "theme", "rates", "card", "streams",
    "verdict", "chart", "toasts", "feed", "letters", "refresh", "page",
)  # fmt: skip
LOGIN_SCRIPTS = ("words", "elements", "daemon", "login")


def status_page(*, is_signed_in: bool) -> Document:
    """Make the status page. `is_signed_in`: whether there is anything to sign out of."""
    words = {"version": __version__, "sign_out": "" if is_signed_in else "hidden"}
    return document("page", ("look", "page"), STATUS_SCRIPTS, words)


def login_page() -> Document:
    """Make the page that asks for the token."""
    return document("login", ("look",), LOGIN_SCRIPTS, {})


def pages(*, asks_for_token: bool) -> Sequence[web.AbstractRouteDef]:
    """Give the route of the status page, and in its place, to who is not admitted, the form to sign in."""
    status, login = status_page(is_signed_in=asks_for_token), login_page()

    async def root(request: web.Request) -> web.Response:
        return (status if is_admitted(request) else login).answer(request)

    return [web.get("/", root)]
