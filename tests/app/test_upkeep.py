"""Reloads: what becomes of each; and discovery: how often pages are looked for, and that no pause is called into."""

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

import pytest
import structlog
from msgspec.structs import replace

from kit.builders import NOON
from kit.engine_doubles import engine
from kit.leaping_clock import LeapingClock
from kit.memory_store import MemoryStore
from kit.reconfigured import OTHERWISE
from kit.reconfigured import settings as with_other
from kit.simulated import BAKERY, BICYCLES, frozen_world
from milepost.app.pages import Page, PageRegistry
from milepost.app.upkeep import DISCOVERY_RETRY_SECONDS, DISCOVERY_SECONDS, Configuration, Reload, Upkeep
from milepost.app.workings import Workings
from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.errors import BadConfiguration
from milepost.core.events import RunStatus
from milepost.core.model import Platform, Scope, Stream
from milepost.core.ports import Held
from milepost.core.problems import Problem, ProblemKind
from milepost.engine.context import EngineContext
from milepost.engine.interrupt import Interrupt, Stop
from milepost.engine.supervisor import Schedule, Supervisor
from milepost.facebook.client import GraphClient
from milepost.settings import Settings
from milepost.settings.diff import is_live
from milepost.simulator.access import USER
from milepost.simulator.plan import SimulatedPage
from milepost.simulator.server import SimulatorServer

OF_BICYCLES = Stream(Platform.MESSENGER, BICYCLES.id)
APP_LIMIT = Problem(ProblemKind.API, "(#4) Application request limit reached", code=4)


@dataclass
class Trial:
    """An upkeep whose time a test lets pass, and what it works on."""

    simulator: SimulatorServer
    clock: LeapingClock
    engine: EngineContext
    workings: Workings
    upkeep: Upkeep
    secrets: list[str]

    @property
    def supervisor(self) -> Supervisor:
        return self.workings.supervisor

    async def let_pass(
        self, seconds: float, configuration: Configuration | None = None, reload: Interrupt | None = None
    ) -> None:
        """Let the upkeep run for so long."""
        self.clock.ends_at = self.clock.time + timedelta(seconds=seconds)
        configuration = configuration or Configuration(Settings, Path("config.yaml"))
        await self.upkeep.run(configuration, reload or Interrupt(), self.clock, self.engine.stop)

    async def reload(self, *pages: Page, discover_pages: bool = False) -> Reload:
        """Reload with these pages listed."""
        wanted = settings_with(*pages, discover_pages=discover_pages, source=manager_of(self.simulator))
        return await self.upkeep.reload(Configuration(lambda: wanted, None))

    @property
    def works_by(self) -> dict[str, object]:
        """What the work goes by now, as far as it can change."""
        supervisor, registry, client = self.supervisor, self.workings.registry, self.workings.client
        return {
            "policy": supervisor._engine.policy,
            "pace": supervisor._schedule,
            "concurrency": supervisor._engine.slots._concurrency,
            "streams": supervisor.streams,
            "calls": (registry.calls_per_second, client.request_timeout_seconds, client._app_secret),
            "manager": registry._manager.token,
            "discovers": self.upkeep.settings.source.discover_pages,
            "floor": self.engine.rate_limits.floor_seconds,
            "level": logging.getLogger().level,
        }

    @property
    def discoveries(self) -> int:
        """How often the list of pages was asked for."""
        return sum(request.edge == "accounts" for request in self.simulator.requests.last)


@asynccontextmanager
async def upkeep_of(*pages: Page, faults: str = "calm") -> AsyncIterator[Trial]:
    stop, secrets = Stop(), list[str]()
    clock = LeapingClock(stop)
    share = engine(MemoryStore(), clock=clock, stop=stop)
    async with (
        frozen_world(3, faults, pages=(BAKERY, BICYCLES)) as simulator,
        GraphClient(simulator.base_url, "v26.0", clock=clock.now) as client,
    ):
        registry = PageRegistry(client, share.rate_limits, 0, simulator.world.user_token)
        workings = Workings(Supervisor(share, registry.add(pages), Schedule()), registry, client, share.rate_limits)
        settings = settings_with(*pages, discover_pages=True, source=manager_of(simulator))
        upkeep = Upkeep(workings, settings, secrets.append)
        yield Trial(simulator, clock, share, workings, upkeep, secrets)


def settings_with(
    *pages: Page, discover_pages: bool = False, source: Mapping[str, object] = MappingProxyType({})
) -> Settings:
    """Give the settings that list these pages."""
    listed = tuple(
        {
            "id": page.id,
            "access_token": page.access_token,
            "platforms": tuple(map(str, page.platforms)),
            "instagram_account_id": page.instagram_account_id,
        }
        for page in pages
    )
    keys = {"kind": "facebook", "discover_pages": discover_pages, **source}
    return Settings.model_validate({"source": keys, "pages": listed})


def manager_of(simulator: SimulatorServer) -> dict[str, object]:
    """Give the keys of `source` that let pages be discovered."""
    return {"access_token": simulator.world.user_token, "calls_per_second": 0.0}


def page_of(page: SimulatedPage, *platforms: Platform) -> Page:
    return Page(page.id, page.name, platforms or tuple(map(Platform, page.platforms)), page.token)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """Put back the level, which a reload sets."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
    structlog.reset_defaults()


# --- reloads ----------------------------------------------------------------------------------------------------------


async def test_pages_that_are_listed_no_more_are_worked_no_more_and_the_others_are() -> None:
    async with upkeep_of(page_of(BAKERY), page_of(BICYCLES)) as trial:
        reloaded = await trial.reload(page_of(BICYCLES))
        assert reloaded == Reload(live=("source.discover_pages", "pages"))
        assert trial.supervisor.streams == (OF_BICYCLES,)


async def test_a_platform_that_is_listed_no_more_is_worked_no_more_and_comes_back() -> None:
    async with upkeep_of(page_of(BAKERY)) as trial:
        messenger, instagram = page_of(BAKERY).streams
        await trial.reload(page_of(BAKERY, Platform.INSTAGRAM))
        assert trial.supervisor.streams == (instagram,)
        await trial.reload(page_of(BAKERY))
        assert set(trial.supervisor.streams) == {messenger, instagram}
        results = await trial.supervisor.sync([messenger, instagram])
        assert [result.run.status for result in results if result.run] == [RunStatus.COMPLETE] * 2


async def test_a_page_that_comes_back_is_worked_with_the_token_that_it_has_then() -> None:
    async with upkeep_of(page_of(BICYCLES)) as trial:
        await trial.reload(page_of(BAKERY))
        renewed = trial.simulator.world.access.renew(BICYCLES.id)
        await trial.reload(page_of(BAKERY), replace(page_of(BICYCLES), access_token=renewed))
        (result,) = await trial.supervisor.sync([OF_BICYCLES])
        assert result.run is not None
        assert result.run.status is RunStatus.COMPLETE
        assert renewed in trial.secrets


async def test_another_instagram_account_holds_from_the_next_turn_on() -> None:
    instagram = Stream(Platform.INSTAGRAM, BAKERY.id)
    async with upkeep_of(replace(page_of(BAKERY), instagram_account_id="17841499999999999")) as trial:
        await trial.reload(page_of(BAKERY))  # which asks the API for the account
        asked_before = trial.simulator.requests.total
        await trial.supervisor.sync([instagram])
        first, *_ = list(trial.simulator.requests.last)[asked_before:]
        assert first.edge == ""
        assert trial.supervisor.streams.count(instagram) == 1


async def test_what_was_discovered_is_dropped_when_pages_are_discovered_no_more() -> None:
    async with upkeep_of(page_of(BAKERY)) as trial:
        await trial.upkeep.discover()
        assert OF_BICYCLES in trial.supervisor.streams
        await trial.reload(page_of(BAKERY), discover_pages=True)
        assert OF_BICYCLES in trial.supervisor.streams, "still discovered"
        await trial.reload(page_of(BAKERY))
        assert set(trial.supervisor.streams) == set(page_of(BAKERY).streams)


async def test_a_discovered_page_that_is_listed_later_is_not_taken_for_a_lost_one() -> None:
    async with upkeep_of() as trial:
        await trial.upkeep.discover()
        await trial.reload(page_of(BICYCLES), discover_pages=True)
        await trial.upkeep.discover()
        (result,) = await trial.supervisor.sync([OF_BICYCLES])
        assert result.run is not None
        assert result.run.status is RunStatus.COMPLETE


async def test_a_configuration_that_is_wrong_is_refused_with_the_reason_and_changes_nothing() -> None:
    def load() -> Settings:
        raise BadConfiguration("config.yaml:1: sync.interval: found 5")

    async with upkeep_of(page_of(BICYCLES)) as trial:
        before, settings_before = trial.works_by, trial.upkeep.settings
        reloaded = await trial.upkeep.reload(Configuration(load, None))
        assert reloaded == Reload(refusal="config.yaml:1: sync.interval: found 5")
        assert (trial.works_by, trial.upkeep.settings) == (before, settings_before)


@pytest.mark.parametrize("key", OTHERWISE)
async def test_what_is_live_reaches_the_work_and_what_is_not_is_named_and_does_not(key: str) -> None:
    async with upkeep_of() as trial:
        await trial.upkeep.reload(Configuration(with_other, None))
        before = trial.works_by
        reloaded = await trial.upkeep.reload(Configuration(lambda: with_other(key), None))
        assert reloaded == (Reload(live=(key,)) if is_live(key) else Reload(takes_restart=(key,)))
        if not key.endswith("_file"):  # those say where a secret comes from
            assert (trial.works_by != before) == is_live(key)


async def test_whoever_wants_to_know_is_told_that_a_reload_is_under_way_whatever_becomes_of_it() -> None:
    told: list[str] = []

    @contextmanager
    def reloading() -> Iterator[None]:
        told.append("reloading")
        yield
        told.append("ready")

    def load() -> Settings:
        told.append("reads")
        raise BadConfiguration("wrong")

    async with upkeep_of(page_of(BICYCLES)) as trial:
        configuration = Configuration(load, None, reloading)
        await trial.let_pass(35, configuration)
        assert told == [], "nobody asked, and no file has changed"
        trial.engine.stop.clear()
        (interrupt := Interrupt()).set()
        await trial.let_pass(35, configuration, interrupt)
    assert told == ["reloading", "reads", "ready"]


# --- discovery --------------------------------------------------------------------------------------------------------


async def test_what_is_discovered_is_worked_with_the_tokens_that_the_api_gives_which_are_kept_secret() -> None:
    async with upkeep_of() as trial:
        assert await trial.upkeep.discover() is None
        assert set(trial.supervisor.streams) == {
            Stream(Platform.MESSENGER, BAKERY.id),
            Stream(Platform.INSTAGRAM, BAKERY.id),
            OF_BICYCLES,
        }
        results = await trial.supervisor.sync(trial.supervisor.streams)
        assert [result.run.status for result in results if result.run] == [RunStatus.COMPLETE] * 3
    assert sorted(trial.secrets) == sorted([BAKERY.token, BICYCLES.token])


async def test_pages_are_looked_for_every_quarter_of_an_hour() -> None:
    async with upkeep_of() as trial:
        await trial.let_pass(4 * DISCOVERY_SECONDS + 60)
        assert trial.discoveries == 4


async def test_after_what_may_pass_they_are_looked_for_again_soon() -> None:
    async with upkeep_of(faults="http_500=first:1") as trial:
        await trial.let_pass(DISCOVERY_SECONDS + DISCOVERY_RETRY_SECONDS + 60)
        assert trial.discoveries == 2
        assert OF_BICYCLES in trial.supervisor.streams


async def test_a_start_that_finds_no_pages_for_what_may_pass_looks_again_soon() -> None:
    async with upkeep_of(faults="http_500=first:1") as trial:
        assert await trial.upkeep.discover() is not None
        await trial.let_pass(DISCOVERY_RETRY_SECONDS + 20)
        assert trial.discoveries == 2
        assert OF_BICYCLES in trial.supervisor.streams


async def test_with_a_dead_token_they_are_looked_for_slowly_and_found_once_it_is_good_again() -> None:
    async with upkeep_of() as trial:
        trial.simulator.world.access.revoke(USER)
        problem = await trial.upkeep.discover()
        assert isinstance(problem, Problem)
        assert problem.code == 190
        trial.simulator.world.access.resize(USER)
        await trial.let_pass(DISCOVERY_SECONDS + 60)
        assert trial.discoveries == 2
        assert OF_BICYCLES in trial.supervisor.streams


async def test_no_discovery_is_made_inside_a_pause_of_the_app_whoever_met_it() -> None:
    async with upkeep_of() as trial:
        rate_limit = RateLimit(Scope.APP, 1, NOON, NOON + timedelta(hours=1), replace(APP_LIMIT, wait_seconds=3600.0))
        trial.engine.rate_limits.learn(Checkpoint(OF_BICYCLES.key, rate_limit=rate_limit))
        assert await trial.upkeep.discover() == Held()
        await trial.let_pass(3500)
        assert trial.discoveries == 0
        trial.engine.stop.clear()
        await trial.let_pass(100 + DISCOVERY_RETRY_SECONDS + 20)
        assert trial.discoveries == 1


async def test_an_app_limit_that_discovery_meets_holds_up_every_stream() -> None:
    async with upkeep_of() as trial:
        trial.simulator.limit(4, seconds=600)
        await trial.upkeep.discover()
        held_until = trial.engine.rate_limits.held_until(OF_BICYCLES)
        assert held_until is not None
        assert held_until >= NOON + timedelta(seconds=600)


async def test_a_page_of_the_configuration_keeps_its_token_though_it_is_discovered_too() -> None:
    own = Page(BICYCLES.id, "Bicycles", (Platform.MESSENGER,), "EAAOwnButDead00000000")
    async with upkeep_of(own) as trial:
        await trial.upkeep.discover()
        (result,) = await trial.supervisor.sync([OF_BICYCLES])
        assert result.run is not None
        assert result.run.status is RunStatus.STOPPED
    assert trial.secrets == [BAKERY.token]


async def test_a_lost_page_is_called_no_more_until_it_is_back() -> None:
    async with upkeep_of() as trial:
        await trial.upkeep.discover()
        trial.simulator.world.access.unmanage(BICYCLES.id)
        await trial.upkeep.discover()
        asked = trial.simulator.requests.total
        (lost,) = await trial.supervisor.sync([OF_BICYCLES])
        assert trial.simulator.requests.total == asked
        assert lost.run is not None
        assert lost.run.problem is not None
        assert (lost.run.status, lost.run.problem.kind) == (RunStatus.STOPPED, ProblemKind.NOT_MANAGED)
        trial.simulator.world.access.manage(BICYCLES.id)
        await trial.upkeep.discover()
        trial.clock.time += timedelta(minutes=1)
        (back,) = await trial.supervisor.sync([OF_BICYCLES])
        assert back.run is not None
        assert back.run.status is RunStatus.COMPLETE
