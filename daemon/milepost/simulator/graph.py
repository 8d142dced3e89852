"""The simulated Graph API: what it answers, as a function of the world, the question and the time."""

import hashlib
import hmac
from datetime import timedelta
from itertools import islice

from milepost.simulator import refusals, seeded
from milepost.simulator.conversations import conversation_node, message_list, nested_limit
from milepost.simulator.faults import CALM, FaultPlan
from milepost.simulator.fields import Field, pruned
from milepost.simulator.inbox import Inbox, Thread
from milepost.simulator.instants import instant_us
from milepost.simulator.messages import Node, UnknownField
from milepost.simulator.paging import cursor_of, paging_node
from milepost.simulator.plan import PLATFORMS, Platform, SimulatedPage
from milepost.simulator.question import Question
from milepost.simulator.strikes import EmptyBatch, EqualCursors, LoopingCursor
from milepost.simulator.world import World

_DEFAULT_PAGE_FIELDS = (Field("id"), Field("name"))
_DEFAULT_ACCOUNT_FIELDS = (Field("access_token"), Field("category"), Field("name"), Field("id"), Field("tasks"))
_SCOPES = ["pages_show_list", "instagram_basic"]
_MESSAGING_SCOPES = ["pages_messaging", "instagram_manage_messages"]


class GraphApi:
    """Answers questions about a world, by the rules of a fault plan.

    With an `app_secret` it demands a valid `appsecret_proof`, as an app can.
    """

    def __init__(self, world: World, app_secret: str = "", rules: FaultPlan = CALM) -> None:
        self._world = world
        self._access = world.access
        self._app_secret = app_secret
        self._rules = rules

    def answer(self, question: Question) -> Node:
        """Answer any question.

        Raises:
            Refusal: it deserves an error.
        """
        if not question.is_versioned or not question.owner:
            raise refusals.bad_query(f"Unknown path components: {question.path}")
        self._authenticate(question)
        try:
            return self._answer(question)
        except UnknownField as unknown:
            raise refusals.bad_parameter(f"Tried accessing nonexisting field ({unknown})") from unknown

    def counted_with(self, question: Question) -> tuple[str | None, str]:
        """The id of the page whose call this is, if it is a page's, and the stream with which it is numbered."""
        page = self._page_named(question)
        if page is not None:
            return page.id, question.stream
        inbox = self._world.inbox_with(question.owner) if question.edge in ("", "messages") else None
        if inbox is None:
            return None, question.stream
        return inbox.page.id, f"{inbox.platform}:{inbox.page.id}/thread"

    def _page_named(self, question: Question) -> SimulatedPage | None:
        """The page that is meant by its id, its Instagram account's, or `me`."""
        if question.owner == "me":
            return self._access.page_of_token(question.token or "")
        return self._access.page_named(question.owner)

    def _answer(self, question: Question) -> Node:
        match question.owner, question.edge:
            case "debug_token", "":
                return self._token_facts(question)
            case "me", "accounts":
                return self._accounts(question)
            case _, "conversations":
                return self._conversations(question, self._inbox(question))
            case _, "messages":
                return message_list(self._thread(question), question)
            case _, "" if (page := self._page_named(question)) is not None:
                return _page_node(page, question.fields or _DEFAULT_PAGE_FIELDS)
            case _, "":
                return conversation_node(self._thread(question), question.fields, question.link)
            case _:
                raise refusals.object_missing(question.owner)

    def _authenticate(self, question: Question) -> None:
        token = question.token
        if not token:
            raise refusals.no_token()
        self._access.check(token)
        if not self._app_secret:
            return
        if (proof := question.query.get("appsecret_proof")) is None:
            raise refusals.proof_missing()
        expected = hmac.new(self._app_secret.encode(), token.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), proof.encode()):
            raise refusals.proof_wrong()

    def _inbox(self, question: Question) -> Inbox:
        page = self._page_named(question)
        if page is None:
            raise refusals.object_missing(question.owner)
        self._demand_access(page, question)
        inbox = self._world.inbox(page.id, _platform(question, page))
        if inbox is None:
            raise refusals.bad_parameter("This page has no conversations on this platform")
        return inbox

    def _demand_access(self, page: SimulatedPage, question: Question) -> None:
        if page.token != question.token:
            raise refusals.page_token_required()
        if (code := self._access.missing_permission(page.id)) is not None:
            raise refusals.permission_missing(code)

    def _conversations(self, question: Question, inbox: Inbox) -> Node:
        cursor = cursor_of(question, inbox, self._world.cursor_generation, self._rules.cursor_life_seconds)
        limit, fields = question.limit, question.fields
        if 0 < self._rules.max_weight < limit * (1 + nested_limit(fields)):
            raise refusals.too_heavy(question.seed)
        found = tuple(islice(inbox.threads(instant_us(question.at), cursor.position), limit + 1))
        if not found:
            return {"data": []}
        shown = () if isinstance(question.bend, EmptyBatch) else found[:limit]
        self._world.ailments.check(shown, question)
        before = (cursor.moved(shown[0].position) if shown else cursor).sealed()
        after = (cursor.moved(shown[-1].position) if shown else cursor.turned()).sealed()
        has_more = len(found) > len(shown)
        match question.bend:
            case EqualCursors():
                before = after
            case LoopingCursor():
                after, has_more = question.query["after"], True
            case EmptyBatch() | None:
                pass
        paging = paging_node(question, before=before, after=after, has_more=has_more)
        return {"data": [conversation_node(thread, fields, question.link) for thread in shown], "paging": paging}

    def _thread(self, question: Question) -> Thread:
        thread = self._world.find(question.owner, question.at)
        if thread is None:
            raise refusals.object_missing(question.owner)
        self._demand_access(self._access.page(thread.page.id), question)
        self._world.ailments.check((thread,), question)
        return thread

    def _accounts(self, question: Question) -> Node:
        if question.token != self._access.user_token:
            raise refusals.bad_parameter("Tried accessing nonexisting field (accounts) on node type (Page)")
        text = seeded.unsealed(question.query.get("after", seeded.sealed("0"))) or ""
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise refusals.dead_cursor()
        found = tuple(islice(self._access.managed_pages(int(text)), question.limit + 1))
        shown = found[: question.limit]
        if not shown:
            return {"data": []}
        fields = question.fields or _DEFAULT_ACCOUNT_FIELDS
        before, after = seeded.sealed(str(shown[0][0])), seeded.sealed(str(shown[-1][0] + 1))
        paging = paging_node(question, before=before, after=after, has_more=len(found) > len(shown))
        return {"data": [_page_node(page, fields) for _, page in shown], "paging": paging}

    def _token_facts(self, question: Question) -> Node:
        token = question.query.get("input_token", "")
        try:
            self._access.check(token)
        except refusals.Refusal as dead:
            error = {"code": dead.code, "message": str(dead), "subcode": dead.subcode}
            return {"data": {"error": error, "is_valid": False, "scopes": []}}
        page = self._access.page_of_token(token)
        allowed = page is None or self._access.missing_permission(page.id) is None
        midnight = question.at.replace(hour=0, minute=0, second=0, microsecond=0)
        expires_at = self._access.expiry(token)
        facts: Node = {
            "app_id": "1000000000000001",
            "type": "PAGE" if page else "USER",
            "application": "Simulated app",
            "data_access_expires_at": int((midnight + timedelta(days=60)).timestamp()),
            "expires_at": 0 if expires_at is None else int(expires_at.timestamp()),
            "is_valid": True,
            "scopes": _SCOPES + (_MESSAGING_SCOPES if allowed else []),
            "user_id": "10000000000000001",
        }
        return {"data": facts | ({"profile_id": page.id} if page else {})}


def _platform(question: Question, page: SimulatedPage) -> Platform:
    by_owner = "instagram" if question.owner == page.instagram_account_id else "messenger"
    asked = question.query.get("platform", by_owner).lower()
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
    node: Node = {"id": page.id}
    for field in fields:
        if field.name not in known:
            raise UnknownField(field.name)
        if (value := known[field.name]) is not None:
            node[field.name] = pruned(value, field.fields)
    return node
