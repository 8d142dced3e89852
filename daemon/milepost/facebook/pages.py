"""What the API says of pages: those that a user's token manages, a page's account, its token and its subscription.

`GET /me/accounts` (Meta, "Graph API: User, Accounts"), `GET /debug_token` (Meta, "Debug Token"), `GET` and
`POST /{page-id}/subscribed_apps` (Meta, "Page Subscribed Apps").
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta, Struct, ValidationError

from milepost.core.model import Platform, Stream, TokenHealth
from milepost.core.ports import Gate, Held, Refused
from milepost.core.problems import Problem, ProblemKind, rule_for
from milepost.facebook.calls import Access, Calls, Decoded, Decoder, FieldCalls, plain
from milepost.facebook.client import GraphClient, GraphResponse
from milepost.facebook.leniency import lenient, mended, read_json
from milepost.facebook.responses import Listed, next_cursor, place_of, problem_of, read_list
from milepost.facebook.wire import Id

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


# --- the pages that a user's token manages ----------------------------------------------------------------------------

MANAGED_PAGES = "me/accounts"
FIELDS = "id,name,access_token,instagram_business_account"
NEEDED = frozenset({"id", "access_token"})
MAX_BATCHES = 100

GraphId = Annotated[str, Meta(pattern=r"^[0-9]{1,40}\Z")]  # as the settings require of the pages that they list
Token = Annotated[str, Meta(pattern=r"^[!-~]{1,4096}\Z")]  # the characters that a header may have


class _Size(Struct, frozen=True):
    limit: int
    fields: str = FIELDS


# As with conversations, lists of pages are refused with "reduce the amount of data" or time out (reports of 2026).
SIZES = (_Size(100), _Size(25), _Size(5), _Size(1), _Size(1, "id,name,access_token"))


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

    A page is on Instagram if an account is linked to it. If the list is refused although its ids can be read, fewer
    pages are requested at once, and in the end fewer fields of each.
    """
    calls = Calls(client, access, gate, MANAGED_PAGES)
    edge = _Edge(calls, partial(_decode, str(client.url(MANAGED_PAGES))))
    pages: dict[str, Page] = {}
    cursors: set[str] = set()
    cursor: str | None = None
    left = MAX_BATCHES * SIZES[0].limit
    while left > 0:
        outcome = await edge.fetch(cursor)
        if not isinstance(outcome, Decoded):
            return outcome.problem if isinstance(outcome, Refused) else outcome
        left -= edge.limit
        pages |= {page.id: page for page in outcome.value.pages}
        cursor = outcome.value.next_cursor
        if cursor is None:
            return tuple(pages.values())
        if cursor in cursors:
            return Problem(ProblemKind.CURSOR_LOOP, "the list of managed pages repeats a cursor")
        cursors.add(cursor)
    message = (
        f"the list of managed pages does not end within {MAX_BATCHES} batches; list the pages in the configuration"
    )
    return Problem(ProblemKind.MISCONFIGURED, message)


class _Edge:
    """The edge of the managed pages. A size that has failed is not requested again."""

    def __init__(self, calls: Calls, decode: Decoder[_Batch]) -> None:
        self._calls = calls
        self._decode = decode
        self._step = 0
        self._field_calls = FieldCalls(calls, NEEDED)
        self._left_out = set[str]()  # and logged

    @property
    def limit(self) -> int:
        """How many pages are requested at once."""
        return SIZES[self._step].limit

    async def fetch(self, cursor: str | None) -> Decoded[_Batch] | Refused | Held:
        """Fetch a batch, and a smaller one if it is refused although the list can be read."""
        while True:
            size = SIZES[self._step]
            outcome = await self._get(size, cursor)
            if not isinstance(outcome, Refused):
                if isinstance(outcome, Decoded) and size.fields != FIELDS:
                    log.warning("managed pages read without their Instagram accounts", count=len(outcome.value.pages))
                    self._step -= 1  # the next page may be read in full
                return outcome
            if self._step + 1 == len(SIZES) or rule_for(outcome.problem, has_cursor=cursor is not None).is_general:
                return outcome
            looked = await self._calls.make(MANAGED_PAGES, _parameters("id", 1, cursor), _decode_any)
            if not isinstance(looked, Decoded):
                return looked if isinstance(looked, Held) else outcome
            self._step += 1

    async def _get(self, size: _Size, cursor: str | None) -> Decoded[_Batch] | Refused | Held:
        parameters = _parameters(size.fields, size.limit, cursor)
        outcome = await self._field_calls.make(MANAGED_PAGES, parameters, self._decode)
        left_out = outcome.left_out if isinstance(outcome, Decoded) else ()
        for name in sorted({*left_out} - self._left_out):
            log.warning("managed pages read without a field", field=name)
        self._left_out.update(left_out)
        return outcome


def _parameters(fields: str, limit: int, cursor: str | None) -> dict[str, str]:
    return {"fields": fields, "limit": str(limit), **place_of(cursor)}


def _decode_any(response: GraphResponse) -> Listed | Problem:
    return read_list(response.body, response.status)


def _decode(edge_url: str, response: GraphResponse) -> _Batch | Problem:
    listed = read_list(response.body, response.status)
    if isinstance(listed, Problem):
        return listed
    pages = [page for item in listed.items if (page := _page(item)) is not None]
    if len(pages) < len(listed.items):
        log.warning("managed pages unreadable", count=len(listed.items) - len(pages))
    cursor = next_cursor(listed.paging, edge_url, response.status)
    return cursor if isinstance(cursor, Problem) else _Batch(tuple(pages), cursor)


def _page(item: object) -> Page | None:
    """Return the page; None if it is unreadable, or has no token to sync it with."""
    try:
        page = lenient(mended(item)[0], _ManagedPage)
    except ValidationError:
        return None
    account = page.instagram_business_account
    platforms = (Platform.MESSENGER, Platform.INSTAGRAM) if account else (Platform.MESSENGER,)
    return Page(page.id, page.name, platforms, page.access_token, account.id if account else None)


# --- the Instagram account that is linked to a page -------------------------------------------------------------------


class _LinkedAccount(Struct):
    id: Id


class _LinkedPage(Struct):
    id: Id
    instagram_business_account: _LinkedAccount | None = None


def linked_account(page_id: str, response: GraphResponse) -> str | Problem:
    """Return the id of the page's account from `GET /{page-id}?fields=instagram_business_account`, or why it has none.

    For a page without an Instagram account, the response has only the page's id.
    """
    try:
        sent = read_json(response.body)
        account = lenient(sent, _LinkedPage).instagram_business_account
    except ValueError:  # ValidationError is one
        return problem_of(response.body, response.status)
    if account is not None:
        return str(account.id)
    if isinstance(sent, dict) and sent.get("instagram_business_account") is not None:
        return problem_of(response.body, response.status)
    message = (
        f"page {page_id} has no Instagram professional account linked, or the token may not see it; link one, "
        "set the page's instagram_account_id, or take instagram out of its platforms"
    )
    return Problem(ProblemKind.MISCONFIGURED, message, http_status=response.status)


# --- the page's token -------------------------------------------------------------------------------------------------

INSPECTION = "debug_token"

Seconds = Annotated[int, Meta(ge=0, le=253_402_300_799)]  # Unix time up to the year 9999; 0 means never


class InspectedToken(Struct, frozen=True):
    """What the platform says about a token. `permissions` and the `app_id` of its app are empty if it says none."""

    health: TokenHealth
    permissions: frozenset[str]
    app_id: str = ""


class _Facts(Struct):
    is_valid: bool
    expires_at: Seconds = 0
    data_access_expires_at: Seconds = 0
    scopes: list[str] = []
    app_id: str = ""


class _DebugToken(Struct):
    data: _Facts


async def inspect_token(client: GraphClient, access: Access, gate: Gate) -> InspectedToken | Problem | Held:
    """Inspect the token in `access`, with the token itself.

    Meta documents an app token (`id|secret`) or a developer's user token for this ("Debug Token", Permissions). But no
    setting has the app's id, and connectors inspect page tokens with themselves; if that is refused, the token's health
    stays unknown. The API requires the inspected token in the query, which is kept out of errors and logs.
    """
    calls = Calls(client, access, gate, INSPECTION)
    return plain(await calls.make(INSPECTION, {"input_token": access.token}, _decode_token))


def _decode_token(response: GraphResponse) -> InspectedToken | Problem:
    try:
        facts = lenient(read_json(response.body), _DebugToken).data
    except ValueError:  # ValidationError is one
        return problem_of(response.body, response.status)
    health = TokenHealth(facts.is_valid, _instant(facts.expires_at), _instant(facts.data_access_expires_at))
    return InspectedToken(health, frozenset(facts.scopes), facts.app_id)


def _instant(seconds: int) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


# --- its subscription to webhooks -------------------------------------------------------------------------------------

SUBSCRIBED_APPS = "subscribed_apps"
# The fields of a page. An Instagram account gets all the fields that are chosen for the app, once its page has any.
MESSAGE_FIELDS = {
    Platform.MESSENGER: ("messages", "message_echoes", "messaging_postbacks", "standby"),
    Platform.INSTAGRAM: ("messages",),
}
# The fields of facts (core/facts.py). All messages are copied without them as well.
FACT_FIELDS: dict[Platform, tuple[str, ...]] = {
    Platform.MESSENGER: ("message_edits", "message_reactions", "messaging_referrals"),
    Platform.INSTAGRAM: (),
}


MAX_APP_BATCHES = 20  # of 25 apps


class _App(Struct):
    id: str | None = None
    subscribed_fields: list[str] = []


class _Apps(Struct, frozen=True):
    apps: list[_App]
    next_cursor: str | None


class Subscription(Struct, frozen=True):
    """The fields that a page is subscribed to as far as is known, the required ones, and those of facts."""

    fields: frozenset[str]
    needed: frozenset[str]
    of_facts: frozenset[str]

    @property
    def missing(self) -> tuple[str, ...]:
        """The required fields that the page is not subscribed to."""
        return tuple(sorted(self.needed - self.fields))

    @property
    def lacking(self) -> tuple[str, ...]:
        """The fields of facts that the page is not subscribed to."""
        return tuple(sorted(self.of_facts - self.fields))


class Subscriptions:
    """Reads and repairs a page's subscription."""

    def __init__(
        self, client: GraphClient, access: Access, gate: Gate, page_id: str, platforms: Iterable[Platform]
    ) -> None:
        self._calls = Calls(client, access, gate, SUBSCRIBED_APPS)
        self._path = f"{page_id}/{SUBSCRIBED_APPS}"
        self._decode = partial(_decode_apps, str(client.url(self._path)))
        on = tuple(platforms)
        self._needed = frozenset(field for platform in on for field in MESSAGE_FIELDS[platform])
        self._of_facts = frozenset(field for platform in on for field in FACT_FIELDS[platform])

    async def look(self, app_id: str) -> Subscription | Problem | Held:
        """Return the subscription of an app; with an empty id, that of all listed apps, which is often only one."""
        fields, cursor = frozenset[str](), None
        for _ in range(MAX_APP_BATCHES):
            parameters = {"fields": "id,subscribed_fields", **place_of(cursor)}
            found = plain(await self._calls.make(self._path, parameters, self._decode))
            if not isinstance(found, _Apps):
                return found
            own = (app for app in found.apps if not app_id or app.id in (None, app_id))
            fields = fields.union(*(app.subscribed_fields for app in own))
            cursor = found.next_cursor
            if cursor is None:
                return Subscription(fields, self._needed, self._of_facts)
        return Problem(ProblemKind.CURSOR_LOOP, "the list of subscribed apps does not end")

    async def mend(self, found: Subscription, missing: Iterable[str]) -> Problem | Held | None:
        """Subscribe to the missing fields and to the present ones, because a new subscription replaces the old one."""
        wanted = ",".join(sorted(found.fields.union(missing)))
        outcome = plain(await self._calls.make(self._path, {"subscribed_fields": wanted}, _done, "POST"))
        return outcome if isinstance(outcome, Problem | Held) else None


def _decode_apps(edge_url: str, response: GraphResponse) -> _Apps | Problem:
    listed = read_list(response.body, response.status)
    if isinstance(listed, Problem):
        return listed
    try:
        apps = msgspec.convert(listed.items, list[_App])
    except ValidationError:
        return problem_of(response.body, response.status)
    cursor = next_cursor(listed.paging, edge_url, response.status)
    return cursor if isinstance(cursor, Problem) else _Apps(apps, cursor)


def _done(response: GraphResponse) -> int | Problem:
    return response.status
