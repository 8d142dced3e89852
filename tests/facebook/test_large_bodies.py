"""Large bodies: counted before they are decoded, decoded in a thread, and few in memory at a time."""

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from contracts.source_contract import RecordingGate
from kit.graph_answers import TOKEN
from kit.graph_client import access_of, client_of
from kit.loopback import Answering
from milepost.core.model import Platform, Stream
from milepost.core.ports import Refused, Request
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook import client as module
from milepost.facebook.client import (
    IN_THREAD_BYTES,
    LARGE_BYTES,
    MAX_LARGE_BODIES,
    MAX_THREADS,
    GraphResponse,
    Room,
    has_too_many_values,
)
from milepost.facebook.inbox import FacebookInbox
from milepost.facebook.pages import fetch_managed_pages, inspect_token

LARGE, SMALL = b" " * IN_THREAD_BYTES, b"{}"


def values_of(value: object) -> int:
    match value:
        case list():
            return 1 + sum(map(values_of, value))
        case dict():
            return 1 + sum(map(values_of, value.values()))
        case _:
            return 1


def answering(body: bytes, other: bytes = SMALL) -> Answering:
    """Answer with a body; at the path `1` with another."""

    async def respond(request: web.Request) -> web.Response:
        return web.Response(body=other if request.path.endswith("/1") else body)

    return respond


class TestCounting:
    """The limit is a small one here; TestInAThread has bodies beyond the true one."""

    MOST = 1_000

    @pytest.fixture(autouse=True)
    def small_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_VALUES", self.MOST)

    @pytest.mark.parametrize("item", [b"{}", b"1", b"[]", b'""', b'{"id":"t_1"}', b'","', b'"\\",\\""', b'"[{,"'])
    def test_each_item_counts_once_or_twice(self, item: bytes) -> None:
        assert has_too_many_values(b"[" + b",".join([item] * (self.MOST + 1)) + b"]")
        assert not has_too_many_values(b"[" + b",".join([item] * (self.MOST // 2 - 1)) + b"]")

    @pytest.mark.parametrize("character", [b",", b"[", b"{", b'\\",', b"\\\\,", "é,".encode()])
    def test_a_text_is_one_value_whatever_it_says(self, character: bytes) -> None:
        assert not has_too_many_values(b'{"data":[{"snippet":"' + character * 1_000_000 + b'"}]}')

    @pytest.mark.parametrize("opening", [b"[", b'{"data":', b"{"])
    def test_nesting_counts_as_well(self, opening: bytes) -> None:
        assert has_too_many_values(opening * (2 * self.MOST + 1))

    @pytest.mark.parametrize("character", [b",", b'\\",'])
    def test_a_text_that_never_ends_is_not_trusted(self, character: bytes) -> None:
        assert has_too_many_values(b'{"data":"' + character * 1_000_001)


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_no_body_has_more_values_than_are_counted(value: object) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "MAX_VALUES", values_of(value) - 2)
        assert values_of(value) < 2 or has_too_many_values(json.dumps(value).encode())


class TestInAThread:
    async def test_while_a_large_body_is_decoded_other_calls_go_on(self) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def decode(response: GraphResponse) -> str:
            begun.set()
            go_on.wait()
            return threading.current_thread().name

        async with client_of(answering(LARGE, SMALL)) as client:
            large = asyncio.ensure_future(client.call("0", {}, TOKEN, decode))
            await asyncio.to_thread(begun.wait)
            small = await client.get("1", {}, TOKEN)
            assert not large.done()
            go_on.set()
            assert (await large).startswith("decoding")  # type: ignore[union-attr]  # what it answers was no problem
        assert isinstance(small, GraphResponse)

    async def test_a_small_body_is_decoded_where_it_is_read(self) -> None:
        async with client_of(answering(SMALL)) as client:
            name = await client.call("0", {}, TOKEN, lambda _: threading.current_thread().name)
        assert name == threading.current_thread().name

    async def test_calls_that_were_cancelled_keep_their_threads_and_the_next_one_waits(self) -> None:
        begun, go_on, order = threading.Semaphore(0), threading.Event(), list[str]()

        def slow(response: GraphResponse) -> None:
            begun.release()
            go_on.wait()
            order.append("cancelled")

        async with client_of(answering(LARGE)) as client:
            cancelled = [asyncio.ensure_future(client.call("0", {}, TOKEN, slow)) for _ in range(MAX_THREADS)]
            for _ in cancelled:
                await asyncio.to_thread(begun.acquire)
            for call in cancelled:
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            following = asyncio.ensure_future(client.call("0", {}, TOKEN, lambda _: order.append("next")))
            go_on.set()
            await following
        assert "cancelled" in order[: order.index("next")]

    @pytest.mark.parametrize("item", [b"{}", b"1", b'{"id":"1"}'])
    async def test_millions_of_values_are_oversize_and_are_not_decoded(self, item: bytes) -> None:
        def decode(response: GraphResponse) -> None:
            raise AssertionError("it was decoded")

        async with client_of(answering(b'{"data":[' + b",".join([item] * 2_000_000) + b"]}")) as client:
            outcome = await client.call("0", {}, TOKEN, decode)
        assert isinstance(outcome, Refused)
        assert (outcome.problem.kind, outcome.problem.http_status) == (ProblemKind.OVERSIZE, 200)
        assert "more than 500,000 values" in outcome.problem.message

    async def test_a_large_body_loses_its_token_as_well(self) -> None:
        async with client_of(answering(LARGE + TOKEN.encode())) as client:
            response = await client.get("0", {}, TOKEN)
        assert isinstance(response, GraphResponse)
        assert TOKEN.encode() not in response.body


class TestRoom:
    @pytest.fixture
    def room(self) -> Callable[[], Room]:
        return partial(Room, asyncio.Semaphore(MAX_LARGE_BODIES), ThreadPoolExecutor())

    async def test_a_large_body_waits_for_room_and_its_deadline_with_it(self, room: Callable[[], Room]) -> None:
        async def take(leave: asyncio.Event) -> None:
            with room() as taken:
                async with asyncio.timeout(60) as deadline:
                    await taken.grow(LARGE_BYTES + 1, deadline)
                    await taken.grow(LARGE_BYTES + 2, deadline)  # which it has room for
                    await leave.wait()

        leave = asyncio.Event()
        holders = [asyncio.ensure_future(take(leave)) for _ in range(MAX_LARGE_BODIES)]
        await asyncio.sleep(0)
        async with asyncio.timeout(60) as deadline:
            waiting = asyncio.ensure_future(room().grow(LARGE_BYTES + 1, deadline))
            await asyncio.sleep(0)
            assert not waiting.done()
            assert deadline.when() is None, "the wait counts"
            leave.set()
            await waiting
            assert deadline.when() is not None
        await asyncio.gather(*holders)

    async def test_small_bodies_wait_for_nobody(self, room: Callable[[], Room]) -> None:
        async with asyncio.timeout(60) as deadline:
            for _ in range(MAX_LARGE_BODIES):
                await room().grow(LARGE_BYTES + 1, deadline)
            await room().grow(LARGE_BYTES, deadline)


MILLIONS = b'{"data":[' + b",".join([b"{}"] * 2_000_000) + b"]}"
MANY = b'{"data":[' + b",".join([b"{}"] * 700) + b"]}"


class TestEveryCall:
    """Whatever is asked: an answer with far too much is oversize."""

    @pytest.mark.parametrize("body", [MILLIONS, MANY], ids=["millions", "700"])
    async def test_managed_pages(self, body: bytes) -> None:
        async with client_of(answering(body)) as client:
            found = await fetch_managed_pages(client, access_of(), RecordingGate())
        assert isinstance(found, Problem)
        assert found.kind is ProblemKind.OVERSIZE

    async def test_a_tokens_health(self) -> None:
        async with client_of(answering(MILLIONS)) as client:
            found = await inspect_token(client, access_of(), RecordingGate())
        assert isinstance(found, Problem)
        assert found.kind is ProblemKind.OVERSIZE

    @pytest.mark.parametrize("platform", Platform)
    async def test_a_list_a_thread_and_the_account(self, platform: Platform) -> None:
        async with client_of(answering(MILLIONS)) as client:
            inbox = FacebookInbox(client, Stream(platform, "7"), access_of(), RecordingGate())
            for outcome in (await inbox.fetch(Request(None, 1, 1)), await inbox.reread("t_1", 20)):
                assert isinstance(outcome, Refused)
                assert outcome.problem.kind is ProblemKind.OVERSIZE
