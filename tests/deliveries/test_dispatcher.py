"""Destinations come and go with the configuration, and none holds up another."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from kit.delivery_doubles import DELIVERED, REFUSED, World, destination
from milepost.deliveries.worker import Dispatcher
from milepost.engine.interrupt import Stop
from milepost.settings.model import DeliverySettings

CRM, ERP = (destination(name, **{"from": "start"}) for name in ("crm", "erp"))


class Trial:
    """A dispatcher whose configuration can be changed."""

    def __init__(self, world: World, configured: Sequence[DeliverySettings]) -> None:
        self.world = world
        self.configured = configured
        self.dispatcher = Dispatcher(lambda: self.configured, world.outlets())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = Stop()
        task = asyncio.create_task(self.dispatcher.run(stop))
        try:
            yield
        finally:
            stop.request()
            await task


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_a_dead_receiver_holds_up_no_other(world: World) -> None:
    trial = Trial(world, [CRM, ERP])
    world.receivers["crm"].passing.clear()
    async with trial.running():
        for number in range(10):
            world.changes.write(f"m_{number}", "hello")
            await asyncio.sleep(10)
            assert world.receivers["erp"].texts == world.changes.texts()
        assert world.receivers["crm"].texts == {}
    assert world.places.holders == {}, "other workers can have them at once"


async def test_a_reload_adds_changes_and_removes_destinations(world: World) -> None:
    trial = Trial(world, [])
    crm, erp = world.receivers["crm"], world.receivers["erp"]
    world.changes.write("m_1", "hello")
    async with trial.running():
        await asyncio.sleep(20)
        assert (world.places.kept, trial.dispatcher.states) == ({}, {})
        trial.configured = [CRM]
        await asyncio.sleep(20)
        assert (crm.requests, erp.requests) == ([[1]], [])
        trial.configured = [destination("crm", url="https://other.example/"), ERP]
        world.changes.write("m_2", "hello")
        await asyncio.sleep(20)
        assert (crm.requests, erp.requests) == ([[1], [2]], [[1, 2]])
        trial.configured = [ERP]
        await asyncio.sleep(20)
        world.changes.write("m_3", "hello")
        await asyncio.sleep(20)
        assert (crm.requests, erp.requests) == ([[1], [2]], [[1, 2], [3]])
        assert set(trial.dispatcher.states) == {"erp"}
        trial.configured = [CRM, ERP]
        await asyncio.sleep(20)
    assert crm.requests == [[1], [2], [3]], "it goes on where it was"


async def test_a_destination_that_was_changed_is_tried_at_once(world: World) -> None:
    crm = world.receivers["crm"]
    crm.answering = lambda _: REFUSED
    world.changes.write("m_1", "hello")
    trial = Trial(world, [CRM])
    async with trial.running():
        await asyncio.sleep(6 * 3600)
        tried = len(crm.requests)
        crm.answering = lambda _: DELIVERED
        trial.configured = [destination("crm", url="https://other.example/")]
        await asyncio.sleep(20)
        assert (len(crm.requests), crm.texts) == (tried + 1, {"m_1": "hello"})


async def test_where_destinations_stand_is_known_within_seconds(world: World) -> None:
    world.receivers["crm"].answering = lambda _: REFUSED
    world.changes.write("m_1", "hello")
    trial = Trial(world, [CRM])
    async with trial.running():
        await asyncio.sleep(20)
        assert trial.dispatcher.states["crm"].problem == "HTTP 500"


async def test_a_destination_that_fails_in_an_unexpected_way_is_begun_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]

    async def hold(destination: str, worker: str) -> None:
        if broken.pop():
            raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(world.places, "hold", hold)
        trial = Trial(world, [CRM])
        async with trial.running():
            await asyncio.sleep(10)
            assert trial.dispatcher.broken() == {"crm": "ZeroDivisionError"}
            patched.undo()
            world.changes.write("m_1", "hello")
            await asyncio.sleep(100)
            assert trial.dispatcher.broken() == {}
    assert world.receivers["crm"].texts == {"m_1": "hello"}
