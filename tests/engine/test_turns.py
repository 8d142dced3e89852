"""Turns: so many at once, in the order of asking, and given back by whoever waits."""

import asyncio

import pytest
from msgspec.structs import replace

from kit.builders import NETWORK, RATE_LIMIT, at, refused
from kit.memory_store import MemoryStore
from kit.shell import Before, Inbox, refusing, running, shared
from kit.virtual_time import VirtualClock
from milepost.core.events import RunStatus
from milepost.core.model import Platform, Stream
from milepost.core.plan import Policy
from milepost.core.ports import Outcome, Request
from milepost.engine.supervisor import Pace, Supervisor
from milepost.engine.turns import Turns

ONE, TWO, THREE = (Stream(Platform.MESSENGER, page_id) for page_id in "123")


async def test_turns_are_given_out_in_the_order_in_which_they_were_asked_for() -> None:
    turns, clock, order = Turns(1), VirtualClock(), list[Stream]()

    async def take(stream: Stream) -> None:
        async with turns.taken(stream, clock):
            order.append(stream)
            await asyncio.sleep(1)

    await asyncio.gather(*map(take, (ONE, TWO, THREE)))
    assert order == [ONE, TWO, THREE]


async def test_a_turn_that_was_given_back_is_taken_again_behind_those_that_wait() -> None:
    turns, clock, order = Turns(1), VirtualClock(), list[str]()

    async def wait_inside() -> None:
        async with turns.taken(ONE, clock):
            order.append("one")
            async with turns.given_back(ONE, clock):
                await asyncio.sleep(1)
            order.append("one again")

    async def work(stream: Stream) -> None:
        async with turns.taken(stream, clock):
            order.append(stream.page_id)
            await asyncio.sleep(10)

    await asyncio.gather(wait_inside(), work(TWO), work(THREE))
    assert order == ["one", "2", "3", "one again"]


async def test_a_turn_counts_from_when_it_was_taken_the_last_time() -> None:
    turns, clock = Turns(1), VirtualClock()
    async with turns.taken(ONE, clock):
        assert dict(turns.taken_at) == {ONE: at(0)}
        async with turns.given_back(ONE, clock):
            assert dict(turns.taken_at) == {}
            await asyncio.sleep(100)
        assert dict(turns.taken_at) == {ONE: at(100)}
    assert dict(turns.taken_at) == {}


async def test_a_turn_is_free_again_whatever_ended_it() -> None:
    turns, clock = Turns(1), VirtualClock()

    async def work() -> None:
        async with turns.taken(ONE, clock), turns.given_back(ONE, clock):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    async with turns.taken(TWO, clock):
        assert asyncio.get_running_loop().time() == 1


# --- in the daemon ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["a limit", "an outage"])
async def test_a_stream_that_waits_leaves_the_only_turn_to_the_others(trouble: str) -> None:
    async def fail(_: Request | str) -> Outcome:
        return refused(NETWORK)

    async def sync_of(waiting: bool) -> float:
        began = asyncio.get_running_loop().time()
        policy = Policy(batch_size=1, base_delay_seconds=100, max_delay_seconds=100)
        parts = shared(MemoryStore(), policy=policy, concurrency=1)
        until = at(began + 3600)
        limit: Before = refusing(replace(RATE_LIMIT, wait_seconds=200.0), until=until, clock=parts.clock)
        bad = Inbox(3, before=limit if trouble == "a limit" else fail, gate=parts.pauses.gate(ONE))
        good = Inbox(10, prefix="g", call_seconds=1, clock=parts.clock)
        sources = {ONE: bad, TWO: good} if waiting else {TWO: good}
        async with running(Supervisor(parts, sources, Pace()), parts.stop):
            await asyncio.sleep(50)
        return good.called_at[-1] - began

    assert await sync_of(waiting=True) == await sync_of(waiting=False)


# --- what stalls ------------------------------------------------------------------------------------------------------


async def test_a_run_that_comes_to_no_end_is_told() -> None:
    async def hang(_: Request | str) -> None:
        await asyncio.Event().wait()

    parts = shared(MemoryStore())
    one = Supervisor(parts, {ONE: Inbox(3, before=hang), TWO: Inbox(3, prefix="o")}, Pace(max_run_seconds=270))
    async with running(one, parts.stop):
        await asyncio.sleep(380)
        assert one.stalled() is None
        await asyncio.sleep(20)
        stalled = one.stalled()
        assert stalled is not None
        assert ONE.key in stalled
        assert TWO.key not in stalled


async def test_a_run_that_waited_for_its_turn_beyond_its_time_has_not_stalled() -> None:
    parts = shared(MemoryStore(), concurrency=1)
    limit = refusing(replace(RATE_LIMIT, wait_seconds=10.0), until=at(5), clock=parts.clock)
    sources = {stream: Inbox(1_000, prefix=stream.key, call_seconds=5) for stream in (TWO, THREE)}
    one = Supervisor(parts, {ONE: Inbox(3, before=limit), **sources}, Pace(max_run_seconds=270))
    async with running(one, parts.stop):
        for _ in range(60):
            await asyncio.sleep(10)
            assert one.stalled() is None
    run = (await parts.store.recall(ONE.key)).run
    assert run is not None
    assert run.status is not RunStatus.RUNNING
