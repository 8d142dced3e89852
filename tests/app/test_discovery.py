"""The discovery of pages: how often it runs, and that it respects rate limits."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from app.trial import OF_BICYCLES, Trial, page_of, trial_of
from kit.binary import until
from kit.builders import NOON
from kit.engine_doubles import run_of
from kit.simulated import BAKERY, BICYCLES, frozen_world
from milepost.app.build import assembled
from milepost.app.discovery import DISCOVERY_RETRY_SECONDS, DISCOVERY_SECONDS
from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.events import RunStatus
from milepost.core.model import Platform, Stream
from milepost.core.ports import Held
from milepost.core.problems import Problem, ProblemKind, Scope
from milepost.engine.interrupt import Stop
from milepost.facebook.pages import Page
from milepost.reporting.health import IssueKind
from milepost.settings.model import Settings
from milepost.simulator.access import USER

WELL_BEFORE_THE_CALL_TIMES_OUT = 20.0
APP_LIMIT = Problem(ProblemKind.API, "(#4) Application request limit reached", code=4)


async def test_discovered_pages_are_synced_with_the_tokens_of_the_api_which_are_kept_secret() -> None:
    async with trial_of() as trial:
        assert await trial.discovery.discover() is None
        assert set(trial.supervisor.streams) == {
            Stream(Platform.MESSENGER, BAKERY.id),
            Stream(Platform.INSTAGRAM, BAKERY.id),
            OF_BICYCLES,
        }
        results = await trial.supervisor.sync(trial.supervisor.streams)
        assert [result.run.status for result in results if result.run] == [RunStatus.COMPLETE] * 3
    assert sorted(trial.secrets) == sorted([BAKERY.token, BICYCLES.token])


async def test_pages_are_discovered_every_quarter_of_an_hour() -> None:
    async with trial_of() as trial:
        await trial.run_discovery(4 * DISCOVERY_SECONDS + 60)
        assert trial.discoveries == 4


async def test_a_stop_does_not_wait_for_a_discovery_that_gets_no_answer() -> None:
    async with trial_of() as trial:
        trial.simulator.hold()
        trial.discovery.request()
        running = asyncio.create_task(trial.discovery.run(trial.clock, trial.engine.stop))
        await until(lambda: trial.simulator.held)
        trial.engine.stop.request()
        async with asyncio.timeout(WELL_BEFORE_THE_CALL_TIMES_OUT):
            await running
        trial.simulator.release()


async def test_a_stop_does_not_wait_for_the_discovery_of_a_start(tmp_path: Path) -> None:
    stop = Stop()
    async with frozen_world(3) as simulator:
        source = {"kind": "facebook", "base_url": simulator.base_url, "discover_pages": True}
        settings = Settings.model_validate(
            {
                "store": {"url": f"sqlite:///{tmp_path / 'milepost.db'}"},
                "source": {**source, "access_token": simulator.world.user_token},
            }
        )

        async def start() -> Problem | Held | None:
            async with assembled(settings, stop) as parts:
                return parts.undiscovered

        simulator.hold()
        starting = asyncio.create_task(start())
        await until(lambda: simulator.held)
        stop.request()
        async with asyncio.timeout(WELL_BEFORE_THE_CALL_TIMES_OUT):
            assert await starting == Held()
        simulator.release()


async def test_discovery_is_retried_soon_after_a_failure_that_may_pass() -> None:
    async with trial_of(faults="http_500=first:2") as trial:
        await trial.run_discovery(DISCOVERY_SECONDS + DISCOVERY_RETRY_SECONDS + 60)
        assert trial.discoveries == 3  # the first one also looks whether the list can be read
        assert OF_BICYCLES in trial.supervisor.streams


async def test_a_start_whose_discovery_failed_retries_it_soon() -> None:
    async with trial_of(faults="http_500=first:2") as trial:
        assert await trial.discovery.discover() is not None
        await trial.run_discovery(DISCOVERY_RETRY_SECONDS + 20)
        assert trial.discoveries == 3  # the first one also looks whether the list can be read
        assert OF_BICYCLES in trial.supervisor.streams


async def test_with_an_invalid_token_discovery_is_slow_and_succeeds_once_it_is_valid_again() -> None:
    async with trial_of() as trial:
        trial.simulator.world.access.revoke(USER)
        problem = await trial.discovery.discover()
        assert isinstance(problem, Problem)
        assert problem.code == 190
        trial.simulator.world.access.allow(USER)
        await trial.run_discovery(DISCOVERY_SECONDS + 60)
        assert trial.discoveries == 2
        assert OF_BICYCLES in trial.supervisor.streams


async def test_no_discovery_runs_during_an_app_rate_limit_whoever_met_it() -> None:
    async with trial_of() as trial:
        rate_limit = RateLimit(Scope.APP, 1, NOON, NOON + timedelta(hours=1), replace(APP_LIMIT, wait_seconds=3600.0))
        trial.engine.rate_limits.observe(Checkpoint(OF_BICYCLES, rate_limit=rate_limit))
        assert await trial.discovery.discover() == Held()
        await trial.run_discovery(3500)
        assert trial.discoveries == 0
        trial.engine.stop.clear()
        await trial.run_discovery(100 + DISCOVERY_RETRY_SECONDS + 20)
        assert trial.discoveries == 1


async def test_an_app_limit_that_discovery_meets_holds_up_every_stream() -> None:
    async with trial_of() as trial:
        trial.simulator.limit(4, seconds=600)
        await trial.discovery.discover()
        held_until = trial.engine.rate_limits.held_until(OF_BICYCLES)
        assert held_until is not None
        assert held_until >= NOON + timedelta(seconds=600)


async def test_a_listed_page_keeps_its_own_token_although_it_is_discovered_too() -> None:
    own = Page(BICYCLES.id, "Bicycles", (Platform.MESSENGER,), "EAAOwnButDead00000000")
    async with trial_of(own) as trial:
        await trial.discovery.discover()
        (result,) = await trial.supervisor.sync([OF_BICYCLES])
        assert run_of(result).status is RunStatus.STOPPED
    assert trial.secrets == [BAKERY.token]


async def test_no_calls_are_made_for_a_lost_page_until_it_is_back() -> None:
    async with trial_of() as trial:
        await trial.discovery.discover()
        trial.simulator.world.access.unmanage(BICYCLES.id)
        await trial.discovery.discover()
        asked = trial.simulator.requests.total
        (lost,) = await trial.supervisor.sync([OF_BICYCLES])
        assert trial.simulator.requests.total == asked
        run = run_of(lost)
        assert run.problem is not None
        assert (run.status, run.problem.kind) == (RunStatus.STOPPED, ProblemKind.NOT_MANAGED)
        trial.simulator.world.access.manage(BICYCLES.id)
        await trial.discovery.discover()
        trial.clock.time += timedelta(minutes=1)
        (back,) = await trial.supervisor.sync([OF_BICYCLES])
        assert run_of(back).status is RunStatus.COMPLETE


async def test_an_empty_list_after_one_with_pages_is_not_believed_until_it_has_lasted_an_hour() -> None:
    """An incident can look like it, and the pages' own tokens are as good as before."""
    async with trial_of() as trial:
        await trial.discovery.discover()
        for page in (BAKERY, BICYCLES):
            trial.simulator.world.access.unmanage(page.id)
        assert isinstance(await trial.discovery.discover(), Problem)
        assert kinds(trial) == [IssueKind.DISCOVERY_FAILED]
        (read,) = await trial.supervisor.sync([OF_BICYCLES])
        assert run_of(read).status is RunStatus.COMPLETE
        trial.clock.time += timedelta(minutes=61)
        assert await trial.discovery.discover() is None
        (lost,) = await trial.supervisor.sync([OF_BICYCLES])
        assert run_of(lost).status is RunStatus.STOPPED


async def test_a_clock_that_is_set_forward_makes_no_empty_list_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trial_of() as trial:
        await trial.discovery.discover()
        for page in (BAKERY, BICYCLES):
            trial.simulator.world.access.unmanage(page.id)
        monkeypatch.setattr(trial.clock, "steady", lambda: 60.0)
        assert isinstance(await trial.discovery.discover(), Problem)
        trial.clock.time += timedelta(hours=3)
        assert isinstance(await trial.discovery.discover(), Problem)


def kinds(trial: Trial) -> list[str]:
    return [issue.kind.value for issue in trial.discovery.issues()]


async def test_a_discovery_that_fails_is_an_issue_from_its_first_failure_until_it_succeeds() -> None:
    async with trial_of(page_of(BAKERY)) as trial:
        trial.simulator.world.access.revoke(USER)
        await trial.discovery.discover()
        began = trial.clock.now()
        trial.clock.time += timedelta(minutes=15)
        await trial.discovery.discover()
        (issue,) = trial.discovery.issues()
        assert (issue.kind, issue.since, trial.discovery.is_up) == (IssueKind.DISCOVERY_FAILED, began, False)
        assert "code 190" in (issue.reason or "")
        trial.simulator.world.access.allow(USER)
        await trial.discovery.discover()
        assert (kinds(trial), trial.discovery.is_up) == ([], True)


async def test_a_rate_limit_that_forbids_a_discovery_is_no_failure_of_one_that_has_succeeded() -> None:
    async with trial_of() as trial:
        rate_limit = RateLimit(Scope.APP, 1, NOON, NOON + timedelta(hours=1), replace(APP_LIMIT, wait_seconds=3600.0))
        trial.engine.rate_limits.observe(Checkpoint(OF_BICYCLES, rate_limit=rate_limit))
        await trial.discovery.discover()
        assert (kinds(trial), trial.discovery.is_up) == (["nothing_to_do", "discovery_failed"], False)
        trial.clock.time += timedelta(hours=2)
        await trial.discovery.discover()
        assert (kinds(trial), trial.discovery.is_up) == ([], True)
        limit = replace(rate_limit, since=trial.clock.now(), until=trial.clock.now() + timedelta(hours=1))
        trial.engine.rate_limits.observe(Checkpoint(OF_BICYCLES, rate_limit=limit))
        assert await trial.discovery.discover() == Held()
        assert (kinds(trial), trial.discovery.is_up) == ([], True)


async def test_without_any_stream_there_is_nothing_to_do_and_why() -> None:
    async with trial_of() as trial:
        for page in (BAKERY, BICYCLES):
            trial.simulator.world.access.unmanage(page.id)
        await trial.discovery.discover()
        (issue,) = trial.discovery.issues()
        assert (issue.kind, issue.reason) == (IssueKind.NOTHING_TO_DO, "source.access_token manages no page")
        await trial.reload(discover_pages=False)
        (issue,) = trial.discovery.issues()
        assert (issue.reason, trial.discovery.is_up) == ("the configuration lists no page", None)


async def test_a_requested_discovery_runs_at_once() -> None:
    async with trial_of() as trial:
        trial.discovery.request()
        await trial.run_discovery(5)
        assert trial.discoveries == 1
        assert OF_BICYCLES in trial.supervisor.streams


async def test_a_discovery_that_new_settings_overtake_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trial_of() as trial:
        fetch = trial.registry.fetch_managed

        async def reload_meanwhile() -> tuple[Page, ...] | Problem | Held:
            found = await fetch()
            await trial.reload(discover_pages=False)
            return found

        monkeypatch.setattr(trial.registry, "fetch_managed", reload_meanwhile)
        assert await trial.discovery.discover() == Held()
        assert trial.supervisor.streams == ()
