"""Notices to people with the real daemon and a real receiver: each problem is reported once, and so is its end."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from kit.binary import milepost, started, until
from kit.fleet import fleet
from kit.installation import Installation
from kit.loopback import serving
from kit.postgres import Database
from kit.simulated import BAKERY, BICYCLES, frozen_world, right_now

SECRET = "a-path-that-is-secret"  # in the receiver's URL


@dataclass
class Receiver:
    """Where notices arrive; it answers with `status`."""

    url: str = ""
    status: int = 200
    got: list[dict[str, Any]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        assert request.path == f"/{SECRET}"
        self.got.append(await request.json())
        return web.Response(status=self.status)

    @property
    def titles(self) -> list[str]:
        return [each["title"] for each in self.got]


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Serve a receiver during the block."""
    found = Receiver()
    async with serving(found.answer) as url:
        found.url = f"{url.replace('http', 'json')}/{SECRET}"
        yield found


@pytest.mark.timeout(300)
async def test_a_revoked_token_is_told_once_even_after_a_restart_and_then_that_it_is_over(
    installation: Installation,
) -> None:
    stopped = f"Milepost: page {BAKERY.id} is stopped"
    async with receiver() as people, frozen_world(5, clock=right_now) as simulator:
        installation.configure_for(simulator, notify={"urls": [people.url]}, sync={"interval": "1s"})
        async with started(installation.folder, "run") as daemon:
            await until(lambda: installation.has_tables() and len(installation.checkpoints()) == 3)
            await daemon.says("sweep completed")
            simulator.world.access.revoke(BAKERY.id, 463)
            await until(lambda: people.got)
            daemon.signal(signal.SIGTERM)
            first = await daemon.ended()
        async with started(installation.folder, "run") as daemon:
            await daemon.says("started")
            simulator.world.access.allow(BAKERY.id)
            daemon.signal(signal.SIGHUP)  # tries every stream
            await until(lambda: len(people.got) > 1)
            daemon.signal(signal.SIGTERM)
            second = await daemon.ended()
    assert (first.code, second.code) == (0, 0)
    assert people.titles == [stopped, "Milepost: recovered"]
    told, over = (each["message"] for each in people.got)
    assert f"streams instagram:{BAKERY.id}, messenger:{BAKERY.id}" in told
    assert "(HTTP 400, code 190, subcode 463)" in told
    assert f"What to do: the token has expired: give page {BAKERY.id} a new access_token" in told
    assert over == f"streams instagram:{BAKERY.id}, messenger:{BAKERY.id} are copied again."
    assert [each["type"] for each in people.got] == ["failure", "success"]
    for text in (told, over, *people.titles):
        assert BAKERY.name not in text
        assert BAKERY.token not in text
    for log in (first.stderr, second.stderr):
        assert SECRET not in log
    assert "notice sent" in first.stderr


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_one_of_several_workers_tells_and_another_one_if_it_dies(tmp_path: Path, database: Database) -> None:
    async with (
        receiver() as people,
        frozen_world(5, clock=right_now) as simulator,
        fleet(tmp_path, database, simulator) as workers,
    ):
        for _ in range(3):
            await workers.join(notify={"urls": [people.url]}, sync={"interval": "1s"})
        await workers.complete(3)
        first, second, third = workers.all
        await first.kill()
        simulator.world.access.revoke(BICYCLES.id)
        # Half a minute until the others count the first as dead and take its stream over, and another to tell.
        await until(lambda: database.sql("SELECT 1 FROM runs WHERE reason = 'authorization'"), seconds=100)
        await until(lambda: people.got, seconds=150)  # each asks twice a minute who is to tell
        for worker in (third, second):  # one that goes on alone would not know that people were told
            await worker.kill()
        workers.all.clear()
        assert people.titles == [f"Milepost: page {BICYCLES.id} is stopped"]


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_dead_letters_and_a_token_that_ends_are_a_notice_each(installation: Installation) -> None:
    async with receiver() as people, frozen_world(12, pages=(BICYCLES,), clock=right_now) as simulator:
        simulator.world.poison(simulator.world.truth(BICYCLES.id, "messenger", right_now())[3].id)
        simulator.world.access.expire(BICYCLES.id, 3.5 * 86_400, right_now())
        installation.configure_for(simulator, notify={"urls": [people.url]}, sync={"interval": "1s"})
        async with started(installation.folder, "run") as daemon:
            await until(lambda: people.got)
            await until(lambda: len(people.got) > 1, seconds=150)  # tokens are looked at half a minute after the start
            daemon.signal(signal.SIGTERM)
            await daemon.ended()
    assert sorted(people.titles) == [
        "Milepost: 1 new dead letter",
        f"Milepost: the token of page {BICYCLES.id} will end",
    ]
    assert [each["type"] for each in people.got] == ["warning", "warning"]
    told = "\n".join(each["message"] for each in people.got)
    assert f"1 dead letter in stream messenger:{BICYCLES.id}: it could not be read" in told
    assert "(in 3 days)" in told
    names = installation.rows("SELECT name FROM contacts WHERE name IS NOT NULL")
    assert names
    assert not [name for (name,) in names if name in told]


@pytest.mark.timeout(300)
async def test_the_daemon_goes_on_while_nobody_takes_its_notices_and_says_so(installation: Installation) -> None:
    async with receiver() as people, frozen_world(5, clock=right_now) as simulator:
        people.status = 500
        installation.configure_for(simulator, notify={"urls": [people.url]}, sync={"interval": "1s"})
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            simulator.world.access.revoke(BICYCLES.id)
            line = await daemon.says("notice not sent, retrying")
            assert "the service answered HTTP 500" in line
            async with aiohttp.ClientSession() as session, session.get(f"{await daemon.url()}/api/daemon") as response:
                (issue,) = (await response.json())["issues"]
            assert issue["kind"] == "notices"
            assert issue["what"] == "notices to people are not accepted by 1 destination"
            assert issue["reason"] == "json://127.0.0.1: the service answered HTTP 500"
            people.status = 200
            await daemon.says("notice sent")
            daemon.signal(signal.SIGTERM)
            ended = await daemon.ended()
    assert set(people.titles) == {f"Milepost: page {BICYCLES.id} is stopped"}
    assert SECRET not in ended.stderr


async def test_the_trial_shows_whether_each_destination_accepted_it(installation: Installation) -> None:
    async with receiver() as one, receiver() as other:
        other.status = 401
        urls = [one.url, other.url]
        installation.config.write_text(f"notify: {{urls: {urls}}}\n")
        ended = await milepost(installation.folder, "notify", "test")
        assert ended.code == 1, ended
        assert ended.stdout.splitlines() == [
            "json://127.0.0.1 (1)  accepted",
            "json://127.0.0.1 (2)  not accepted: the service answered HTTP 401",
        ]
        assert one.titles == other.titles == ["Milepost: test"]
        other.status = 200
        ended = await milepost(installation.folder, "notify", "test")
        assert (ended.code, SECRET in ended.stdout + ended.stderr) == (0, False)


async def test_a_url_that_apprise_does_not_know_is_refused_without_being_shown(installation: Installation) -> None:
    installation.config.write_text("notify: {urls: ['json://127.0.0.1/x', 'bogus://a-secret-token']}\n")
    for command in (["config", "check"], ["run"], ["notify", "test"]):
        ended = await milepost(installation.folder, *command)
        assert ended.code == 78, ended
        assert "notify.urls[1]: Apprise does not know such a URL" in ended.stderr
        assert "a-secret-token" not in ended.stdout + ended.stderr


async def test_without_apprise_the_command_that_installs_it_is_named(
    installation: Installation, tmp_path: Path
) -> None:
    missing = tmp_path / "missing" / "apprise"
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text("raise ModuleNotFoundError('apprise')\n")
    installation.config.write_text("notify: {urls: ['json://127.0.0.1/x']}\n")
    for command in (["run"], ["config", "check"], ["notify", "test"]):
        ended = await milepost(installation.folder, *command, environment={"PYTHONPATH": str(missing.parent)})
        assert ended.code == 78, ended
        assert "notify.urls needs Apprise, which is not installed" in ended.stderr
        assert "pip install 'milepost[notify]'" in ended.stderr


async def test_without_a_destination_there_is_nothing_to_try(installation: Installation) -> None:
    installation.config.write_text("notify: {on: [stopped]}\n")
    ended = await milepost(installation.folder, "notify", "test")
    assert ended.code == 78
    assert "notify.urls is empty" in ended.stderr
