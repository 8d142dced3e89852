"""Tokens are checked once a day, new ones soon, and their health is recorded in the journal."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
from msgspec.structs import replace

from kit.engine_doubles import engine, types
from kit.memory_store import MemoryStore
from kit.simulated import BAKERY, BICYCLES, NOW, frozen_world
from kit.virtual_time import LeapingClock
from milepost.app.page_watch import CHECK_AGAIN_SECONDS, CHECK_SECONDS, LOOK_SECONDS, TokenWatch
from milepost.app.pages import PageRegistry
from milepost.core.model import Platform, Stream, TokenHealth
from milepost.core.ports import Held
from milepost.core.problems import Problem
from milepost.engine.context import EngineContext
from milepost.engine.interrupt import Stop
from milepost.engine.supervisor import Schedule, Supervisor
from milepost.facebook.client import GraphClient
from milepost.facebook.pages import Page
from milepost.facebook.token_health import InspectedToken
from milepost.simulator.plan import SimulatedPage
from milepost.simulator.server import SimulatorServer

OF_BAKERY = (Stream(Platform.MESSENGER, BAKERY.id), Stream(Platform.INSTAGRAM, BAKERY.id))
OF_BICYCLES = Stream(Platform.MESSENGER, BICYCLES.id)
HEALTH = TokenHealth(True, None, NOW.replace(hour=0) + timedelta(days=60))


@dataclass
class Trial:
    simulator: SimulatorServer
    engine: EngineContext
    store: MemoryStore
    registry: PageRegistry
    watch: TokenWatch
    clock: LeapingClock

    async def check(self, after_seconds: float = 0.0) -> None:
        """Check the tokens that are due so much later."""
        self.clock.time += timedelta(seconds=after_seconds)
        await self.watch.check_due(self.clock)

    @property
    def requests(self) -> int:
        return sum(request.owner == "debug_token" for request in self.simulator.requests.last)

    async def health_of(self, stream: Stream) -> TokenHealth | None:
        return (await self.store.load(stream)).token


@asynccontextmanager
async def trial_of(*pages: Page) -> AsyncIterator[Trial]:
    store, stop = MemoryStore(), Stop()
    clock = LeapingClock(stop)
    parts = engine(store, clock=clock, stop=stop)
    async with (
        frozen_world(3, pages=(BAKERY, BICYCLES)) as simulator,
        GraphClient(simulator.base_url, "v26.0", clock=clock.now) as client,
    ):
        registry = PageRegistry(client, parts.rate_limits, 0, "")
        supervisor = Supervisor(parts, registry.add(pages), Schedule())
        yield Trial(simulator, parts, store, registry, TokenWatch(registry, supervisor), clock)


def page_of(page: SimulatedPage, token: str | None = None) -> Page:
    return Page(page.id, page.name, tuple(map(Platform, page.platforms)), token or page.token)


async def test_every_stream_of_a_page_learns_the_health_of_its_token() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as trial:
        trial.simulator.world.access.expire(BICYCLES.id, 7200.0, NOW)
        await trial.check()
        assert [await trial.health_of(stream) for stream in OF_BAKERY] == [HEALTH, HEALTH]
        assert await trial.health_of(OF_BICYCLES) == replace(HEALTH, expires_at=NOW + timedelta(hours=2))
        assert trial.requests == 2, "one per page, however many streams it has"


async def test_a_token_is_checked_once_a_day_and_only_changes_are_journaled() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        for _ in range(4):
            await trial.check(CHECK_SECONDS / 2)
        assert trial.requests == 2
        assert types(trial.store, OF_BICYCLES) == ["token_checked"]


async def test_a_new_token_is_checked_at_the_next_look() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        await trial.check()
        trial.registry.rotate_tokens([page_of(BICYCLES, trial.simulator.world.access.renew(BICYCLES.id))])
        trial.simulator.world.access.expire(BICYCLES.id, 60.0, NOW)
        await trial.check(LOOK_SECONDS)
        assert trial.requests == 2
        assert await trial.health_of(OF_BICYCLES) == replace(HEALTH, expires_at=NOW + timedelta(minutes=1))


async def test_a_failed_check_changes_nothing_and_is_repeated_within_hours() -> None:
    async with trial_of(page_of(BICYCLES, "nobodys-token"), page_of(BAKERY)) as trial:
        await trial.check()
        assert await trial.health_of(OF_BICYCLES) is None
        assert await trial.health_of(OF_BAKERY[0]) == HEALTH, "one page's token holds up no other"
        await trial.check(CHECK_AGAIN_SECONDS - 1)
        assert trial.requests == 2
        await trial.check(1)
        assert trial.requests == 3


async def test_the_token_of_a_suspended_page_is_not_checked() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        trial.registry.suspend([BICYCLES.id])
        await trial.check()
        assert trial.requests == 0


async def test_a_page_that_is_dropped_during_its_check_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trial_of(page_of(BICYCLES), page_of(BAKERY)) as trial:
        fetch = trial.registry.inspect_token

        async def drop_meanwhile(page_id: str) -> InspectedToken | Problem | Held:
            found = await fetch(page_id)
            trial.registry.retain([page_of(BAKERY)], besides=())
            return found

        monkeypatch.setattr(trial.registry, "inspect_token", drop_meanwhile)
        await trial.check()
        assert await trial.health_of(OF_BICYCLES) is None
        assert await trial.health_of(OF_BAKERY[0]) == HEALTH


async def test_a_page_that_is_dropped_before_its_check_is_not_checked() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        check = asyncio.create_task(trial.check())
        await asyncio.sleep(0)
        trial.registry.retain([], besides=())
        await check
        assert trial.requests == 0


async def test_tokens_are_checked_again_and_again_until_a_stop_is_requested() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        trial.clock.ends_at = trial.clock.time + timedelta(seconds=3 * CHECK_SECONDS)
        await trial.watch.run(trial.clock, trial.engine.stop)
        assert trial.requests == 3
