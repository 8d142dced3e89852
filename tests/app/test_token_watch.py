"""Tokens are asked about once a day, the new ones soon, and what is told is in the journal."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
from msgspec.structs import replace

from kit.engine_doubles import engine, types
from kit.leaping_clock import LeapingClock
from kit.memory_store import MemoryStore
from kit.simulated import BAKERY, BICYCLES, NOW, frozen_world
from milepost.app.pages import Page, PageRegistry
from milepost.app.token_watch import CHECK_AGAIN_SECONDS, CHECK_SECONDS, LOOK_SECONDS, TokenWatch
from milepost.core.model import Platform, Stream, TokenHealth
from milepost.core.ports import Held
from milepost.core.problems import Problem
from milepost.engine.context import EngineContext
from milepost.engine.interrupt import Stop
from milepost.engine.supervisor import Schedule, Supervisor
from milepost.facebook.client import GraphClient
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

    async def look(self, after_seconds: float = 0.0) -> None:
        """Look at the tokens, so much later."""
        self.clock.time += timedelta(seconds=after_seconds)
        await self.watch.look(self.clock)

    @property
    def questions(self) -> int:
        return sum(request.owner == "debug_token" for request in self.simulator.requests.last)

    async def health_of(self, stream: Stream) -> TokenHealth | None:
        return (await self.store.load(stream.key)).token


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


async def test_every_stream_of_a_page_knows_how_its_token_stands() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as trial:
        trial.simulator.world.access.expire(BICYCLES.id, 7200.0, NOW)
        await trial.look()
        assert [await trial.health_of(stream) for stream in OF_BAKERY] == [HEALTH, HEALTH]
        assert await trial.health_of(OF_BICYCLES) == replace(HEALTH, expires_at=NOW + timedelta(hours=2))
        assert trial.questions == 2, "one for a page, however many streams it has"


async def test_a_token_is_asked_about_once_a_day_and_only_what_is_news_is_journaled() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        for _ in range(4):
            await trial.look(CHECK_SECONDS / 2)
        assert trial.questions == 2
        assert types(trial.store, OF_BICYCLES) == ["token_checked"]


async def test_a_new_token_is_asked_about_with_the_next_look() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        await trial.look()
        trial.registry.renew([page_of(BICYCLES, trial.simulator.world.access.renew(BICYCLES.id))])
        trial.simulator.world.access.expire(BICYCLES.id, 60.0, NOW)
        await trial.look(LOOK_SECONDS)
        assert trial.questions == 2
        assert await trial.health_of(OF_BICYCLES) == replace(HEALTH, expires_at=NOW + timedelta(minutes=1))


async def test_what_is_not_answered_changes_nothing_and_is_asked_again_within_hours() -> None:
    async with trial_of(page_of(BICYCLES, "nobodys-token"), page_of(BAKERY)) as trial:
        await trial.look()
        assert await trial.health_of(OF_BICYCLES) is None
        assert await trial.health_of(OF_BAKERY[0]) == HEALTH, "one page's token holds up no other"
        await trial.look(CHECK_AGAIN_SECONDS - 1)
        assert trial.questions == 2
        await trial.look(1)
        assert trial.questions == 3


async def test_no_question_is_asked_for_a_page_that_is_parked() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        trial.registry.suspend([BICYCLES.id])
        await trial.look()
        assert trial.questions == 0


async def test_a_page_that_is_dropped_while_it_is_asked_about_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trial_of(page_of(BICYCLES), page_of(BAKERY)) as trial:
        ask = trial.registry.token_health

        async def drop_meanwhile(page_id: str) -> TokenHealth | Problem | Held:
            answer = await ask(page_id)
            trial.registry.keep([page_of(BAKERY)], besides=())
            return answer

        monkeypatch.setattr(trial.registry, "token_health", drop_meanwhile)
        await trial.look()
        assert await trial.health_of(OF_BICYCLES) is None
        assert await trial.health_of(OF_BAKERY[0]) == HEALTH


async def test_a_page_that_is_dropped_before_it_is_asked_about_is_not_asked_about() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        look = asyncio.create_task(trial.look())
        await asyncio.sleep(0)
        trial.registry.keep([], besides=())
        await look
        assert trial.questions == 0


async def test_the_watch_looks_again_and_again_until_a_stop_is_asked_for() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        trial.clock.ends_at = trial.clock.time + timedelta(seconds=3 * CHECK_SECONDS)
        await trial.watch.run(trial.clock, trial.engine.stop)
        assert trial.questions == 3
