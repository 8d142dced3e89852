"""The simulated Graph API: what it answers, as a function of the world, the question and the time."""

import hashlib
import hmac
from datetime import timedelta
from itertools import islice

from milepost.sources.simulator import luck, refusals
from milepost.sources.simulator.conversations import conversation_node
from milepost.sources.simulator.faults import EmptyBatch, EqualCursors
from milepost.sources.simulator.fields import Field, pruned
from milepost.sources.simulator.inbox import Inbox
from milepost.sources.simulator.instants import instant_us
from milepost.sources.simulator.messages import Node, UnknownField
from milepost.sources.simulator.paging import Cursor, cursor_of, paging_node
from milepost.sources.simulator.plan import PLATFORMS, Platform, SimulatedPage
from milepost.sources.simulator.question import Question
from milepost.sources.simulator.world import World

_DEFAULT_PAGE_FIELDS = (Field("id"), Field("name"))
_DEFAULT_ACCOUNT_FIELDS = (Field("access_token"), Field("category"), Field("name"), Field("id"), Field("tasks"))


class GraphApi:
    """Answers questions about a world. With an `app_secret` it demands a valid `appsecret_proof`, as an app can."""

    def __init__(self, world: World, app_secret: str = "") -> None:
        self._world = world
        self._app_secret = app_secret
        self._page_of_token = {page.token: page for page in world.pages}
        self._page_of_id = {page.instagram_account_id: page for page in world.pages} | {
            page.id: page for page in world.pages
        }

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

    def page_of(self, question: Question) -> SimulatedPage | None:
        """The page that is meant by its id, its Instagram account's, or `me`."""
        if question.owner == "me":
            return self._page_of_token.get(question.token or "")
        return self._page_of_id.get(question.owner)

    def _answer(self, question: Question) -> Node:
        match question.owner, question.edge:
            case "debug_token", "":
                return self._token_facts(question)
            case "me", "accounts":
                return self._accounts(question)
            case _, "conversations":
                return _conversations(question, self._inbox(question))
            case _, "":
                return self._object(question)
            case _:
                raise refusals.object_missing(question.owner)

    def _authenticate(self, question: Question) -> None:
        token = question.token
        if not token:
            raise refusals.no_token()
        if token != self._world.user_token and token not in self._page_of_token:
            raise refusals.invalid_token()
        if not self._app_secret:
            return
        if (proof := question.query.get("appsecret_proof")) is None:
            raise refusals.proof_missing()
        expected = hmac.new(self._app_secret.encode(), token.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), proof.encode()):
            raise refusals.proof_wrong()

    def _inbox(self, question: Question) -> Inbox:
        page = self.page_of(question)
        if page is None:
            raise refusals.object_missing(question.owner)
        if page.token != question.token:
            raise refusals.page_token_required()
        inbox = self._world.inbox(page.id, _platform(question, page))
        if inbox is None:
            raise refusals.bad_parameter("This page has no conversations on this platform")
        return inbox

    def _object(self, question: Question) -> Node:
        page = self.page_of(question)
        if page is not None:
            return _page_node(page, question.fields or _DEFAULT_PAGE_FIELDS)
        thread = self._world.find(question.owner, question.at)
        if thread is None:
            raise refusals.object_missing(question.owner)
        if thread.page.token != question.token:
            raise refusals.page_token_required()
        return conversation_node(thread, question.fields, question.link)

    def _accounts(self, question: Question) -> Node:
        if question.token != self._world.user_token:
            raise refusals.bad_parameter("Tried accessing nonexisting field (accounts) on node type (Page)")
        text = luck.unsealed(question.query.get("after", luck.sealed("0"))) or ""
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise refusals.dead_cursor()
        start = int(text)
        shown = self._world.pages[start : start + question.limit]
        if not shown:
            return {"data": []}
        fields, end = question.fields or _DEFAULT_ACCOUNT_FIELDS, start + len(shown)
        before, after = luck.sealed(str(start)), luck.sealed(str(end))
        paging = paging_node(question, before=before, after=after, has_more=end < len(self._world.pages))
        return {"data": [_page_node(page, fields) for page in shown], "paging": paging}

    def _token_facts(self, question: Question) -> Node:
        token = question.query.get("input_token", "")
        page = self._page_of_token.get(token)
        if page is None and token != self._world.user_token:
            error = {"code": 190, "message": str(refusals.invalid_token())}
            return {"data": {"error": error, "is_valid": False, "scopes": []}}
        facts: Node = {
            "app_id": "1000000000000001",
            "type": "PAGE" if page else "USER",
            "application": "Simulated app",
            "data_access_expires_at": int((question.at + timedelta(days=60)).timestamp()),
            "expires_at": 0,
            "is_valid": True,
            "scopes": ["pages_show_list", "pages_messaging", "instagram_basic", "instagram_manage_messages"],
            "user_id": "10000000000000001",
        }
        return {"data": facts | ({"profile_id": page.id} if page else {})}


def _conversations(question: Question, inbox: Inbox) -> Node:
    cursor, limit, fields, link = cursor_of(question, inbox), question.limit, question.fields, question.link
    found = tuple(islice(inbox.threads(instant_us(question.at), cursor.position), limit + 1))
    if not found:
        return {"data": []}
    shown = () if isinstance(question.bend, EmptyBatch) else found[:limit]
    before = Cursor(inbox.salt, shown[0].position) if shown else cursor
    after = Cursor(inbox.salt, shown[-1].position) if shown else cursor.turned()
    paging = paging_node(
        question,
        before=(after if isinstance(question.bend, EqualCursors) else before).sealed(),
        after=after.sealed(),
        has_more=len(found) > len(shown),
    )
    return {"data": [conversation_node(thread, fields, link) for thread in shown], "paging": paging}


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
