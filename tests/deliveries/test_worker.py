"""A destination gets every row in order, whatever its receiver, the database or this process does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random

import pytest

from kit.builders import NOON
from kit.delivery_doubles import DELIVERED, REFUSED, TIMED_OUT, MemoryReceiver, World, destination
from milepost.core.changes import Answer, ChangeKind, Delivery, DeliveryResult
from milepost.deliveries.worker import DestinationWorker

FROM_START = destination(**{"from": "start"})


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@asynccontextmanager
async def delivering(world: World, worker: DestinationWorker | None = None) -> AsyncIterator[DestinationWorker]:
    worker = worker or DestinationWorker(FROM_START, world.outlets())
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop.request()
        await task


def crm(world: World) -> MemoryReceiver:
    return world.receivers["crm"]


class TestOrder:
    async def test_a_destination_from_the_start_gets_all_that_is_stored(self, world: World) -> None:
        for number in range(250):
            world.changes.write(f"m_{number}", "hello")
        async with delivering(world):
            await asyncio.sleep(20)
        assert crm(world).texts == world.changes.texts()
        assert [len(each) for each in crm(world).requests] == [100, 100, 50]
        assert [seq for seqs in crm(world).requests for seq in seqs] == list(range(1, 251))
        assert world.places.kept["crm"].behind_since is None

    async def test_a_destination_from_now_gets_what_changes_later(self, world: World) -> None:
        world.changes.write("m_1", "old")
        async with delivering(world, DestinationWorker(destination(), world.outlets())) as worker:
            await asyncio.sleep(20)
            world.changes.write("m_2", "new")
            worker.notify()
            await asyncio.sleep(1)
        assert crm(world).texts == {"m_2": "new"}

    async def test_it_goes_on_where_it_was_after_a_restart(self, world: World) -> None:
        for number in range(3):
            world.changes.write(f"m_{number}", "hello")
            async with delivering(world, DestinationWorker(destination(**{"from": "start"}), world.outlets())):
                await asyncio.sleep(20)
        assert crm(world).requests == [[1], [2], [3]]

    async def test_only_the_configured_kinds_are_delivered(self, world: World) -> None:
        only = destination(kinds=("contact",), **{"from": "start"})
        for number in range(300):
            world.changes.write(f"m_{number}", "hello")
        world.changes.write("c_1", "Ada", ChangeKind.CONTACT)
        async with delivering(world, DestinationWorker(only, world.outlets())):
            await asyncio.sleep(20)
            world.changes.write("m_301", "hello")
            await asyncio.sleep(20)
        assert crm(world).texts == {"c_1": "Ada"}
        assert world.places.kept["crm"] == Delivery("crm", 302, delivered_at=world.places.kept["crm"].delivered_at)

    async def test_idle_destinations_ask_once_in_a_while(self, world: World) -> None:
        async with delivering(world):
            await asyncio.sleep(600)
        assert world.changes.reads <= 130
        assert crm(world).requests == []


class TestFailures:
    async def test_a_receiver_that_is_back_after_hours_gets_everything(self, world: World) -> None:
        world.changes.write("m_1", "hello")
        crm(world).answering = lambda _: REFUSED
        async with delivering(world):
            await asyncio.sleep(6 * 3600)
            failing = world.places.kept["crm"]
            attempts = len(crm(world).requests)
            crm(world).answering = lambda _: DELIVERED
            world.changes.write("m_1", "hello again")
            await asyncio.sleep(1000)
        assert (failing.problem, failing.failures, failing.place) == ("HTTP 500", attempts, 0)
        assert failing.failing_since is not None
        assert failing.behind_since is not None
        assert failing.failing_since - NOON < timedelta(minutes=1)
        assert 30 < attempts < 50
        assert crm(world).texts == {"m_1": "hello again"}
        assert world.places.kept["crm"].problem is None

    async def test_failures_go_on_after_a_restart_without_a_new_rush(self, world: World) -> None:
        world.changes.write("m_1", "hello")
        crm(world).answering = lambda _: TIMED_OUT
        for _ in range(10):
            async with delivering(world, DestinationWorker(FROM_START, world.outlets())):
                await asyncio.sleep(60)
        assert len(crm(world).requests) <= 11

    async def test_whatever_goes_wrong_ends_with_the_rows_of_the_tables(self, world: World) -> None:
        """Refusals, lost answers, repetitions and kills, while rows are written, changed and deleted."""
        draw = Random(7)  # noqa: S311
        outcomes = [DELIVERED, REFUSED, TIMED_OUT, Answer(DeliveryResult.UNREACHABLE, "the connection was lost")]
        crm(world).answering = lambda _: draw.choice(outcomes)
        crm(world).is_applied_anyway = lambda _: draw.random() < 0.5
        for _ in range(40):
            worker = DestinationWorker(FROM_START, world.outlets())
            task = asyncio.create_task(worker.run())
            for _ in range(draw.randrange(20)):
                key = f"m_{draw.randrange(30)}"
                if draw.random() < 0.2:
                    world.changes.delete(key)
                else:
                    world.changes.write(key, str(draw.random()))
                await asyncio.sleep(draw.random() * 3)
            task.cancel()  # as a kill ends it: wherever it is
            await asyncio.wait([task])
        crm(world).answering = lambda _: DELIVERED
        async with delivering(world, DestinationWorker(FROM_START, world.outlets())):
            await asyncio.sleep(2000)
        assert crm(world).texts == world.changes.texts()
        assert all(seqs == sorted(seqs) for seqs in crm(world).requests)
        ahead = [0, *(seqs[0] for seqs in crm(world).requests)]
        assert ahead == sorted(ahead), "a request never begins before one that came earlier"

    async def test_a_database_that_is_away_delivers_nothing_and_loses_nothing(self, world: World) -> None:
        world.changes.write("m_1", "hello")
        world.changes.is_away = True
        async with delivering(world):
            await asyncio.sleep(60)
            assert crm(world).requests == []
            world.changes.is_away = False
            await asyncio.sleep(10)
        assert crm(world).texts == {"m_1": "hello"}

    async def test_a_stop_does_not_wait_for_a_silent_receiver(self, world: World) -> None:
        world.changes.write("m_1", "hello")
        crm(world).passing.clear()
        async with delivering(world):
            await asyncio.sleep(10)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 1
        assert world.places.kept["crm"].place == 0

    async def test_each_result_is_counted(self, world: World) -> None:
        world.changes.write("m_1", "hello")
        crm(world).answering = lambda number: (REFUSED, TIMED_OUT, DELIVERED)[number]
        async with delivering(world):
            await asyncio.sleep(60)
        assert [result for _, result in world.results] == ["refused", "timed_out", "delivered"]


class TestOperators:
    async def test_nothing_is_sent_while_it_is_paused_and_what_waits_is_known(self, world: World) -> None:
        async with delivering(world):
            await asyncio.sleep(10)
            await world.places.pause("crm", world.clock.now())
            await asyncio.sleep(10)
            world.changes.write("m_1", "hello")
            await asyncio.sleep(600)
            paused = world.places.kept["crm"]
            assert crm(world).requests == []
            await world.places.resume("crm")
            await asyncio.sleep(10)
        assert paused.behind_since is not None
        assert crm(world).texts == {"m_1": "hello"}

    async def test_a_resumed_destination_is_tried_within_seconds(self, world: World) -> None:
        world.changes.write("m_1", "hello")
        crm(world).answering = lambda _: REFUSED
        async with delivering(world):
            await asyncio.sleep(3 * 3600)
            crm(world).answering = lambda _: DELIVERED
            await world.places.resume("crm")
            await asyncio.sleep(6)
        assert crm(world).texts == {"m_1": "hello"}

    async def test_what_is_replayed_comes_again_even_during_a_request(self, world: World) -> None:
        world.changes.write("m_1", "hello")
        async with delivering(world):
            await asyncio.sleep(10)
            world.changes.write("m_2", "hello")
            crm(world).passing.clear()
            await asyncio.sleep(10)
            await world.places.move("crm", 0)
            crm(world).passing.set()
            await asyncio.sleep(10)
        assert crm(world).requests == [[1], [2], [1, 2]]


class TestWorkers:
    async def test_one_of_two_workers_delivers_and_the_other_takes_over(self, world: World) -> None:
        one, other = (DestinationWorker(FROM_START, world.outlets(name)) for name in ("one", "other"))
        async with delivering(world, other):
            async with delivering(world, one):
                for number in range(3):
                    world.changes.write(f"m_{number}", "hello")
                    await asyncio.sleep(20)
                assert crm(world).requests == [[1], [2], [3]]
            for holder in ("one", "other"):
                await world.places.release(holder)
            world.changes.write("m_9", "hello")
            await asyncio.sleep(20)
        assert crm(world).requests == [[1], [2], [3], [4]]

    async def test_what_another_worker_holds_by_now_is_not_recorded(self, world: World) -> None:
        world.changes.write("m_1", "hello")
        async with delivering(world):
            crm(world).passing.clear()
            await asyncio.sleep(10)
            world.places.holders["crm"] = "other"
            crm(world).passing.set()
            await asyncio.sleep(10)
        assert world.places.kept["crm"].place == 0


class TestLag:
    async def test_the_lag_begins_when_something_waits_and_ends_when_all_is_delivered(self, world: World) -> None:
        crm(world).answering = lambda _: REFUSED
        async with delivering(world):
            await asyncio.sleep(100)
            world.changes.write("m_1", "hello")
            await asyncio.sleep(100)
            behind_since = world.places.kept["crm"].behind_since
            crm(world).answering = lambda _: DELIVERED
            await asyncio.sleep(100)
        assert behind_since is not None
        assert 100 <= (behind_since - NOON).total_seconds() <= 110
        assert world.places.kept["crm"].behind_since is None

    async def test_a_receiver_that_keeps_up_is_not_behind_for_ever(self, world: World) -> None:
        """It is never quite up to date, as something is written during each of its requests."""

        def answer(_: int) -> Answer:
            world.changes.write("m_1", "once more")
            return DELIVERED

        crm(world).answering, crm(world).seconds = answer, 0.5
        world.changes.write("m_1", "hello")
        async with delivering(world):
            await asyncio.sleep(1000)
            delivery = world.places.kept["crm"]
        assert delivery.behind_since is None or world.clock.now() - delivery.behind_since < timedelta(seconds=10)
