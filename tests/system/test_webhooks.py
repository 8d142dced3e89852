"""Webhooks with the real daemon: messages are copied within seconds, bursts cost few calls, and kills lose nothing."""

import asyncio
import json
import re
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from kit.binary import PATIENCE_SECONDS, Running, started, until
from kit.fleet import fleet
from kit.installation import Installation, PostgresqlInstallation, on_sqlite_first
from kit.postgres import Database
from kit.simulated import BICYCLES, NOW, frozen_world
from kit.webhooks import SECRET, body_of, signed
from milepost.app.webhooks import UNKNOWN_SIGNATURE
from milepost.simulator.server import SimulatorServer
from milepost.simulator.webhooks import parse_webhook_faults

STREAM = f"messenger:{BICYCLES.id}"
HOOKS = {"listen": "127.0.0.1:0", "verify_token": "a-word"}
SOURCE = {"app_secret": SECRET}


@dataclass
class Hooked:
    """A daemon that takes webhooks, and what a simulated Meta sends to it."""

    installation: Installation
    simulator: SimulatorServer
    daemon: Running
    url: str
    session: aiohttp.ClientSession

    async def send(self, *message_ids: str, secret: str = SECRET) -> int:
        """Send the webhook of these messages, and return the status of the answer."""
        return await self._post(body_of(*message_ids, page_id=BICYCLES.id), secret)

    async def deliver(self, *message_ids: str) -> None:
        """Send the webhook of these messages until it is stored."""
        await self.deliver_body(body_of(*message_ids, page_id=BICYCLES.id))

    async def deliver_body(self, body: bytes) -> None:
        """Send a webhook as Meta does: again if it is not stored in time, as on a busy machine."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (status := await self._post(body, SECRET)) == 503:  # noqa: ASYNC110  (another process answers)
                await asyncio.sleep(0.1)
        assert status == 200

    async def _post(self, body: bytes, secret: str) -> int:
        async with self.session.post(self.url, data=body, headers=signed(body, secret)) as response:
            return response.status

    def arrive(self, conversation_id: str | None = None) -> tuple[str, str]:
        """Let a message arrive; return its conversation's id and its own."""
        conversation_id = self.simulator.world.receive(BICYCLES.id, "messenger", NOW, conversation_id)
        thread = self.simulator.world.find(conversation_id, NOW)
        assert thread is not None
        return conversation_id, thread.newest[0].id

    async def stored(self, message_id: str) -> None:
        query = "SELECT 1 FROM contact_interaction_events WHERE event_id = ?"
        await until(lambda: self.installation.rows(query, message_id))

    def calls(self) -> int:
        return self.simulator.requests.total


@asynccontextmanager
async def hooked(installation: Installation) -> AsyncIterator[Hooked]:
    """Run a daemon that has copied a small world, and reads it once an hour."""
    async with (
        frozen_world(40, pages=(BICYCLES,), app_secret=SECRET) as simulator,
        aiohttp.ClientSession() as session,
    ):
        installation.configure_for(simulator, webhooks=HOOKS, source=SOURCE, sync={"interval": "1h"})
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            yield Hooked(installation, simulator, daemon, await url_of(daemon), session)


async def url_of(daemon: Running) -> str:
    found = re.search(r"url=(http\S+)", await daemon.says("listening for webhooks"))
    assert found is not None
    return found[1]


@on_sqlite_first
async def test_a_message_is_copied_within_seconds_of_its_webhook(installation: Installation) -> None:
    async with hooked(installation) as hooks:
        _, message_id = hooks.arrive()
        await hooks.deliver(message_id)
        await hooks.stored(message_id)
        await until(lambda: installation.endings(STREAM) == [("complete", None)] * 2)
        await hooks.deliver(message_id)  # a repetition
        hooks.daemon.signal(signal.SIGTERM)
        assert (await hooks.daemon.ended()).code == 0
    assert installation.endings(STREAM) == [("complete", None)] * 2


async def test_a_burst_of_200_webhooks_makes_at_most_40_calls_and_loses_none(installation: Installation) -> None:
    async with hooked(installation) as hooks:
        before = hooks.calls()
        arrived: list[str] = []
        for _ in range(10):
            news = [hooks.arrive()[1] for _ in range(20)]
            await asyncio.gather(*map(hooks.deliver, news))
            arrived += news
        for message_id in arrived:
            await hooks.stored(message_id)
        await until(
            lambda: not installation.rows("SELECT 1 FROM webhook_events WHERE due_at IS NOT NULL AND claims < 3")
        )
        assert hooks.calls() - before <= 40


async def test_what_was_acknowledged_before_a_kill_is_read_after_the_next_start(installation: Installation) -> None:
    async with hooked(installation) as hooks:
        hooks.simulator.hold()
        _, message_id = hooks.arrive()
        await hooks.deliver(message_id)
        await hooks.daemon.kill()
        hooks.simulator.release()
        async with started(installation.folder, "run") as daemon:
            await hooks.stored(message_id)
            daemon.signal(signal.SIGTERM)
            await daemon.ended()


async def test_what_is_not_signed_leaves_no_trace(installation: Installation) -> None:
    async with hooked(installation) as hooks:
        before = hooks.calls()
        assert await hooks.send("m_1", secret="of-another-app") == 403
        async with hooks.session.get(hooks.url.rpartition("/webhooks")[0] + "/metrics") as response:
            assert response.status == 404
        assert installation.rows("SELECT * FROM webhook_events") == []
        assert hooks.calls() == before


async def test_a_configuration_without_a_verify_token_or_a_secret_is_refused(installation: Installation) -> None:
    installation.configure("http://127.0.0.1:1", {"id": "1", "access_token": "x"}, webhooks={"listen": "127.0.0.1:0"})
    async with started(installation.folder, "run") as daemon:
        ended = await daemon.ended()
    assert ended.code == 78
    assert "webhooks.verify_token: missing" in ended.stderr
    assert "source.app_secret: missing" in ended.stderr


async def test_the_embedded_world_is_copied_within_seconds_without_any_settings(installation: Installation) -> None:
    installation.config.write_text("http: {listen: '127.0.0.1:0'}\nsync: {interval: 1h}\n")
    installation.database = installation.folder / "simulated.db"
    async with started(installation.folder, "run") as daemon:
        await daemon.says("listening for webhooks")
        await until(
            lambda: (
                installation.has_tables()
                and installation.rows("SELECT 1 FROM runs WHERE mode = 'incremental' AND interaction_events > 0")
            )
        )
        daemon.signal(signal.SIGTERM)
        ended = await daemon.ended()
    assert ended.code == 0
    assert "Traceback" not in ended.stderr


async def test_whatever_webhooks_do_sweeps_copy_everything_once(installation: Installation) -> None:
    """Late, doubled, missing, badly signed, and a hundred at once: what was not announced comes with the next sweep."""
    async with hooked(installation) as hooks:
        faults = parse_webhook_faults("missing=0.3,doubled=0.3,badly_signed=0.2,late=0.5,late_seconds=1")
        hooks.simulator.send_webhooks(hooks.url, SECRET, faults)
        arrived = [hooks.arrive()[1] for _ in range(20)]
        hooks.simulator.hold_webhooks()
        arrived += [hooks.arrive()[1] for _ in range(100)]
        hooks.simulator.release_webhooks()
        announced = "SELECT message_id FROM webhook_events WHERE claims > 0 OR due_at IS NULL"
        await until(lambda: len(installation.rows(announced)) > 60)
        synced = await hooks.session.post(f"{await hooks.daemon.url()}/api/streams/{STREAM}/sync", json={})
        assert synced.status == 200
        for message_id in arrived:
            await hooks.stored(message_id)
        stored = installation.rows("SELECT event_id FROM contact_interaction_events")
    assert len(stored) == len(set(stored))


async def test_what_is_set_up_wrong_is_said_by_the_status(installation: Installation) -> None:
    async def said() -> list[str]:
        async with hooks.session.get(f"{await hooks.daemon.url()}/api/daemon") as response:
            issues = (await response.json())["issues"]
        return [issue["what"] for issue in issues if issue["kind"] == "webhooks"]

    without_values = {"object": "page", "entry": [{"id": BICYCLES.id, "time": 1, "changed_fields": ["messages"]}]}
    async with hooked(installation) as hooks:
        async with hooks.session.post(hooks.url, data=b"{}") as unsigned:
            assert unsigned.status == 403
        assert await said() == []
        assert await hooks.send("m_1", secret="of-another-app") == 403
        assert await said() == [UNKNOWN_SIGNATURE]
        await hooks.deliver_body(json.dumps(without_values).encode())
        assert await said() == ["webhooks come without their values"]
        await hooks.deliver("m_1")
        assert await said() == []
        for _ in range(10):
            await hooks.send("m_1", secret="of-a-stranger")
        assert await said() == []
        await hooks.send("m_1", secret="that-was-replaced")
        assert await said() == [UNKNOWN_SIGNATURE]
        await hooks.deliver("m_1")
        assert await said() == []


async def test_what_is_refused_while_the_database_is_locked_comes_again(installation: Installation) -> None:
    async with hooked(installation) as hooks:
        _, message_id = hooks.arrive()
        with closing(sqlite3.connect(installation.database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await hooks.send(message_id) == 503
        await hooks.deliver(message_id)
        await hooks.stored(message_id)


async def test_any_of_several_workers_takes_webhooks_for_all(tmp_path: Path, database: Database) -> None:
    """Each message is announced to one worker, the next to the other; a repetition goes to both."""
    async with (
        frozen_world(40, pages=(BICYCLES,), app_secret=SECRET) as simulator,
        fleet(tmp_path, database, simulator) as workers,
        aiohttp.ClientSession() as session,
    ):
        joined = [await workers.join(webhooks=HOOKS, source=SOURCE, sync={"interval": "1h"}) for _ in range(2)]
        await workers.complete(1)
        kept = PostgresqlInstallation(tmp_path, database)
        members = [Hooked(kept, simulator, each, await url_of(each), session) for each in joined]
        arrived = []
        for number in range(6):
            _, message_id = members[0].arrive()
            arrived.append(message_id)
            await members[number % 2].deliver(message_id)
            await members[0].stored(message_id)
        under_way = (
            "SELECT 1 FROM webhook_events WHERE due_at IS NOT NULL UNION SELECT 1 FROM runs WHERE ended_at IS NULL"
        )
        await until(lambda: not kept.rows(under_way))
        before = simulator.requests.total
        for each in members:
            await each.deliver(*arrived)
        await until(lambda: not kept.rows(under_way))
        assert simulator.requests.total == before
