"""Large bodies: counted before they are decoded, decoded in a thread, and few in memory at a time."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from kit.graph_answers import TOKEN
from kit.loopback import serving
from milepost.core.ports import Refused
from milepost.core.problems import ProblemKind
from milepost.facebook import large_bodies
from milepost.facebook.client import GraphClient, GraphResponse
from milepost.facebook.large_bodies import (
    IN_THREAD_BYTES,
    LARGE_BYTES,
    MAX_LARGE_BODIES,
    MAX_VALUES,
    LargeBodies,
    has_too_many_values,
)

LARGE, SMALL = b" " * IN_THREAD_BYTES, b"{}"


def values_of(value: object) -> int:
    match value:
        case list():
            return 1 + sum(map(values_of, value))
        case dict():
            return 1 + sum(map(values_of, value.values()))
        case _:
            return 1


@asynccontextmanager
async def client_of(*bodies: bytes) -> AsyncIterator[GraphClient]:
    """Yield a client of a server that has a body for each path: `0`, `1` and so on."""

    async def respond(request: web.Request) -> web.Response:
        return web.Response(body=bodies[int(request.path.rpartition("/")[2])])

    async with serving(respond) as base_url, GraphClient(base_url, "v26.0", clock=lambda: datetime.now(UTC)) as client:
        yield client


class TestCounting:
    @pytest.mark.parametrize("item", [b"{}", b"1", b"[]", b'""', b'{"id":"t_1"}', b'","', b'"\\",\\""', b'"[{,"'])
    def test_each_item_counts_once_or_twice(self, item: bytes) -> None:
        assert has_too_many_values(b"[" + b",".join([item] * (MAX_VALUES + 1)) + b"]")
        assert not has_too_many_values(b"[" + b",".join([item] * (MAX_VALUES // 2 - 1)) + b"]")

    @pytest.mark.parametrize("character", [b",", b"[", b"{", b'\\",', b"\\\\,", "é,".encode()])
    def test_a_text_is_one_value_whatever_it_says(self, character: bytes) -> None:
        assert not has_too_many_values(b'{"data":[{"snippet":"' + character * (2 * MAX_VALUES) + b'"}]}')

    @pytest.mark.parametrize("opening", [b"[", b'{"data":', b"{"])
    def test_nesting_counts_as_well(self, opening: bytes) -> None:
        assert has_too_many_values(opening * (MAX_VALUES + 1))

    def test_a_text_that_never_ends_is_not_trusted(self) -> None:
        assert has_too_many_values(b'{"data":"' + b"," * (MAX_VALUES + 1))

    @given(
        st.recursive(
            st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
        )
    )
    def test_no_body_has_more_values_than_are_counted(self, value: object) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(large_bodies, "MAX_VALUES", values_of(value) - 2)
            assert values_of(value) < 2 or has_too_many_values(json.dumps(value).encode())


class TestInAThread:
    async def test_while_a_large_body_is_decoded_other_calls_go_on(self) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def decode(response: GraphResponse) -> str:
            begun.set()
            go_on.wait()
            return threading.current_thread().name

        async with client_of(LARGE, SMALL) as client:
            large = asyncio.ensure_future(client.call("0", {}, TOKEN, decode))
            await asyncio.to_thread(begun.wait)
            small = await client.get("1", {}, TOKEN)
            assert not large.done()
            go_on.set()
            assert (await large).startswith("decoding")  # type: ignore[union-attr]  # what it answers was no problem
        assert isinstance(small, GraphResponse)

    async def test_a_small_body_is_decoded_where_it_is_read(self) -> None:
        async with client_of(SMALL) as client:
            name = await client.call("0", {}, TOKEN, lambda _: threading.current_thread().name)
        assert name == threading.current_thread().name

    async def test_what_a_cancelled_call_has_left_in_the_thread_ends_before_the_next_begins(self) -> None:
        begun, go_on, order = threading.Event(), threading.Event(), list[str]()

        def slow(response: GraphResponse) -> None:
            begun.set()
            go_on.wait()
            order.append("cancelled")

        async with client_of(LARGE, LARGE) as client:
            cancelled = asyncio.ensure_future(client.call("0", {}, TOKEN, slow))
            await asyncio.to_thread(begun.wait)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            following = asyncio.ensure_future(client.call("1", {}, TOKEN, lambda _: order.append("next")))
            go_on.set()
            await following
        assert order == ["cancelled", "next"]

    @pytest.mark.parametrize("item", [b"{}", b"1", b'{"id":"1"}'])
    async def test_millions_of_values_are_oversize_and_are_not_decoded(self, item: bytes) -> None:
        def decode(response: GraphResponse) -> None:
            raise AssertionError("it was decoded")

        async with client_of(b'{"data":[' + b",".join([item] * 2_000_000) + b"]}") as client:
            outcome = await client.call("0", {}, TOKEN, decode)
        assert isinstance(outcome, Refused)
        assert (outcome.problem.kind, outcome.problem.http_status) == (ProblemKind.OVERSIZE, 200)
        assert "more than 500,000 values" in outcome.problem.message

    async def test_a_large_body_loses_its_token_as_well(self) -> None:
        async with client_of(LARGE + TOKEN.encode()) as client:
            response = await client.get("0", {}, TOKEN)
        assert isinstance(response, GraphResponse)
        assert TOKEN.encode() not in response.body


class TestRoom:
    async def test_a_large_body_waits_for_room_and_its_deadline_with_it(self) -> None:
        bodies = LargeBodies()

        async def take(leave: asyncio.Event) -> None:
            async with bodies.room() as room, asyncio.timeout(60) as deadline:
                await room.grow(LARGE_BYTES + 1, deadline)
                await room.grow(LARGE_BYTES + 2, deadline)  # which it has room for
                await leave.wait()

        leave = asyncio.Event()
        holders = [asyncio.ensure_future(take(leave)) for _ in range(MAX_LARGE_BODIES)]
        await asyncio.sleep(0)
        async with bodies.room() as room, asyncio.timeout(60) as deadline:
            waiting = asyncio.ensure_future(room.grow(LARGE_BYTES + 1, deadline))
            await asyncio.sleep(0)
            assert not waiting.done()
            assert deadline.when() is None, "the wait counts"
            leave.set()
            await waiting
            assert deadline.when() is not None
        await asyncio.gather(*holders)

    async def test_small_bodies_wait_for_nobody(self) -> None:
        bodies = LargeBodies()
        async with asyncio.timeout(60) as deadline, bodies.room() as one, bodies.room() as two, bodies.room() as three:
            await one.grow(LARGE_BYTES + 1, deadline)
            await two.grow(LARGE_BYTES + 1, deadline)
            await three.grow(LARGE_BYTES, deadline)
