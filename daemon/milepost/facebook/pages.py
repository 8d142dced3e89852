"""Pages: those that a user's token manages, and the Instagram account that is linked to one."""

from functools import partial
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta, Struct, ValidationError

from milepost.core.model import Platform, Stream
from milepost.core.ports import Gate, Held, Refused
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.calls import Access, Calls
from milepost.facebook.client import GraphClient, GraphResponse
from milepost.facebook.leniency import lenient, mended
from milepost.facebook.paging import NoCursor, next_cursor, read_list
from milepost.facebook.problems import invalid_response, problem_of
from milepost.facebook.wire import Id

PATH = "me/accounts"
PARAMETERS = {"fields": "id,name,access_token,instagram_business_account", "limit": "100"}
MAX_BATCHES = 100

GraphId = Annotated[str, Meta(pattern=r"^[0-9]{1,40}\Z")]  # as the settings demand of the pages that they list
Token = Annotated[str, Meta(pattern=r"^[!-~]{1,4096}\Z")]  # what may stand in a header

log = structlog.get_logger()


class Page(Struct, frozen=True, repr_omit_defaults=True):
    """A page and its access token, whether configured, discovered or simulated. The repr leaves token and name out."""

    id: str
    name: str
    platforms: tuple[Platform, ...]
    access_token: str
    instagram_account_id: str | None = None

    @property
    def streams(self) -> tuple[Stream, ...]:
        """A stream for each platform."""
        return tuple(Stream(platform, self.id) for platform in self.platforms)

    def __repr__(self) -> str:
        return f"Page({self.id!r}, {self.platforms!r})"


class _Account(Struct):
    id: GraphId


class _ManagedPage(Struct):
    id: GraphId
    access_token: Token
    name: str = ""
    instagram_business_account: _Account | None = None


class _Batch(Struct, frozen=True):
    pages: tuple[Page, ...]
    next_cursor: str | None


async def fetch_managed_pages(client: GraphClient, access: Access, gate: Gate) -> tuple[Page, ...] | Problem | Held:
    """Fetch the whole list with the user's token (Meta, "Graph API: User, Accounts"); Held if a rate limit forbade it.

    A page is on Instagram if an account is linked to it.
    """
    calls = Calls(client, access, gate, PATH)
    decode = partial(_decode, str(client.url(PATH)))
    pages: dict[str, Page] = {}
    cursors: set[str] = set()
    parameters = PARAMETERS
    for _ in range(MAX_BATCHES):
        outcome = await calls.get(PATH, parameters, decode)
        if isinstance(outcome, Held):
            return outcome
        if isinstance(outcome, Refused):
            return outcome.problem
        pages |= {page.id: page for page in outcome.value.pages}
        cursor = outcome.value.next_cursor
        if cursor is None:
            return tuple(pages.values())
        if cursor in cursors:
            return Problem(ProblemKind.CURSOR_LOOP, "the list of managed pages repeats a cursor")
        cursors.add(cursor)
        parameters = {**PARAMETERS, "after": cursor}
    message = (
        f"the list of managed pages does not end within {MAX_BATCHES} batches; list the pages in the configuration"
    )
    return Problem(ProblemKind.MISCONFIGURED, message)


def _decode(edge_url: str, response: GraphResponse) -> _Batch | Problem:
    listed = read_list(response.body, response.status)
    if isinstance(listed, Problem):
        return listed
    pages = [page for item in listed.items if (page := _page(item)) is not None]
    if len(pages) < len(listed.items):
        log.warning("managed_pages_unreadable", count=len(listed.items) - len(pages))
    try:
        return _Batch(tuple(pages), next_cursor(listed.paging, edge_url))
    except NoCursor as error:
        return invalid_response(str(error), response.status)


def _page(item: object) -> Page | None:
    """Return the page; None if it is unreadable, or has no token to sync it with."""
    try:
        page = lenient(mended(item)[0], _ManagedPage)
    except ValidationError:
        return None
    account = page.instagram_business_account
    platforms = (Platform.MESSENGER, Platform.INSTAGRAM) if account else (Platform.MESSENGER,)
    return Page(page.id, page.name, platforms, page.access_token, account.id if account else None)


class _LinkedAccount(Struct):
    id: Id


class _LinkedPage(Struct):
    id: Id
    instagram_business_account: _LinkedAccount | None = None


def linked_account(response: GraphResponse, page_id: str) -> str | Problem:
    """Return the id of the page's account from `GET /{page-id}?fields=instagram_business_account`, or why it has none.

    A page without an Instagram account is sent with nothing but its id.
    """
    try:
        page = msgspec.json.decode(response.body, type=_LinkedPage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return problem_of(response.body, response.status)
    if page.instagram_business_account is None:
        message = (
            f"page {page_id} has no Instagram professional account linked, or the token may not see it; link one, "
            "set the page's instagram_account_id, or take instagram out of its platforms"
        )
        return Problem(ProblemKind.MISCONFIGURED, message, http_status=response.status)
    return page.instagram_business_account.id
