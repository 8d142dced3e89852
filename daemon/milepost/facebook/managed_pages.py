"""Which pages a user's token manages: `GET /me/accounts` (Meta, "Graph API: User, Accounts")."""

from functools import partial
from typing import Annotated

import structlog
from msgspec import Meta, Struct, ValidationError

from milepost.core.ports import Gate, Held, Refused
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.access import Access
from milepost.facebook.calls import Calls
from milepost.facebook.client import Answer, GraphClient
from milepost.facebook.leniency import lenient
from milepost.facebook.paging import NoCursor, next_cursor, read_list
from milepost.facebook.problems import nonsense
from milepost.facebook.rate_limiter import RateLimiter

PATH = "me/accounts"
PARAMETERS = {"fields": "id,name,access_token,instagram_business_account", "limit": "100"}
MAX_BATCHES = 100

GraphId = Annotated[str, Meta(pattern=r"^[0-9]{1,40}\Z")]  # as the settings demand of the pages that they name
Token = Annotated[str, Meta(pattern=r"^[!-~]{1,4096}\Z")]  # what may stand in a header

log = structlog.get_logger()


class ManagedPage(Struct, frozen=True):
    """A page and the token that it can be read with. The repr leaves the token and the name out."""

    id: str
    name: str
    access_token: str
    instagram_account_id: str | None = None

    def __repr__(self) -> str:
        return f"ManagedPage({self.id!r})"


class _Account(Struct):
    id: GraphId


class _Page(Struct):
    id: GraphId
    access_token: Token
    name: str = ""
    instagram_business_account: _Account | None = None


class _Batch(Struct, frozen=True):
    pages: tuple[ManagedPage, ...]
    next_cursor: str | None


async def managed_pages(
    client: GraphClient, access: Access, rate_limiter: RateLimiter, gate: Gate
) -> tuple[ManagedPage, ...] | Problem | Held:
    """Read the whole list, with the user's token in `access`; Held where a pause forbade a call on the way."""
    calls = Calls(client, access, rate_limiter, gate, PATH)
    reading = partial(_read, str(client.url(PATH)))
    pages: dict[str, ManagedPage] = {}
    cursors: set[str] = set()
    parameters = PARAMETERS
    for _ in range(MAX_BATCHES):
        answer = await calls.ask(PATH, parameters, reading)
        if isinstance(answer, Held):
            return answer
        if isinstance(answer, Refused):
            return answer.problem
        pages |= {page.id: page for page in answer.value.pages}
        cursor = answer.value.next_cursor
        if cursor is None:
            return tuple(pages.values())
        if cursor in cursors:
            return Problem(ProblemKind.CURSOR_LOOP, "the list of managed pages leads back to where it was")
        cursors.add(cursor)
        parameters = {**PARAMETERS, "after": cursor}
    message = (
        f"the list of managed pages does not end within {MAX_BATCHES} batches; name the pages to be read one by one"
    )
    return Problem(ProblemKind.MISCONFIGURED, message)


def _read(edge_url: str, answer: Answer, access_token: str) -> _Batch | Problem:
    found = read_list(answer.body, answer.status, access_token)
    if isinstance(found, Problem):
        return found
    pages = [page for item in found.items if (page := _page(item)) is not None]
    if len(pages) < len(found.items):
        log.warning("managed_pages_unreadable", count=len(found.items) - len(pages))
    try:
        return _Batch(tuple(pages), next_cursor(found.paging, edge_url))
    except NoCursor as error:
        return nonsense(str(error), answer.status)


def _page(item: object) -> ManagedPage | None:
    """Read a page; without a token of its own it cannot be worked."""
    try:
        page = lenient(item, _Page)
    except ValidationError:
        return None
    account = page.instagram_business_account
    return ManagedPage(page.id, page.name, page.access_token, account.id if account else None)
