"""What the real daemon says of itself while something is wrong: on every face, and no longer than it lasts."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from kit.binary import PATIENCE_SECONDS, Running, milepost, started, until
from kit.exposition import families
from kit.flaky_proxy import breakable_line
from kit.graph_answers import listed, message, thread
from kit.installation import Installation, PostgresqlInstallation, ballast_of, installed_on_small_disk, page_section
from kit.loopback import serving
from kit.ports import unused_port
from kit.postgres import Server
from kit.simulated import BAKERY, BICYCLES, frozen_world, right_now
from milepost.engine.clock import SystemClock
from milepost.simulator.access import USER

Json = dict[str, Any]
ASK_AGAIN_SECONDS = 0.1


class Face:
    """A running daemon and its answers."""

    def __init__(self, installation: Installation, running: Running, session: aiohttp.ClientSession) -> None:
        self.installation = installation
        self.running = running
        self.session = session

    @property
    def url(self) -> str:
        """The address of the status page."""
        return str(self.session._base_url)

    async def readyz(self) -> tuple[int, str]:
        """Return the status and the reason."""
        async with self.session.get("/readyz") as response:
            body = await response.text()
            return response.status, body if response.status == 200 else (await response.json())["detail"]

    async def daemon(self) -> Json:
        """Return the status of the daemon as a whole."""
        async with self.session.get("/api/daemon") as response:
            assert response.status == 200, await response.text()
            found: Json = await response.json()
            return found

    async def issues(self) -> dict[str, Json]:
        """Return the issues by kind, the most serious first."""
        return {issue["kind"]: issue for issue in (await self.daemon())["issues"]}

    async def streams(self) -> dict[str, Json]:
        """Return the status of every stream by its key."""
        async with self.session.get("/api/streams") as response:
            return {each["stream"]: each for each in (await response.json())["streams"]}

    async def metric(self, name: str) -> float | None:
        """Return the value of a metric without labels; None if there is none."""
        async with self.session.get("/metrics") as response:
            exposed = families(await response.read())
        return next((sample.value for each in exposed for sample in each.samples if sample.name == name), None)

    async def until_metric(self, name: str, least: float) -> None:
        """Wait until a metric without labels, which only grows, is at least this."""
        clock = SystemClock()
        ends = clock.steady() + PATIENCE_SECONDS
        while (value := await self.metric(name) or 0) < least:
            assert clock.steady() < ends, (value, self.running.said)
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def status(self) -> str:
        """Return the output of `milepost status`."""
        ended = await milepost(self.installation.folder, "status")
        assert ended.code == 0, ended
        return ended.stdout

    async def until_states(self, *wanted: str) -> None:
        """Wait until the streams are in these states and in no other."""
        clock = SystemClock()
        ends = clock.steady() + PATIENCE_SECONDS
        while (states := {stream["state"] for stream in (await self.streams()).values()}) != set(wanted):
            assert clock.steady() < ends, (states, self.running.said)
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def until_wrong(self, kind: str, is_wrong: bool = True) -> None:
        """Wait until there is an issue of this kind, or none any more."""
        await self.until(lambda issues: (kind in issues) is is_wrong)

    async def until(self, condition: Callable[[dict[str, Json]], bool]) -> None:
        """Wait until a condition on the issues holds."""
        clock = SystemClock()
        ends = clock.steady() + PATIENCE_SECONDS
        while not condition(issues := await self.issues()):
            assert clock.steady() < ends, (issues, self.running.said)
            await asyncio.sleep(ASK_AGAIN_SECONDS)


@asynccontextmanager
async def facing(installation: Installation) -> AsyncIterator[Face]:
    """Run the daemon of an installation configured with `listening`, and wait until it answers."""
    async with (
        started(installation.folder, "run") as running,
        aiohttp.ClientSession(await running.url()) as session,
    ):
        yield Face(installation, running, session)


def listening() -> dict[str, str]:
    """Return an `http` section with a fixed address, at which `milepost status` finds the daemon, too."""
    return {"listen": f"127.0.0.1:{unused_port()}"}


STREAM = f"messenger:{BICYCLES.id}"


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Installation]:
    with installed_on_small_disk(tmp_path) as installation:
        yield installation


# --- the database -----------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_the_first_thing_said_until_there_is_room(on_small_disk: Installation) -> None:
    async with frozen_world(600, pages=(BICYCLES,)) as simulator:
        on_small_disk.configure_for(simulator, store={"url": f"sqlite:///{on_small_disk.database}"}, http=listening())
        async with facing(on_small_disk) as face:
            await face.until_wrong("store_away")
            assert next(iter(await face.issues())) == "store_away"
            assert "the disk is full: make room" in (await face.issues())["store_away"]["reason"]
            code, why = await face.readyz()
            assert code == 503
            assert "database or disk is full" in why
            assert await face.metric("milepost_store_up") == 0
            stream = (await face.streams())[STREAM]
            assert (stream["state"], stream["waits_for"]) == ("retrying", "the database")
            said = (await face.status()).splitlines()
            assert said[0].startswith("The database is unavailable since ")
            assert any(line.startswith("  waits for the database") for line in said)
            ballast_of(on_small_disk.database.parent).unlink()
            await face.until_wrong("store_away", is_wrong=False)
            await face.running.says("sweep completed")
            assert await face.readyz() == (200, "ready\n")
            assert await face.metric("milepost_store_up") == 1
            assert "unavailable" not in await face.status()


@pytest.mark.parametrize("installation", ["postgresql"], indirect=True)
async def test_a_postgresql_that_stops_is_the_first_thing_said_until_it_is_back(
    installation: Installation, postgres: Server
) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, http=listening())
        async with facing(installation) as face:
            await face.running.says("sweep completed")
            assert await face.metric("milepost_store_up") == 1
            postgres.stop("immediate")
            try:
                await face.until_wrong("store_away")
                assert (await face.readyz())[0] == 503
                assert await face.metric("milepost_store_up") == 0
                status = await milepost(installation.folder, "status")
                assert status.code == 1, status
                assert status.stderr.startswith("milepost: the database ")
            finally:
                postgres.start()
            await face.until_wrong("store_away", is_wrong=False)
            assert await face.readyz() == (200, "ready\n")


@pytest.mark.long
@pytest.mark.parametrize("installation", ["postgresql"], indirect=True)
async def test_a_server_that_is_frozen_is_the_first_thing_said_until_it_moves_again(
    installation: PostgresqlInstallation,
) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator, breakable_line(installation.kept) as line:
        installation.store_url = line.store_url
        installation.configure_for(simulator, http=listening())
        async with facing(installation) as face:
            await face.running.says("sweep completed")
            line.fall_silent()
            await face.until_wrong("store_away")
            assert (await face.readyz())[0] == 503
            assert await face.metric("milepost_store_up") == 0
            status = await milepost(installation.folder, "status")
            assert (status.code, status.stdout) == (1, ""), "it reads the database, which does not answer"
            assert status.stderr.startswith("milepost: the database ")
            line.speak_again()
            await face.until_wrong("store_away", is_wrong=False)
            assert await face.readyz() == (200, "ready\n")


# --- the configuration ------------------------------------------------------------------------------------------------


async def test_a_refused_reload_is_said_until_the_configuration_is_right_and_the_previous_one_stays(
    installation: Installation,
) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, http=listening())
        good = installation.config.read_text()
        async with facing(installation) as face:
            await face.running.says("sweep completed")
            misplaced = {"batch_size": 5000, "interval": BICYCLES.token}
            installation.config.write_text(yaml.safe_dump({**yaml.safe_load(good), "sync": misplaced}))
            face.running.signal(signal.SIGHUP)
            await face.until_wrong("reload_refused")
            assert "sync.batch_size: found 5000" in (await face.issues())["reload_refused"]["reason"]
            assert BICYCLES.token not in str(await face.daemon())
            assert await face.readyz() == (200, "ready\n"), "it works on, with the previous configuration"
            assert await face.metric("milepost_config_reload_successful") == 0
            assert (await face.streams())[STREAM]["is_configured"]
            installation.config.write_text(good)
            face.running.signal(signal.SIGHUP)
            await face.until_wrong("reload_refused", is_wrong=False)
            assert await face.metric("milepost_config_reload_successful") == 1


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_token_revoked_after_a_transient_failure_is_what_a_stopped_stream_shows(
    installation: Installation,
) -> None:
    async with frozen_world(20, "http_500=first:1", pages=(BICYCLES,)) as simulator:
        simulator.hold(after=1)  # so that the token is revoked before the second attempt
        installation.configure_for(simulator, http=listening())
        async with facing(installation) as face:
            await face.running.says("fetch failed, retrying")
            simulator.world.access.revoke(BICYCLES.id, 463)
            simulator.release()
            await face.until_states("stopped")
            stream = (await face.streams())[STREAM]
            assert stream["state"] == "stopped"
            assert "code 190" in stream["problem"]
            assert stream["advice"].startswith("the token has expired: give page")
            assert await face.readyz() == (200, "ready\n"), "it is one stream's token, not the daemon"
            said = await face.status()
            assert "→ the token has expired" in said
            assert "nothing to do" not in said


async def test_failed_discovery_is_said_and_without_any_stream_nothing_is_ready(installation: Installation) -> None:
    async with frozen_world(20, pages=(BAKERY, BICYCLES), clock=right_now) as simulator:
        simulator.world.access.revoke(USER)
        source = {"access_token": simulator.world.user_token, "discover_pages": True}
        installation.configure(simulator.base_url, source=source, http=listening())
        async with facing(installation) as face:
            issues = await face.issues()
            assert list(issues) == ["nothing_to_do", "discovery_failed"]
            assert "code 190" in issues["discovery_failed"]["reason"]
            assert await face.readyz() == (503, "there is no stream to work on: no page could be discovered")
            assert await face.metric("milepost_discovery_up") == 0
            said = (await face.status()).splitlines()
            assert said[0] == "There is no stream to work on: no page could be discovered"
            assert any("give source.access_token a new token" in line for line in said)
            simulator.world.access.allow(USER)
            face.running.signal(signal.SIGHUP)
            await face.until(lambda issues: not issues)
            assert await face.metric("milepost_discovery_up") == 1
            assert await face.readyz() == (200, "ready\n")


# --- slots ------------------------------------------------------------------------------------------------------------


async def test_streams_that_wait_for_a_slot_say_so(installation: Installation) -> None:
    async with frozen_world(60, pages=(BAKERY, BICYCLES)) as simulator:
        simulator.hold(after=1)
        installation.configure_for(simulator, http=listening(), sync={"concurrency": 1})
        async with facing(installation) as face:
            await face.until_states("syncing", "queued")
            await until(lambda: simulator.held)
            assert await face.metric("milepost_streams_due") == 2
            states = sorted(stream["state"] for stream in (await face.streams()).values())
            assert states.count("queued") == 2
            said = await face.status()
            assert said.count("waits for a free slot (sync.concurrency") == 2
            simulator.release()
            await face.until_states("complete")
            assert await face.metric("milepost_streams_due") == 0
            await face.until_metric("milepost_slot_wait_seconds_count", least=3)


# --- slow for a reason ------------------------------------------------------------------------------------------------


async def test_calls_that_are_far_apart_after_a_budget_ran_out_say_why(installation: Installation) -> None:
    answers = iter([{"X-App-Usage": '{"call_count":100,"total_time":20}'}])

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(listed(thread("t_1", message())), headers=next(answers, {}))

    async with serving(answer) as base_url:
        installation.configure(base_url, page_section(BICYCLES), http=listening())
        async with facing(installation) as face:
            line = await face.running.says("calls slowed down")
            assert "budget=app" in line
            assert "used=100%" in line
            await face.until_wrong("slowed_down")
            issue = (await face.issues())["slowed_down"]
            assert issue["what"] == "calls are slowed down for 1 page"
            assert issue["reason"] == "100% of the app's rate limit was reported as used"
            remark = (await face.streams())[STREAM]["remark"]
            assert "calls are " in remark
            assert remark.endswith("seconds apart, because 100% of the app's rate limit was reported as used")
            assert await face.readyz() == (200, "ready\n")
            assert "Calls are slowed down for 1 page since" in await face.status()


# --- the clocks -------------------------------------------------------------------------------------------------------


async def test_an_api_whose_clock_is_far_from_ours_is_said_until_they_agree(installation: Installation) -> None:
    ahead = [timedelta(days=30, hours=1)]

    async def answer(_: web.Request) -> web.Response:
        date = format_datetime(datetime.now(UTC) + ahead[0], usegmt=True)
        return web.json_response(listed(thread("t_1", message())), headers={"Date": date})

    async with serving(answer) as base_url:
        installation.configure(base_url, page_section(BICYCLES), http=listening(), sync={"interval": "1s"})
        async with facing(installation) as face:
            await face.running.says("clocks differ from the API's")
            await face.until_wrong("clocks_differ")
            issue = (await face.issues())["clocks_differ"]
            assert issue["what"] == "the API's clock is 30 days ahead of this machine's"
            assert "timedatectl" in issue["advice"]
            assert await face.metric("milepost_api_clock_offset_seconds") == pytest.approx(-30 * 86400 - 3600, abs=60)
            assert "The API's clock is 30 days ahead of this machine's since " in await face.status()
            assert await face.readyz() == (200, "ready\n"), "nothing is missed"
            ahead[0] = timedelta()
            await face.until_wrong("clocks_differ", is_wrong=False)
            assert await face.metric("milepost_api_clock_offset_seconds") == pytest.approx(0, abs=60)
