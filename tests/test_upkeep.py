"""Discovery: how often pages are looked for, what becomes of each answer, and that no pause is called into."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from kit.builders import NOON
from kit.leaping_clock import LeapingClock
from kit.memory_store import MemoryStore
from kit.shell import shared
from kit.simulated import BAKERY, BICYCLES, frozen_world
from milepost.core.checkpoint import Checkpoint, Pause
from milepost.core.events import RunStatus
from milepost.core.model import Platform, Scope, Stream
from milepost.core.ports import Held
from milepost.core.problems import Problem, ProblemKind
from milepost.engine.shared import Shared
from milepost.engine.stop import Bell, Stop
from milepost.engine.supervisor import Pace, Supervisor
from milepost.roster import Page, Roster
from milepost.settings import Settings
from milepost.sources.facebook.client import GraphClient
from milepost.sources.simulator.access import USER
from milepost.sources.simulator.server import SimulatorServer
from milepost.upkeep import DISCOVERY_RETRY_SECONDS, DISCOVERY_SECONDS, Configuration, Upkeep

OF_BICYCLES = Stream(Platform.MESSENGER, BICYCLES.id)
APP_LIMIT = Problem(ProblemKind.API, "(#4) Application request limit reached", code=4)


@dataclass
class Trial:
    """An upkeep whose time a test lets pass, and what it works on."""

    simulator: SimulatorServer
    clock: LeapingClock
    shared: Shared
    supervisor: Supervisor
    upkeep: Upkeep
    secrets: list[str]

    async def let_pass(self, seconds: float) -> None:
        """Let the upkeep run for so long."""
        self.clock.ends_at = self.clock.time + timedelta(seconds=seconds)
        configuration = Configuration(Settings, Path("config.yaml"))
        await self.upkeep.run(configuration, Bell(), self.clock, self.shared.stop)

    @property
    def discoveries(self) -> int:
        """How often the list of pages was asked for."""
        return sum(request.edge == "accounts" for request in self.simulator.requests.last)


@asynccontextmanager
async def upkeep_of(*pages: Page, faults: str = "calm") -> AsyncIterator[Trial]:
    stop, secrets = Stop(), list[str]()
    clock = LeapingClock(stop)
    share = shared(MemoryStore(), clock=clock, stop=stop)
    async with (
        frozen_world(3, faults, pages=(BAKERY, BICYCLES)) as simulator,
        GraphClient(simulator.base_url, "v26.0", clock=clock.now) as client,
    ):
        roster = Roster(client, share.pauses, 0, simulator.world.user_token)
        supervisor = Supervisor(share, roster.enrol(pages), Pace())
        listed = tuple({"id": page.id, "access_token": page.access_token} for page in pages)
        settings = Settings.model_validate({"discover_pages": True, "pages": listed})
        upkeep = Upkeep(client, roster, supervisor, settings, secrets.append)
        yield Trial(simulator, clock, share, supervisor, upkeep, secrets)


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
        trial.simulator.world.access.allow(USER)
        await trial.let_pass(DISCOVERY_SECONDS + 60)
        assert trial.discoveries == 2
        assert OF_BICYCLES in trial.supervisor.streams


async def test_no_discovery_is_made_inside_a_pause_of_the_app_whoever_met_it() -> None:
    async with upkeep_of() as trial:
        pause = Pause(Scope.APP, 1, NOON, NOON + timedelta(hours=1), APP_LIMIT)
        trial.shared.pauses.learn(Checkpoint(OF_BICYCLES.key, pause=pause))
        assert await trial.upkeep.discover() == Held()
        await trial.let_pass(3500)
        assert trial.discoveries == 0
        trial.shared.stop.silence()
        await trial.let_pass(100 + DISCOVERY_RETRY_SECONDS + 20)
        assert trial.discoveries == 1


async def test_an_app_limit_that_discovery_meets_holds_up_every_stream() -> None:
    async with upkeep_of() as trial:
        trial.simulator.limit(4, seconds=600)
        await trial.upkeep.discover()
        held_until = trial.shared.pauses.held_until(OF_BICYCLES)
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
