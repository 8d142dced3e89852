"""The requests of the source, how it finds our Instagram id, and which token it uses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from unittest.mock import Mock
from urllib.parse import unquote

import pytest
from aiohttp import ClientConnectionError, ClientResponse, web
from aioresponses import aioresponses
from msgspec.structs import replace
from yarl import URL

from contracts.source_contract import RecordingGate
from kit.graph_answers import (
    ACCOUNT,
    ACCOUNT_ID,
    PAGE_ID,
    TOKEN,
    Json,
    error,
    instagram_person,
    listed,
    message,
    person,
    thread,
)
from kit.graph_client import access_of, client_of
from milepost.core.model import Batch, Contact, Detail, Platform, Profile, Stream
from milepost.core.ports import Answered, Fetched, Held, MessagesFetched, MessagesRequest, Refused, Request, Usage
from milepost.core.problems import Problem, ProblemKind, Scope
from milepost.facebook.calls import Access, Budget, RateLimiter
from milepost.facebook.client import GraphClient
from milepost.facebook.inbox import FacebookInbox, with_messages

BASE_URL = "https://graph.test"
EDGE_URL = URL(f"/v26.0/{PAGE_ID}/conversations")
PAGE_URL = URL(f"/v26.0/{PAGE_ID}").with_query(fields="instagram_business_account")
THREAD_FIELDS = "id,updated_time,link,snippet,message_count,unread_count,can_reply,participants"


class SimpleResponse(ClientResponse):
    """A response made by aioresponses 0.7, which lacks what aiohttp 3.14 requires."""

    def __init__(self, *positional: object, **named: object) -> None:
        super().__init__(*positional, stream_writer=Mock(), **named)  # type: ignore[arg-type] # passed on as they come


class Api:
    """The Graph API as a series of prepared responses."""

    def __init__(self, mocked: aioresponses) -> None:
        self._mocked = mocked

    def tells(self, url: URL, payload: Json | None, status: int = 200) -> None:
        """Prepare the response to one request; without a payload, the connection breaks."""
        failure = ClientConnectionError() if payload is None else None
        whole = URL(BASE_URL).join(url)
        self._mocked.get(whole, payload=payload, status=status, exception=failure, response_class=SimpleResponse)

    @property
    def calls(self) -> list[str]:
        return [url.path for _, url in self._mocked.requests]


@pytest.fixture
def api() -> Iterator[Api]:
    with aioresponses() as mocked:
        yield Api(mocked)


@pytest.fixture
async def client() -> AsyncIterator[GraphClient]:
    async with GraphClient(BASE_URL, "v26.0", clock=lambda: datetime.now(UTC)) as client:
        yield client


def messenger(
    client: GraphClient,
    access: Access | None = None,
    gate: RecordingGate | None = None,
    rate_limiter: RateLimiter | None = None,
) -> FacebookInbox:
    access = access or access_of(rate_limiter=rate_limiter)
    return FacebookInbox(client, Stream(Platform.MESSENGER, PAGE_ID), access, gate or RecordingGate())


def instagram(client: GraphClient, account_id: str | None = None, gate: RecordingGate | None = None) -> FacebookInbox:
    stream = Stream(Platform.INSTAGRAM, PAGE_ID)
    return FacebookInbox(client, stream, access_of(), gate or RecordingGate(), account_id)


def edge(platform: str, fields: str, limit: int, **more: str) -> URL:
    return EDGE_URL.with_query({"platform": platform, "fields": fields, "limit": str(limit), **more})


def contact_of(outcome: Answered) -> Contact | None:
    assert isinstance(outcome, Fetched), outcome
    return outcome.batch.conversations[0].contact


class TestTokensOfOurs:
    """People paste what they should not; whoever reads the tables must not find a token."""

    OTHER = "EAAGm0PX4ZCpsBAKZCofanotherpage9876543210"
    APP_SECRET = "0123456789abcdef0123456789abcdef"

    async def test_none_is_kept_in_a_text(self) -> None:
        told = f"mine: {TOKEN}, theirs: {self.OTHER}, the app's: {self.APP_SECRET}"
        item = thread("t_1", message(message=told), snippet=self.OTHER, participants={"data": [person(name=told)]})

        async def respond(request: web.Request) -> web.Response:
            return web.json_response(listed(item) if request.path.endswith("/conversations") else item)

        async with client_of(respond) as client:
            client.rotate_app_secret(self.APP_SECRET)
            client.known_tokens.learn(self.OTHER)
            inbox = messenger(client)
            answers = [
                await inbox.fetch(Request(None, 2, 2)),
                await inbox.fetch(Request(None, 2, 2, detail=Detail.SEPARATE)),
                await inbox.reread("t_1", 2),
            ]

        for answer in answers:
            (read,) = fetched(answer).conversations
            safe = "mine: [redacted], theirs: [redacted], the app's: [redacted]"
            assert (read.snippet, read.interactions[0].text) == ("[redacted]", safe)
            assert read.contact is not None
            assert read.contact.name == safe


class TestRequest:
    MESSENGER = f"{THREAD_FIELDS},messages.limit(20){{id,created_time,from,message,sticker,attachments,shares}}"
    INSTAGRAM = (
        f"{THREAD_FIELDS},messages.limit(5){{id,created_time,from,message,attachments,shares,story,is_unsupported}}"
    )
    LEAN = "id,updated_time,participants,messages.limit(5){id,created_time,from,message}"

    @pytest.mark.parametrize(
        ("platform", "detail", "messages", "fields"),
        [
            ("messenger", Detail.NESTED, 20, MESSENGER),
            ("instagram", Detail.NESTED, 5, INSTAGRAM),
            ("messenger", Detail.NESTED, 0, THREAD_FIELDS),
            ("messenger", Detail.LEAN, 20, LEAN),
            ("messenger", Detail.BARE, 20, THREAD_FIELDS),
            ("messenger", Detail.POSITION, 20, "id,updated_time"),
        ],
    )
    async def test_a_request_has_the_fields_of_its_platform_and_detail(
        self, platform: str, detail: Detail, messages: int, fields: str, api: Api, client: GraphClient
    ) -> None:
        api.tells(edge(platform, fields, 50), listed(thread()))
        inbox = messenger(client) if platform == "messenger" else instagram(client, ACCOUNT_ID)
        assert isinstance(await inbox.fetch(Request(None, 50, messages, detail=detail)), Fetched)

    @pytest.mark.parametrize("cursor", ["QVFIUlNEN1BWay1jWVVfN05", "a+b/c==&limit=1 %41 ☃"])
    async def test_a_cursor_is_sent_unchanged(self, cursor: str, api: Api, client: GraphClient) -> None:
        api.tells(edge("messenger", THREAD_FIELDS, 1, after=cursor), listed(thread()))
        assert isinstance(await messenger(client).fetch(Request(cursor, 1, 0)), Fetched)

    async def test_a_cursor_that_is_a_query_is_sent_as_one(self, api: Api, client: GraphClient) -> None:
        place = {"until": "1476721922", "__paging_token": "enc_Ad="}
        api.tells(edge("messenger", THREAD_FIELDS, 5, **place), listed())
        cursor = "?until=1476721922&__paging_token=enc_Ad%3D"
        assert isinstance(await messenger(client).fetch(Request(cursor, 5, 0)), Fetched)

    async def test_an_api_error_is_refused_with_its_numbers(self, api: Api, client: GraphClient) -> None:
        api.tells(edge("messenger", THREAD_FIELDS, 1), error(190, error_subcode=463), status=400)
        outcome = await messenger(client).fetch(Request(None, 1, 0))
        assert isinstance(outcome, Refused)
        assert (outcome.problem.code, outcome.problem.subcode, outcome.problem.http_status) == (190, 463, 400)

    async def test_a_batch_with_an_error_status_is_refused(self, api: Api, client: GraphClient) -> None:
        api.tells(edge("messenger", THREAD_FIELDS, 1), listed(thread()), status=500)
        outcome = await messenger(client).fetch(Request(None, 1, 0))
        assert isinstance(outcome, Refused)
        assert (outcome.problem.kind, outcome.problem.http_status) == (ProblemKind.INVALID_RESPONSE, 500)

    async def test_nothing_secret_is_in_a_repr(self, client: GraphClient) -> None:
        assert TOKEN not in repr(messenger(client))


class TestHead:
    async def test_a_head_that_comes_again_and_again_is_the_same_batch(self, api: Api, client: GraphClient) -> None:
        inbox, fields = messenger(client), with_messages(THREAD_FIELDS, Platform.MESSENGER, 2)
        for _ in range(5):
            api.tells(edge("messenger", fields, 1), listed(thread("t_1", message("m_1"))))
        heads = [fetched(await inbox.fetch(Request(None, 1, 2))) for _ in range(5)]
        assert heads == [heads[0]] * 5
        assert heads[-1].conversations is heads[2].conversations, "it was decoded again"

    async def test_a_later_batch_is_not_taken_for_the_head(self, api: Api, client: GraphClient) -> None:
        inbox = messenger(client)
        for _ in range(3):
            api.tells(edge("messenger", THREAD_FIELDS, 1), listed(thread("t_1")))
            api.tells(edge("messenger", THREAD_FIELDS, 1, after="second"), listed(thread("t_2")))
        read = [fetched(await inbox.fetch(Request(cursor, 1, 0))) for _ in range(3) for cursor in (None, "second")]
        assert [each.conversations[0].conversation_id for each in read] == ["t_1", "t_2"] * 3


class TestInstagramAccount:
    EDGE = edge("instagram", THREAD_FIELDS, 1)
    THREAD = thread(participants={"data": [ACCOUNT, instagram_person()]})

    async def test_the_account_is_fetched_once(self, api: Api, client: GraphClient) -> None:
        api.tells(PAGE_URL, {"instagram_business_account": {"id": ACCOUNT_ID}, "id": PAGE_ID})
        api.tells(self.EDGE, listed(self.THREAD))
        api.tells(self.EDGE, listed(self.THREAD))
        inbox = instagram(client)
        for _ in range(2):
            assert contact_of(await inbox.fetch(Request(None, 1, 0))) == Contact("6543210987654321", None, "nora.v")

    @pytest.mark.parametrize("account", [{"id": int(ACCOUNT_ID)}, int(ACCOUNT_ID), ACCOUNT_ID])
    async def test_ids_may_be_numbers_and_stand_alone(self, account: object, api: Api, client: GraphClient) -> None:
        api.tells(PAGE_URL, {"instagram_business_account": account, "id": int(PAGE_ID)})
        api.tells(self.EDGE, listed(self.THREAD))

        read = await instagram(client).fetch(Request(None, 1, 0))

        assert contact_of(read) == Contact("6543210987654321", None, "nora.v")

    async def test_a_configured_account_is_not_fetched(self, api: Api, client: GraphClient) -> None:
        api.tells(self.EDGE, listed(self.THREAD))
        await instagram(client, ACCOUNT_ID).fetch(Request(None, 1, 0))
        assert api.calls == [EDGE_URL.path]

    async def test_a_refusal_is_returned_and_the_next_fetch_tries_again(self, api: Api, client: GraphClient) -> None:
        api.tells(PAGE_URL, error(4, "(#4) Application request limit reached"), status=403)
        api.tells(PAGE_URL, None)
        api.tells(PAGE_URL, {"instagram_business_account": {"id": ACCOUNT_ID}, "id": PAGE_ID})
        api.tells(self.EDGE, listed(self.THREAD))
        inbox = instagram(client)
        limited, broken, read = [await inbox.fetch(Request(None, 1, 0)) for _ in range(3)]
        assert isinstance(limited, Refused)
        assert limited.problem.code == 4
        assert isinstance(broken, Refused)
        assert broken.problem.kind is ProblemKind.NETWORK
        assert isinstance(read, Fetched)

    async def test_a_page_without_an_account_is_refused_with_a_remedy(self, api: Api, client: GraphClient) -> None:
        api.tells(PAGE_URL, {"id": PAGE_ID})
        outcome = await instagram(client).fetch(Request(None, 1, 0))
        assert isinstance(outcome, Refused)
        assert (outcome.problem.kind, outcome.problem.code) == (ProblemKind.MISCONFIGURED, None)
        assert "instagram_account_id" in outcome.problem.message

    @pytest.mark.parametrize("payload", [{}, {"id": PAGE_ID, "instagram_business_account": "odd"}])
    async def test_an_unexpected_response_is_invalid(
        self, payload: dict[str, object], api: Api, client: GraphClient
    ) -> None:
        api.tells(PAGE_URL, payload)
        outcome = await instagram(client).fetch(Request(None, 1, 0))
        assert isinstance(outcome, Refused)
        assert outcome.problem.kind is ProblemKind.INVALID_RESPONSE

    async def test_a_closed_gate_forbids_fetching_the_account(self, api: Api, client: GraphClient) -> None:
        assert await instagram(client, gate=RecordingGate(closed=True)).fetch(Request(None, 1, 0)) == Held()
        assert api.calls == []


class TestWhatThePageIsCalled:
    """A row of `pages` shows it beside what people write."""

    @staticmethod
    async def read(client: GraphClient, platform: Platform, name: str = "") -> Profile | None:
        inbox = FacebookInbox(client, Stream(platform, PAGE_ID), access_of(), RecordingGate(), ACCOUNT_ID, name)
        return fetched(await inbox.fetch(Request(None, 1, 0))).page

    async def test_a_page_is_called_as_people_call_it(self, api: Api, client: GraphClient) -> None:
        api.tells(edge("messenger", THREAD_FIELDS, 1), listed(thread()))
        assert await self.read(client, Platform.MESSENGER, "The Bakery") == Profile("The Bakery")

    async def test_a_page_without_a_name_is_called_as_in_its_threads(self, api: Api, client: GraphClient) -> None:
        api.tells(edge("messenger", THREAD_FIELDS, 1), listed(thread()))
        assert await self.read(client, Platform.MESSENGER) == Profile("Corner Bakery")

    async def test_an_instagram_account_has_its_user_name_too(self, api: Api, client: GraphClient) -> None:
        participants = {"data": [instagram_person(), ACCOUNT]}
        api.tells(edge("instagram", THREAD_FIELDS, 1), listed(thread(participants=participants)))
        assert await self.read(client, Platform.INSTAGRAM, "The Bakery") == Profile("The Bakery", "corner.bakery")

    async def test_an_empty_inbox_says_what_is_configured(self, api: Api, client: GraphClient) -> None:
        for _ in range(2):
            api.tells(edge("messenger", THREAD_FIELDS, 1), listed())
        assert await self.read(client, Platform.MESSENGER) == Profile()
        assert await self.read(client, Platform.MESSENGER, "The Bakery") == Profile("The Bakery")

    async def test_threads_without_us_say_nothing_more(self, api: Api, client: GraphClient) -> None:
        inbox = messenger(client)
        for participants in ({"data": [person(PAGE_ID, "Corner Bakery"), person()]}, {"data": [person()]}, None):
            api.tells(edge("messenger", THREAD_FIELDS, 1), listed(thread(participants=participants)))
        told = [fetched(await inbox.fetch(Request(None, 1, 0))).page for _ in range(3)]
        assert told == [Profile("Corner Bakery")] * 3

    async def test_a_name_that_no_database_takes_is_mended(self, api: Api, client: GraphClient) -> None:
        odd = {"data": [person(PAGE_ID, "Corner\0Bakery \ud83d"), person()]}
        for _ in range(2):
            api.tells(edge("messenger", THREAD_FIELDS, 1), listed(thread(participants=odd)))
        assert await self.read(client, Platform.MESSENGER) == Profile("Corner\ufffdBakery \ufffd")
        assert await self.read(client, Platform.MESSENGER, "a\0b") == Profile("a\ufffdb")


class Threads:
    """A small list edge and its threads, distinguished by the end of the path; records the requests.

    A request for a thread that is among the `answers` gets that one.
    """

    def __init__(self, *nodes: Json) -> None:
        self.nodes = {str(node["id"]): node for node in nodes}
        self.answers: dict[str, Json] = {}
        self.refused: dict[str, Json] = {}
        self.headers: dict[str, str] = {}
        self.requested: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def respond(self, request: web.Request) -> web.Response:
        if self.meanwhile is not None:
            await self.meanwhile()
        self.requested.append((request.rel_url.raw_path, request.query["fields"]))
        self.tokens.append(request.headers["Authorization"].removeprefix("Bearer "))
        node_id = request.path.removeprefix("/v26.0/")
        if node_id in self.refused:
            return web.json_response(self.refused[node_id], status=400, headers=self.headers)
        if node_id in self.nodes | self.answers:
            return web.json_response((self.nodes | self.answers)[node_id], headers=self.headers)
        bare = [{name: value for name, value in node.items() if name != "messages"} for node in self.nodes.values()]
        return web.json_response(listed(*bare), headers=self.headers)


@asynccontextmanager
async def inbox_of(
    threads: Threads,
    access: Access | None = None,
    gate: RecordingGate | None = None,
    rate_limiter: RateLimiter | None = None,
) -> AsyncIterator[FacebookInbox]:
    async with client_of(threads.respond) as client:
        yield messenger(client, access, gate, rate_limiter)


def fetched(outcome: Answered) -> Batch:
    assert isinstance(outcome, Fetched), outcome
    return outcome.batch


def refused(outcome: Answered) -> Problem:
    assert isinstance(outcome, Refused), outcome
    return outcome.problem


SEPARATE = Request(None, 2, 2, detail=Detail.SEPARATE)
ODD_IDS = ["aWdfZG06MTpJR0/VzYWdlVGhyZWFk+jE3ODQxNA==", "a?b#c", "../me", "//graph.test/x", "%2e%2e", "a b", "☃"]


class TestSeparateMessages:
    async def test_the_messages_of_each_thread_are_fetched(self) -> None:
        threads = Threads(thread("t_1", message("m_1")), thread("t_2", message("m_2")))
        async with inbox_of(threads) as inbox:
            batch = fetched(await inbox.fetch(SEPARATE))
        nested = "id,updated_time,messages.limit(2){id,created_time,from,message,sticker,attachments,shares}"
        assert threads.requested == [
            (EDGE_URL.path, THREAD_FIELDS),
            ("/v26.0/t_1", nested),
            ("/v26.0/t_2", nested),
        ]
        assert [event.event_id for each in batch.conversations for event in each.interactions] == ["m_1", "m_2"]

    async def test_messages_that_cannot_be_read_are_unreadable(self) -> None:
        threads = Threads(thread("t_1", message("m_1"), {"id": "m_bad"}), thread("t_2"))
        async with inbox_of(threads) as inbox:
            batch = fetched(await inbox.fetch(SEPARATE))
        assert [event.event_id for event in batch.conversations[0].interactions] == ["m_1"]
        assert [each.subject for each in batch.unreadable] == ["t_1/messages"]

    async def test_our_own_messages_go_to_the_contact_that_the_list_named(self) -> None:
        threads = Threads(thread("t_1", message("m_1", ACCOUNT | {"id": PAGE_ID})))
        async with inbox_of(threads) as inbox:
            batch = fetched(await inbox.fetch(SEPARATE))
        assert batch.conversations[0].interactions[0].contact_id == "26508222372100001"

    async def test_a_thread_that_disappears_meanwhile_has_no_messages(self) -> None:
        threads = Threads(thread("t_1", message("m_1")), thread("t_2", message("m_2")))
        threads.refused["t_1"] = error(100, error_subcode=33)
        async with inbox_of(threads) as inbox:
            batch = fetched(await inbox.fetch(SEPARATE))
        assert [len(each.interactions) for each in batch.conversations] == [0, 1]

    async def test_the_messages_of_another_thread_are_not_taken_for_its_own(self) -> None:
        threads = Threads(thread("t_1", message("m_1")), thread("t_2", message("m_2")))
        threads.answers["t_1"] = threads.nodes["t_2"]
        async with inbox_of(threads) as inbox:
            problem = refused(await inbox.fetch(SEPARATE))
        assert problem.kind is ProblemKind.INVALID_RESPONSE

    async def test_a_refusal_on_the_way_is_the_outcome(self) -> None:
        gate = RecordingGate()
        threads = Threads(thread("t_1", message("m_1")), thread("t_2", message("m_2")), thread("t_3"))
        threads.refused["t_2"] = error(1)
        async with inbox_of(threads, gate=gate) as inbox:
            problem = refused(await inbox.fetch(SEPARATE))
        assert problem.code == 1
        assert gate.refusals == [problem]
        assert len(threads.requested) == 3

    @pytest.mark.parametrize("calls", [0, 1, 2])
    async def test_a_gate_that_closes_on_the_way_ends_the_fetch(self, calls: int) -> None:
        threads = Threads(thread("t_1", message("m_1")), thread("t_2", message("m_2")))
        async with inbox_of(threads, gate=RecordingGate(calls_left=calls)) as inbox:
            assert await inbox.fetch(SEPARATE) == Held()
        assert len(threads.requested) == calls

    async def test_the_durations_of_all_calls_are_added_up(self) -> None:
        threads = Threads(thread("t_1", message("m_1")), thread("t_2", message("m_2")))
        threads.meanwhile = partial(asyncio.sleep, 0.02)
        async with inbox_of(threads) as inbox:
            outcome = await inbox.fetch(SEPARATE)
        assert isinstance(outcome, Fetched)
        assert outcome.took_seconds >= 0.06


class TestReread:
    @pytest.mark.parametrize("conversation_id", ODD_IDS)
    async def test_any_id_is_one_segment_of_the_path(self, conversation_id: str) -> None:
        threads = Threads(thread(conversation_id, message()))
        async with inbox_of(threads) as inbox:
            (read,) = fetched(await inbox.reread(conversation_id, 5)).conversations
        assert (read.conversation_id, len(read.interactions)) == (conversation_id, 1)
        (path, fields) = threads.requested[0]
        assert path.count("/") == 2
        assert unquote(path) == f"/v26.0/{conversation_id}"
        assert fields.startswith(f"{THREAD_FIELDS},messages.limit(5){{id,")

    @pytest.mark.parametrize("no_id", ["", ".", "..", "a\0b", "a\nb", "\ud800", "i" * 1000, "sha256:" + "0" * 64])
    async def test_a_text_that_cannot_be_an_id_is_not_requested(self, no_id: str) -> None:
        threads, gate = Threads(), RecordingGate()
        async with inbox_of(threads, gate=gate) as inbox:
            problem = refused(await inbox.reread(no_id, 5))
        assert problem.kind is ProblemKind.INVALID_RESPONSE
        assert (threads.requested, gate.refusals) == ([], [])

    async def test_messages_that_cannot_be_read_are_unreadable(self) -> None:
        async with inbox_of(Threads(thread("t_1", message("m_1"), {"id": "m_bad"}))) as inbox:
            batch = fetched(await inbox.reread("t_1", 5))
        assert [event.event_id for event in batch.conversations[0].interactions] == ["m_1"]
        assert [each.subject for each in batch.unreadable] == ["t_1/messages"]

    async def test_a_thread_that_cannot_be_read_is_unreadable(self) -> None:
        async with inbox_of(Threads(thread("t_1", updated_time="yesterday"))) as inbox:
            batch = fetched(await inbox.reread("t_1", 5))
        assert batch.conversations == ()
        assert [each.subject for each in batch.unreadable] == ["t_1"]

    async def test_a_thread_that_is_gone_is_refused(self) -> None:
        threads = Threads()
        threads.refused["t_1"] = error(100, error_subcode=33)
        async with inbox_of(threads) as inbox:
            problem = refused(await inbox.reread("t_1", 5))
        assert (problem.code, problem.subcode) == (100, 33)

    async def test_another_thread_is_refused(self) -> None:
        """Its dead letter would be closed, or a batch step over it, although it was not read."""
        threads = Threads()
        threads.answers["t_1"] = thread("t_2", message())
        async with inbox_of(threads) as inbox:
            problem = refused(await inbox.reread("t_1", 5))
        assert (problem.kind, problem.http_status) == (ProblemKind.INVALID_RESPONSE, 200)

    @pytest.mark.parametrize("node", [{"id": 7}, {"id": "t_1", "error": {"code": 2}}])
    async def test_an_object_that_is_not_a_thread_is_refused(self, node: Json) -> None:
        threads = Threads()
        threads.answers["t_1"] = node
        async with inbox_of(threads) as inbox:
            assert refused(await inbox.reread("t_1", 5)).http_status == 200

    async def test_no_messages_are_requested_if_none_are_wanted(self) -> None:
        threads = Threads(thread("t_1"))
        async with inbox_of(threads) as inbox:
            await inbox.reread("t_1", 0)
        assert threads.requested == [("/v26.0/t_1", THREAD_FIELDS)]


class TestMessagesOfAThread:
    EDGE = URL("/v26.0/t_1/messages").with_query(
        fields="id,created_time,from,message,sticker,attachments,shares", limit="2"
    )
    REQUEST = MessagesRequest("t_1", None, 2)

    async def test_they_come_page_by_page_with_those_that_have_only_an_id_by_themselves(
        self, api: Api, client: GraphClient
    ) -> None:
        bad = {"id": "m_3", "message": "Hello"}
        next_url = str(client.url("t_1/messages").with_query(after="c_2"))
        api.tells(self.EDGE, listed(message("m_1"), {"id": "m_2"}, bad, next_url=next_url, after="c_2"))
        api.tells(self.EDGE.update_query(after="c_2"), listed(message("m_4")))
        inbox = messenger(client)
        first, last = [await inbox.messages(replace(self.REQUEST, cursor=cursor)) for cursor in (None, "c_2")]
        assert isinstance(first, MessagesFetched)
        assert [each.event_id for each in first.page.interactions] == ["m_1"]
        assert (first.page.bare_ids, first.page.next_cursor, len(first.page.unreadable)) == (("m_2",), "c_2", 1)
        assert isinstance(last, MessagesFetched)
        assert ([each.event_id for each in last.page.interactions], last.page.next_cursor) == (["m_4"], None)

    @pytest.mark.parametrize(
        "payload", [{"data": [], "paging": {"next": "x"}}, {"data": [{}] * 900}, error(2)], ids=str
    )
    async def test_a_page_that_cannot_be_followed_is_refused(
        self, payload: Json, api: Api, client: GraphClient
    ) -> None:
        api.tells(self.EDGE, payload)
        assert isinstance(await messenger(client).messages(self.REQUEST), Refused)

    async def test_a_text_that_cannot_be_an_id_is_not_requested(self, api: Api, client: GraphClient) -> None:
        assert isinstance(await messenger(client).messages(MessagesRequest("a\nb", None, 2)), Refused)
        assert api.calls == []


class TestAccess:
    async def test_a_new_token_is_used_from_the_next_call_on(self) -> None:
        threads, access = Threads(thread("t_1")), access_of("token one")
        async with inbox_of(threads, access=access) as inbox:
            await inbox.fetch(Request(None, 1, 0))
            access.token = "token two"
            await inbox.fetch(Request(None, 1, 0))
        assert threads.tokens == ["token one", "token two"]

    async def test_a_suspended_page_is_refused_without_a_call(self) -> None:
        lost = Problem(ProblemKind.NOT_MANAGED, "the page is not managed any more")
        threads, access, gate = Threads(thread("t_1")), access_of(TOKEN, lost), RecordingGate()
        async with inbox_of(threads, access=access, gate=gate) as inbox:
            assert refused(await inbox.fetch(Request(None, 1, 0))) == lost
            assert refused(await inbox.reread("t_1", 0)) == lost
            assert (threads.requested, gate.refusals) == ([], [])
            access.problem = None
            assert fetched(await inbox.fetch(Request(None, 1, 0))).conversations

    async def test_the_token_in_use_is_redacted_even_after_a_rotation(self) -> None:
        threads, access = Threads(), access_of("s3cret-token-one")
        threads.refused[f"{PAGE_ID}/conversations"] = error(190, "bad token s3cret-token-one")

        async def rotate() -> None:
            access.token = "token two"

        threads.meanwhile = rotate
        async with inbox_of(threads, access=access) as inbox:
            assert "s3cret" not in refused(await inbox.fetch(Request(None, 1, 0))).message

    def test_nothing_secret_is_in_a_repr(self) -> None:
        assert TOKEN not in repr(access_of())


LIMITS = {
    "X-App-Usage": '{"call_count":28,"total_time":25,"total_cputime":25}',
    "X-Business-Use-Case-Usage": f'{{"{PAGE_ID}":[{{"type":"pages","call_count":100,"total_time":1}}'
    f',{{"type":"messenger","call_count":101,"estimated_time_to_regain_access":19}}]}}',
    "Retry-After": "60",
}


class ClosingGate(RecordingGate):
    """Closes at the first refusal."""

    def refused(self, problem: Problem) -> datetime:
        self.closed = True
        return super().refused(problem)


class TestLimits:
    @pytest.mark.parametrize("is_refused", [False, True])
    async def test_the_gate_gets_the_usage_of_every_response(self, is_refused: bool) -> None:
        threads, gate = Threads(thread("t_1")), RecordingGate()
        threads.headers = LIMITS
        if is_refused:
            threads.refused[f"{PAGE_ID}/conversations"] = error(80006)
        async with inbox_of(threads, gate=gate) as inbox:
            await inbox.fetch(Request(None, 1, 0))
        assert Usage(Scope.APP, "call_count", 0.28) in gate.usages
        assert Usage(Scope.PAGE, "call_count", 1.01) in gate.usages

    async def test_a_refusal_has_the_servers_wait(self) -> None:
        threads, gate = Threads(), RecordingGate()
        threads.headers = LIMITS
        threads.refused[f"{PAGE_ID}/conversations"] = error(80006)
        async with inbox_of(threads, gate=gate) as inbox:
            problem = refused(await inbox.fetch(Request(None, 1, 0)))
        assert problem.wait_seconds == 19 * 60
        assert gate.refusals == [problem]

    async def test_a_refusal_without_wait_headers_has_no_wait(self) -> None:
        threads = Threads()
        threads.refused[f"{PAGE_ID}/conversations"] = error(80006)
        async with inbox_of(threads) as inbox:
            assert refused(await inbox.fetch(Request(None, 1, 0))).wait_seconds is None

    async def test_a_call_that_waited_while_another_was_rate_limited_is_not_made(self) -> None:
        gate, threads = ClosingGate(), Threads()
        threads.refused[f"{PAGE_ID}/conversations"] = error(4)
        async with inbox_of(threads, gate=gate, rate_limiter=RateLimiter(5, Budget())) as inbox:
            outcomes = await asyncio.gather(*(inbox.fetch(Request(None, 1, 0)) for _ in range(4)))
        assert refused(outcomes[0]).code == 4
        assert outcomes[1:] == [Held()] * 3
        assert len(threads.requested) == 1

    async def test_the_rate_limiter_gets_the_usage(self) -> None:
        threads, app = Threads(thread("t_1")), Budget()
        threads.headers = {"X-App-Usage": '{"call_count":90}'}
        async with inbox_of(threads, rate_limiter=RateLimiter(0, app)) as inbox:
            await inbox.fetch(Request(None, 1, 0))
        assert app.slowdown_seconds(asyncio.get_running_loop().time()) > 0
