"""Turns: so many at once, in the order of asking, and given back by whoever waits."""

import asyncio

import pytest
from msgspec.structs import replace

from kit.builders import NETWORK, RATE_LIMIT, at, refused
from kit.engine_doubles import Before, Inbox, always, engine, refusing, running
from kit.memory_store import MemoryStore
from milepost.core.events import RunStatus
from milepost.core.model import Platform, Stream
from milepost.core.plan import Policy
from milepost.core.ports import Request
from milepost.engine.context import Slots
from milepost.engine.supervisor import Schedule, Supervisor

ONE, TWO, THREE, FOUR, FIVE = (Stream(Platform.MESSENGER, page_id) for page_id in "12345")


async def test_slots_are_granted_in_the_order_of_the_requests() -> None:
    slots, order = Slots(1), list[Stream]()

    async def take(stream: Stream) -> None:
        async with slots.hold(stream):
            order.append(stream)
            await asyncio.sleep(1)

    await asyncio.gather(*map(take, (ONE, TWO, THREE)))
    assert order == [ONE, TWO, THREE]


async def test_a_released_slot_is_acquired_again_behind_those_that_wait() -> None:
    slots, order = Slots(1), list[str]()

    async def wait_inside() -> None:
        async with slots.hold(ONE):
            order.append("one")
            async with slots.released(ONE):
                await asyncio.sleep(1)
            order.append("one again")

    async def work(stream: Stream) -> None:
        async with slots.hold(stream):
            order.append(stream.page_id)
            await asyncio.sleep(10)

    await asyncio.gather(wait_inside(), work(TWO), work(THREE))
    assert order == ["one", "2", "3", "one again"]


async def test_a_slot_counts_from_when_it_was_last_acquired() -> None:
    slots = Slots(1)
    async with slots.hold(ONE):
        await asyncio.sleep(10)
        assert slots.held_seconds() == {ONE: 10}
        async with slots.released(ONE):
            assert slots.held_seconds() == {}
            await asyncio.sleep(100)
        assert slots.held_seconds() == {ONE: 0}
    assert slots.held_seconds() == {}


async def test_a_stream_that_waits_for_a_slot_is_known_with_for_how_long() -> None:
    waited = list[float]()
    slots = Slots(1, waited.append)

    async def wait_inside() -> None:
        async with slots.hold(ONE):
            await asyncio.sleep(10)
            async with slots.released(ONE):
                await asyncio.sleep(1)

    async def work() -> None:
        async with slots.hold(TWO):
            await asyncio.sleep(20)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(wait_inside())
        tasks.create_task(work())
        await asyncio.sleep(4)
        assert slots.waiting_seconds() == {TWO: 4}
        await asyncio.sleep(16)
        assert slots.waiting_seconds() == {ONE: 9}, "the other one has the slot that it released, from 10 on"
    assert slots.waiting_seconds() == {}
    assert waited == [0, 10, 19]


async def test_a_stream_that_gives_up_waiting_waits_no_longer() -> None:
    slots = Slots(1)
    async with slots.hold(ONE):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5), slots.hold(TWO):
                pass
        assert slots.waiting_seconds() == {}


async def test_a_stream_that_is_due_elsewhere_waits_from_when_it_was_due() -> None:
    waited = list[float]()
    slots = Slots(1, waited.append)
    slots.note_due([ONE, TWO])
    await asyncio.sleep(3)
    slots.note_due([ONE])
    assert slots.waiting_seconds() == {ONE: 3}
    async with slots.hold(ONE):
        assert slots.waiting_seconds() == {}
    assert waited == [3]


async def test_a_run_that_is_cancelled_as_it_waits_for_its_slot_again_frees_none() -> None:
    """The slot that it gave up is held by another run."""
    slots = Slots(1)

    async def wait_inside() -> None:
        async with slots.hold(ONE), slots.released(ONE):
            await asyncio.sleep(1)

    waiting = asyncio.create_task(wait_inside())
    await asyncio.sleep(0)
    async with slots.hold(TWO):
        await asyncio.sleep(2)
        assert slots.waiting == {ONE}
        waiting.cancel()
        await asyncio.wait({waiting})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5), slots.hold(THREE):
                pass


async def test_a_slot_is_free_again_however_its_block_ended() -> None:
    slots = Slots(1)

    async def work() -> None:
        async with slots.hold(ONE), slots.released(ONE):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    async with slots.hold(TWO):
        assert asyncio.get_running_loop().time() == 1


async def test_added_slots_are_available_at_once() -> None:
    slots, held_since = Slots(1), list[float]()

    async def take(stream: Stream) -> None:
        async with slots.hold(stream):
            held_since.append(asyncio.get_running_loop().time())
            await asyncio.sleep(10)

    async with asyncio.TaskGroup() as tasks:
        for stream in (ONE, TWO, THREE):
            tasks.create_task(take(stream))
        await asyncio.sleep(1)
        slots.resize(3)
    assert held_since == [0, 1, 1]


async def test_no_slot_is_granted_until_the_surplus_ones_have_been_released() -> None:
    slots, held_since = Slots(3), list[float]()

    async def take(stream: Stream, seconds: float) -> None:
        async with slots.hold(stream):
            held_since.append(asyncio.get_running_loop().time())
            await asyncio.sleep(seconds)

    async with asyncio.TaskGroup() as tasks:
        for stream, seconds in ((ONE, 10), (TWO, 20), (THREE, 30)):
            tasks.create_task(take(stream, seconds))
        await asyncio.sleep(1)
        slots.resize(1)
        for stream in (FOUR, FIVE):
            tasks.create_task(take(stream, 5))
    assert held_since == [0, 0, 0, 30, 35]


async def test_free_slots_are_withdrawn_first() -> None:
    slots, most = Slots(3), 0

    async def take(stream: Stream) -> None:
        nonlocal most
        async with slots.hold(stream):
            most = max(most, len(slots.held_seconds()))
            await asyncio.sleep(1)

    slots.resize(1)
    slots.resize(2)
    await asyncio.gather(*map(take, (ONE, TWO, THREE, FOUR, FIVE)))
    assert most == 2


# --- in the daemon ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", ["a limit", "an outage"])
async def test_a_stream_that_waits_leaves_the_only_slot_to_the_others(retry: str) -> None:
    async def sync_of(waiting: bool) -> float:
        began = asyncio.get_running_loop().time()
        policy = Policy(batch_size=1, base_delay_seconds=100, max_delay_seconds=100)
        parts = engine(MemoryStore(), policy=policy, concurrency=1)
        until = at(began + 3600)
        limit: Before = refusing(replace(RATE_LIMIT, wait_seconds=200.0), until=until, clock=parts.clock)
        bad = Inbox(
            3, before=limit if retry == "a limit" else always(refused(NETWORK)), gate=parts.rate_limits.gate(ONE)
        )
        good = Inbox(10, prefix="g", call_seconds=1, clock=parts.clock)
        sources = {ONE: bad, TWO: good} if waiting else {TWO: good}
        async with running(Supervisor(parts, sources, Schedule()), parts.stop):
            await asyncio.sleep(50)
        return good.called_at[-1] - began

    assert await sync_of(waiting=True) == await sync_of(waiting=False)


# --- what stalls ------------------------------------------------------------------------------------------------------


async def test_a_run_that_never_ends_is_reported_as_stalled() -> None:
    async def hang(_: Request | str) -> None:
        await asyncio.Event().wait()

    parts = engine(MemoryStore())
    one = Supervisor(parts, {ONE: Inbox(3, before=hang), TWO: Inbox(3, prefix="o")}, Schedule(max_run_seconds=270))
    async with running(one, parts.stop):
        await asyncio.sleep(380)
        assert one.stalled() is None
        await asyncio.sleep(20)
        stalled = one.stalled()
        assert stalled is not None
        assert ONE.key in stalled
        assert TWO.key not in stalled


async def test_a_run_keeps_the_time_limit_that_it_began_with() -> None:
    parts = engine(MemoryStore(), policy=Policy(batch_size=1))
    one = Supervisor(parts, {ONE: Inbox(1_000, call_seconds=5, clock=parts.clock)}, Schedule(max_run_seconds=1_000))
    async with running(one, parts.stop):
        await asyncio.sleep(10)
        one.adopt(parts.policy, Schedule(max_run_seconds=10), concurrency=16)
        await asyncio.sleep(900)
        assert one.stalled() is None


async def test_a_run_that_waited_long_for_its_slot_has_not_stalled() -> None:
    parts = engine(MemoryStore(), concurrency=1)
    limit = refusing(replace(RATE_LIMIT, wait_seconds=10.0), until=at(5), clock=parts.clock)
    sources = {stream: Inbox(1_000, prefix=stream.key, call_seconds=5) for stream in (TWO, THREE)}
    one = Supervisor(parts, {ONE: Inbox(3, before=limit), **sources}, Schedule(max_run_seconds=270))
    async with running(one, parts.stop):
        for _ in range(60):
            await asyncio.sleep(10)
            assert one.stalled() is None
    run = (await parts.store.load(ONE)).run
    assert run is not None
    assert run.status is not RunStatus.RUNNING
