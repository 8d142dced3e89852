"""What the source asks of the API, how it learns our Instagram id, and how it keeps the pace."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from unittest.mock import Mock

import pytest
from aiohttp import ClientConnectionError, ClientResponse
from aioresponses import aioresponses
from yarl import URL

from kit.graph_answers import ACCOUNT, ACCOUNT_ID, PAGE_ID, TOKEN, error, instagram_person, listed, thread
from milepost.core.model import Contact, Platform, Stream
from milepost.core.ports import Fetched, Outcome, Refused, Request
from milepost.core.problems import ProblemKind
from milepost.sources.facebook.client import GraphClient
from milepost.sources.facebook.inbox import FacebookInbox, pace

BASE_URL = "https://graph.test"
EDGE_URL = URL(f"{BASE_URL}/v26.0/{PAGE_ID}/conversations")
PAGE_URL = URL(f"{BASE_URL}/v26.0/{PAGE_ID}").with_query(fields="instagram_business_account")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
THREAD_FIELDS = "id,updated_time,link,snippet,message_count,unread_count,can_reply,participants"


class Told(ClientResponse):
    """An answer made by aioresponses 0.7, which does not know what aiohttp 3.14 asks for."""

    def __init__(self, *positional: object, **named: object) -> None:
        super().__init__(*positional, stream_writer=Mock(), **named)  # type: ignore[arg-type] # passed on as they come


class Api:
    """The Graph API, made of answers that are given one after the other."""

    def __init__(self, mocked: aioresponses) -> None:
        self._mocked = mocked

    def tells(self, url: URL, payload: dict[str, object], status: int = 200) -> None:
        self._mocked.get(url, payload=payload, status=status, response_class=Told)

    def breaks_at(self, url: URL) -> None:
        self._mocked.get(url, exception=ClientConnectionError())

    @property
    def calls(self) -> list[str]:
        return [url.path for _, url in self._mocked.requests]


@pytest.fixture
def api() -> Iterator[Api]:
    with aioresponses() as mocked:
        yield Api(mocked)


@pytest.fixture
async def client() -> AsyncIterator[GraphClient]:
    async with GraphClient(BASE_URL, "v26.0", clock=lambda: NOW) as client:
        yield client


def messenger(client: GraphClient) -> FacebookInbox:
    return FacebookInbox(client, Stream(Platform.MESSENGER, PAGE_ID), TOKEN, limiter=None)


def instagram(client: GraphClient, account_id: str | None = None) -> FacebookInbox:
    return FacebookInbox(client, Stream(Platform.INSTAGRAM, PAGE_ID), TOKEN, None, account_id)


def edge(platform: str, fields: str, limit: int, **more: str) -> URL:
    return EDGE_URL.with_query({"platform": platform, "fields": fields, "limit": str(limit), **more})


def contact_of(outcome: Outcome) -> Contact | None:
    assert isinstance(outcome, Fetched), outcome
    return outcome.batch.conversations[0].contact


class TestRequest:
    async def test_messenger_is_asked_for_conversations_and_messages(self, api: Api, client: GraphClient) -> None:
        nested = "messages.limit(20){id,created_time,from,message,sticker,attachments,shares}"
        api.tells(edge("messenger", f"{THREAD_FIELDS},{nested}", 50), listed(thread()))
        outcome = await messenger(client).fetch(Request(None, 50, 20))
        assert contact_of(outcome) == Contact("26508222372100001", "Nora Villaseñor")

    async def test_instagram_is_asked_for_stories_too(self, api: Api, client: GraphClient) -> None:
        nested = "messages.limit(5){id,created_time,from,message,attachments,shares,story,is_unsupported}"
        people = {"data": [ACCOUNT, instagram_person()]}
        api.tells(edge("instagram", f"{THREAD_FIELDS},{nested}", 50), listed(thread(participants=people)))
        outcome = await instagram(client, ACCOUNT_ID).fetch(Request(None, 50, 5))
        assert contact_of(outcome) == Contact("6543210987654321", None, "nora.v")

    async def test_no_messages_are_asked_for_where_none_are_wanted(self, api: Api, client: GraphClient) -> None:
        api.tells(edge("messenger", THREAD_FIELDS, 1), listed(thread()))
        assert isinstance(await messenger(client).fetch(Request(None, 1, 0)), Fetched)

    @pytest.mark.parametrize("cursor", ["QVFIUlNEN1BWay1jWVVfN05", "a+b/c==&limit=1 %41 ☃"])
    async def test_a_cursor_is_sent_as_it_came(self, cursor: str, api: Api, client: GraphClient) -> None:
        api.tells(edge("messenger", THREAD_FIELDS, 1, after=cursor), listed(thread()))
        assert isinstance(await messenger(client).fetch(Request(cursor, 1, 0)), Fetched)

    async def test_an_error_of_the_api_is_refused_with_its_numbers(self, api: Api, client: GraphClient) -> None:
        api.tells(edge("messenger", THREAD_FIELDS, 1), error(190, error_subcode=463), status=400)
        outcome = await messenger(client).fetch(Request(None, 1, 0))
        assert isinstance(outcome, Refused)
        assert (outcome.problem.code, outcome.problem.subcode, outcome.problem.http_status) == (190, 463, 400)

    async def test_a_batch_with_an_error_status_is_no_batch(self, api: Api, client: GraphClient) -> None:
        api.tells(edge("messenger", THREAD_FIELDS, 1), listed(thread()), status=500)
        outcome = await messenger(client).fetch(Request(None, 1, 0))
        assert isinstance(outcome, Refused)
        assert (outcome.problem.kind, outcome.problem.http_status) == (ProblemKind.NONSENSE, 500)

    async def test_nothing_secret_is_in_a_repr(self, client: GraphClient) -> None:
        assert TOKEN not in repr(messenger(client))


class TestInstagramAccount:
    EDGE = edge("instagram", THREAD_FIELDS, 1)
    THREAD = thread(participants={"data": [ACCOUNT, instagram_person()]})

    async def test_it_is_asked_for_once(self, api: Api, client: GraphClient) -> None:
        api.tells(PAGE_URL, {"instagram_business_account": {"id": ACCOUNT_ID}, "id": PAGE_ID})
        api.tells(self.EDGE, listed(self.THREAD))
        api.tells(self.EDGE, listed(self.THREAD))
        inbox = instagram(client)
        for _ in range(2):
            assert contact_of(await inbox.fetch(Request(None, 1, 0))) == Contact("6543210987654321", None, "nora.v")

    async def test_it_is_not_asked_for_where_it_is_given(self, api: Api, client: GraphClient) -> None:
        api.tells(self.EDGE, listed(self.THREAD))
        await instagram(client, ACCOUNT_ID).fetch(Request(None, 1, 0))
        assert api.calls == [EDGE_URL.path]

    async def test_a_refusal_is_told_and_the_next_fetch_asks_again(self, api: Api, client: GraphClient) -> None:
        api.tells(PAGE_URL, error(4, "(#4) Application request limit reached"), status=403)
        api.breaks_at(PAGE_URL)
        api.tells(PAGE_URL, {"instagram_business_account": {"id": ACCOUNT_ID}, "id": PAGE_ID})
        api.tells(self.EDGE, listed(self.THREAD))
        inbox = instagram(client)
        limited, broken, read = [await inbox.fetch(Request(None, 1, 0)) for _ in range(3)]
        assert isinstance(limited, Refused)
        assert limited.problem.code == 4
        assert isinstance(broken, Refused)
        assert broken.problem.kind is ProblemKind.NETWORK
        assert isinstance(read, Fetched)

    async def test_a_page_without_one_says_what_to_do(self, api: Api, client: GraphClient) -> None:
        api.tells(PAGE_URL, {"id": PAGE_ID})
        outcome = await instagram(client).fetch(Request(None, 1, 0))
        assert isinstance(outcome, Refused)
        assert (outcome.problem.kind, outcome.problem.code) == (ProblemKind.MISCONFIGURED, None)
        assert "instagram_account_id" in outcome.problem.message

    @pytest.mark.parametrize("payload", [{}, {"id": PAGE_ID, "instagram_business_account": "odd"}])
    async def test_an_odd_answer_is_nonsense(self, payload: dict[str, object], api: Api, client: GraphClient) -> None:
        api.tells(PAGE_URL, payload)
        outcome = await instagram(client).fetch(Request(None, 1, 0))
        assert isinstance(outcome, Refused)
        assert outcome.problem.kind is ProblemKind.NONSENSE


class TestPace:
    async def test_the_streams_of_a_page_share_it_and_every_call_counts(self, api: Api, client: GraphClient) -> None:
        limiter = pace(50)
        assert limiter is not None
        one = FacebookInbox(client, Stream(Platform.MESSENGER, PAGE_ID), TOKEN, limiter)
        other = FacebookInbox(client, Stream(Platform.INSTAGRAM, PAGE_ID), TOKEN, limiter)
        api.tells(PAGE_URL, {"instagram_business_account": {"id": ACCOUNT_ID}, "id": PAGE_ID})
        for _ in range(2):
            api.tells(edge("messenger", THREAD_FIELDS, 1), listed(thread()))
            api.tells(edge("instagram", THREAD_FIELDS, 1), listed(thread()))
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(inbox.fetch(Request(None, 1, 0)) for inbox in (one, other, one, other)))
        assert loop.time() - began >= 4 * 0.02 - 0.001  # five calls, so four spaces

    def test_a_rate_of_two_is_a_call_each_half_second_and_no_burst(self) -> None:
        limiter = pace(2)
        assert limiter is not None
        assert (limiter.max_rate, limiter.time_period) == (1, 0.5)

    def test_a_rate_of_none_is_no_pace(self) -> None:
        assert pace(0) is None
