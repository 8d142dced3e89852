"""The simulated Graph API: its responses as a function of the world, the request and the time."""

import hashlib
import hmac
from datetime import timedelta
from itertools import islice

from milepost.simulator import refusals, seeded
from milepost.simulator.access import ALL_FIELDS
from milepost.simulator.faults import FaultKind, FaultPlan
from milepost.simulator.inbox import Inbox, Thread
from milepost.simulator.nodes import UnknownField, conversation_node, message_list, nested_limit, node_of
from milepost.simulator.plan import PLATFORMS, Platform, SimulatedPage, instant_us
from milepost.simulator.requests import ApiRequest, Field, Node, cursor_of, paging_node, pruned
from milepost.simulator.world import World

APP_ID = "1000000000000001"
_DEFAULT_PAGE_FIELDS = (Field("id"), Field("name"))
_DEFAULT_ACCOUNT_FIELDS = (Field("access_token"), Field("category"), Field("name"), Field("id"), Field("tasks"))
_SCOPES = ["pages_show_list", "instagram_basic", "pages_manage_metadata", "pages_read_engagement"]
_MESSAGING_SCOPES = ["pages_messaging", "instagram_manage_messages"]


class GraphApi:
    """Responds to requests about a world, by the rules of a fault plan.

    With an `app_secret` it requires a valid `appsecret_proof`, as an app can.
    """

    def __init__(self, world: World, app_secret: str, rules: FaultPlan) -> None:
        self._world = world
        self._access = world.access
        self._app_secret = app_secret
        self._rules = rules

    def respond(self, request: ApiRequest) -> Node:
        """Return the response to any request.

        Raises:
            Refusal: the response is an error.
        """
        if not request.is_versioned or not request.owner:
            raise refusals.bad_query(f"Unknown path components: {request.path}")
        self._authenticate(request)
        try:
            return self._node(request)
        except UnknownField as unknown:
            raise refusals.bad_parameter(f"Tried accessing nonexisting field ({unknown})") from unknown

    def counted_with(self, request: ApiRequest) -> tuple[str | None, str]:
        """Return the id of the page that the call counts for, if any, and the stream in which it is numbered."""
        page = self._page_named(request)
        if page is not None:
            return page.id, request.stream
        inbox = self._world.inbox_with(request.owner) if request.edge in ("", "messages") else None
        if inbox is None:
            return None, request.stream
        return inbox.page.id, f"{inbox.platform}:{inbox.page.id}/thread"

    def _page_named(self, request: ApiRequest) -> SimulatedPage | None:
        """Return the page by its id, its Instagram account's, or `me`."""
        if request.owner == "me":
            return self._access.page_of_token(request.token or "")
        return self._access.page_named(request.owner)

    def _node(self, request: ApiRequest) -> Node:
        match request.owner, request.edge:
            case "debug_token", "":
                return self._token_health(request)
            case "me", "accounts":
                return self._accounts(request)
            case _, "conversations":
                return self._conversations(request, self._inbox(request))
            case _, "messages" | "subscribed_apps" as edge:
                return self._messages(request) if edge == "messages" else self._subscribed_apps(request)
            case _, "" if (page := self._page_named(request)) is not None:
                return _page_node(page, request.fields or _DEFAULT_PAGE_FIELDS)
            case _, "":
                return conversation_node(self._thread(request), request.fields, request.link)
            case _:
                raise refusals.object_missing(request.owner)

    def _authenticate(self, request: ApiRequest) -> None:
        token = request.token
        if not token:
            raise refusals.no_token()
        self._access.check(token)
        if not self._app_secret:
            return
        if (proof := request.query.get("appsecret_proof")) is None:
            raise refusals.proof_missing()
        expected = hmac.new(self._app_secret.encode(), token.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), proof.encode()):
            raise refusals.proof_wrong()

    def _inbox(self, request: ApiRequest) -> Inbox:
        page = self._demand_page(request)
        inbox = self._world.inbox(page.id, _platform(request, page))
        if inbox is None:
            raise refusals.bad_parameter("This page has no conversations on this platform")
        return inbox

    def _demand_page(self, request: ApiRequest) -> SimulatedPage:
        page = self._page_named(request)
        if page is None:
            raise refusals.object_missing(request.owner)
        self._demand_access(page, request)
        return page

    def _demand_access(self, page: SimulatedPage, request: ApiRequest) -> None:
        if page.token != request.token:
            raise refusals.page_token_required()
        if (code := self._access.missing_permission(page.id)) is not None:
            raise refusals.permission_missing(code)

    def _conversations(self, request: ApiRequest, inbox: Inbox) -> Node:
        cursor = cursor_of(request, inbox, self._world.cursor_generation, self._rules.cursor_life_seconds)
        limit, fields = request.limit, request.fields
        if 0 < self._rules.max_weight < limit * (1 + nested_limit(fields)):
            raise refusals.too_heavy(request.seed)
        found = tuple(islice(inbox.threads(instant_us(request.at), cursor.position), limit + 1))
        if not found:
            return {"data": []}
        shown = () if request.fault is FaultKind.EMPTY_BATCH else found[:limit]
        self._world.ailments.check(shown, request)
        before = (cursor.moved(shown[0].position) if shown else cursor).sealed()
        after = (cursor.moved(shown[-1].position) if shown else cursor.turned()).sealed()
        has_more = len(found) > len(shown)
        if request.fault is FaultKind.EQUAL_CURSORS:
            before = after
        if request.fault is FaultKind.LOOPING_CURSOR:
            after, has_more = request.query["after"], True
        paging = paging_node(request, before=before, after=after, has_more=has_more)
        return {"data": [conversation_node(thread, fields, request.link) for thread in shown], "paging": paging}

    def _thread(self, request: ApiRequest) -> Thread:
        thread = self._world.find(request.owner, request.at)
        if thread is None:
            raise refusals.object_missing(request.owner)
        self._demand_access(self._access.page(thread.page.id), request)
        self._world.ailments.check((thread,), request)
        return thread

    def _messages(self, request: ApiRequest) -> Node:
        thread = self._thread(request)
        inbox = self._world.inbox(thread.page.id, thread.platform)
        messages = () if inbox is None else inbox.messages(thread, instant_us(request.at))
        return message_list(thread, messages, request)

    def _subscribed_apps(self, request: ApiRequest) -> Node:
        page = self._demand_page(request)
        if request.is_post:
            fields = request.query.get("subscribed_fields", "")
            unknown = sorted(set(filter(None, fields.split(","))) - ALL_FIELDS)
            if unknown or not fields:
                raise refusals.bad_parameter(
                    f"Param subscribed_fields must be one of {{{', '.join(sorted(ALL_FIELDS))}}}"
                )
            self._access.subscribe(page.id, fields)
            return {"success": True}
        fields_now = sorted(self._access.subscribed_fields(page.id))
        app: Node = {"id": APP_ID, "name": "Simulated app", "subscribed_fields": fields_now}
        return {"data": [app] if fields_now else []}

    def _accounts(self, request: ApiRequest) -> Node:
        if request.token != self._access.user_token:
            raise refusals.bad_parameter("Tried accessing nonexisting field (accounts) on node type (Page)")
        text = seeded.unsealed(request.query.get("after", seeded.sealed("0"))) or ""
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise refusals.dead_cursor()
        found = tuple(islice(self._access.managed_pages(int(text)), request.limit + 1))
        shown = found[: request.limit]
        if not shown:
            return {"data": []}
        fields = request.fields or _DEFAULT_ACCOUNT_FIELDS
        before, after = seeded.sealed(str(shown[0][0])), seeded.sealed(str(shown[-1][0] + 1))
        paging = paging_node(request, before=before, after=after, has_more=len(found) > len(shown))
        return {"data": [_page_node(page, fields) for _, page in shown], "paging": paging}

    def _token_health(self, request: ApiRequest) -> Node:
        token = request.query.get("input_token", "")
        try:
            self._access.check(token)
        except refusals.Refusal as dead:
            error = {"code": dead.code, "message": str(dead), "subcode": dead.subcode}
            return {"data": {"error": error, "is_valid": False, "scopes": []}}
        page = self._access.page_of_token(token)
        allowed = page is None or self._access.missing_permission(page.id) is None
        midnight = request.at.replace(hour=0, minute=0, second=0, microsecond=0)
        expires_at = self._access.expiry(token)
        facts: Node = {
            "app_id": APP_ID,
            "type": "PAGE" if page else "USER",
            "application": "Simulated app",
            "data_access_expires_at": int((midnight + timedelta(days=60)).timestamp()),
            "expires_at": 0 if expires_at is None else int(expires_at.timestamp()),
            "is_valid": True,
            "scopes": _SCOPES + (_MESSAGING_SCOPES if allowed else []),
            "user_id": "10000000000000001",
        }
        return {"data": facts | ({"profile_id": page.id} if page else {})}


def _platform(request: ApiRequest, page: SimulatedPage) -> Platform:
    by_owner = "instagram" if request.owner == page.instagram_account_id else "messenger"
    asked = request.query.get("platform", by_owner).lower()
    for platform in PLATFORMS:
        if platform == asked:
            return platform
    raise refusals.bad_parameter("Param platform must be one of {INSTAGRAM, MESSENGER}")


def _page_node(page: SimulatedPage, fields: tuple[Field, ...]) -> Node:
    account_id = page.instagram_account_id
    known: Node = {
        "id": page.id,
        "name": page.name,
        "access_token": page.token,
        "category": "Local business",
        "tasks": ["MESSAGING", "MODERATE"],
        "instagram_business_account": None if account_id is None else {"id": account_id},
    }

    def value_of(field: Field) -> object:
        if field.name not in known:
            raise UnknownField(field.name)
        return pruned(known[field.name], field.fields)

    return node_of(page.id, fields, value_of)
