"""Consumers of the change feed: those of docs/changes.md, and one that is killed again and again, as is the daemon."""

import asyncio
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kit.binary import Running, milepost, started, until
from kit.fleet import fleet, fleet_pages
from kit.installation import Installation, on_sqlite_first
from kit.mirror import consuming, mirrored, mirrored_in_javascript, numbers, program, stored_numbers
from kit.ports import unused_port
from kit.postgres import Database
from kit.simulated import STREAMS, frozen_world
from milepost.simulator.server import SimulatorServer

KILLS = 20
SEED = 20261129
FAULTS = "http_500=0.03,truncated=0.02,empty_batch=0.02,latency=100ms"
RETRY = {"attempts": 20, "base_delay": "1ms", "max_delay": "10ms"}
SYNC = {"batch_size": 5, "max_run_duration": "2s", "interval": "1s"}
PATIENCE_SECONDS = 120.0
LOST = "1-0-0123456789abcdef"  # the mark of another first entry


@on_sqlite_first
@pytest.mark.parametrize("language", ["python", "js"])
async def test_the_consumers_of_the_page_have_what_the_tables_have_also_after_a_restore(
    installation: Installation, tmp_path: Path, language: str
) -> None:
    command = (
        [sys.executable, "-c"] if language == "python" else [shutil.which("node") or "", "--input-type=module", "-e"]
    )
    if not command[0]:
        pytest.skip("node is missing: apt-get install nodejs")
    async with frozen_world(30) as simulator:
        installation.configure_for(simulator)
        await installation.sync_until_complete()
        async with started(installation.folder, "run") as daemon:
            text = program(language, await daemon.url(), ends=True)
            for _ in range(2):
                process = await asyncio.create_subprocess_exec(*command, text, cwd=tmp_path)
                assert await asyncio.wait_for(process.wait(), PATIENCE_SECONDS) == 0
                rows = mirrored(tmp_path) if language == "python" else mirrored_in_javascript(tmp_path)
                assert len(rows) > 100
                assert numbers(rows) == stored_numbers(installation.rows)
                outlive(tmp_path, language)


async def test_the_command_shows_what_the_tables_have(installation: Installation) -> None:
    async with frozen_world(5) as simulator:
        installation.configure_for(simulator)
        await installation.sync_until_complete()
    ended = await milepost(installation.folder, "changes", "--json")
    changes = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {each["op"] for each in changes} == {"upsert"}
    assert sorted(each["seq"] for each in changes) == [each["seq"] for each in changes]
    assert {each["seq"] for each in changes} == {seq for _, seq in stored_numbers(installation.rows).values()}


def outlive(folder: Path, language: str) -> None:
    """Make a mirror one of a database that has lost its history since, and a row with it."""
    if language == "python":
        with sqlite3.connect(folder / "mirror.db") as connection:
            connection.execute(f"UPDATE place SET mark = '{LOST}'")
            connection.execute("UPDATE mirrored SET key = '{}' WHERE rowid = 1")
    else:
        file = folder / "mirror.json"
        mirror = json.loads(file.read_text()) | {"mark": LOST}
        mirror["rows"]['["contact", {}]'] = {}
        file.write_text(json.dumps(mirror))


def mirrored_columns(folder: Path, kind: str, columns: str) -> list[tuple[Any, ...]]:
    """Return columns of the mirrored rows of a kind, as text, in the order of the first ones."""
    named = ", ".join(f"row ->> '{name.strip()}'" for name in columns.split(","))
    with sqlite3.connect(folder / "mirror.db") as connection:
        return connection.execute(f"SELECT {named} FROM mirrored WHERE kind = '{kind}' ORDER BY 1, 2, 3").fetchall()


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_consumer_and_a_daemon_that_are_killed_again_and_again(
    installation: Installation, tmp_path: Path
) -> None:
    random, port, url = Random(SEED), unused_port(), ""  # noqa: S311  (a seed, so that it happens again)
    print(f"seed {SEED}")  # noqa: T201
    async with frozen_world(2000, FAULTS) as simulator:
        installation.configure_for(simulator, sync=SYNC, retry=RETRY, http={"listen": f"127.0.0.1:{port}"})
        for _ in range(KILLS):
            due = simulator.requests.total + random.randrange(40)
            async with started(installation.folder, "run") as daemon:
                url = await daemon.url()
                async with consuming(tmp_path, program("python", url, ends=False)):
                    await _asked(simulator, due)
                    await asyncio.sleep(random.random() * 0.3)
                if random.random() < 0.5:  # the daemon is killed first, half of the time
                    async with consuming(tmp_path, program("python", url, ends=False)):
                        await daemon.kill()
        assert _completed(installation) < len(STREAMS), "all was done before the last kill: it proves little"
        async with started(installation.folder, "run") as daemon:
            text = program("python", await daemon.url(), ends=False)
            async with consuming(tmp_path, text):
                await _until(lambda: _completed(installation) == len(STREAMS))
                await _until(lambda: numbers(mirrored(tmp_path)) == stored_numbers(installation.rows))
    for kind, table, columns in (
        ("contact", "contacts", "platform, page_id, contact_id, name, username, updated_at"),
        ("conversation", "conversations", "conversation_id, contact_id, snippet, updated_time, synced_at"),
        ("message", "contact_interaction_events", "event_id, conversation_id, text, direction, occurred_at"),
    ):
        stored = installation.rows(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3")
        assert mirrored_columns(tmp_path, kind, columns) == stored


def _completed(installation: Installation) -> int:
    ((completed,),) = installation.rows("SELECT count(last_full_sweep_at) FROM checkpoints")
    return int(completed)


async def _asked(simulator: SimulatorServer, requests: int) -> None:
    """Wait until the world was asked so often in all."""
    await until(lambda: simulator.requests.total >= requests)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110  (other processes bring it about)
            await asyncio.sleep(0.2)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_consumer_of_three_workers_that_are_killed_again_and_again(tmp_path: Path, database: Database) -> None:
    random, pages = Random(SEED), fleet_pages(8)  # noqa: S311  (a seed, so that it happens again)
    print(f"seed {SEED}")  # noqa: T201
    consumer = tmp_path / "consumer"
    consumer.mkdir()
    settings: dict[str, Any] = {"sync": SYNC | {"concurrency": 4}, "retry": RETRY}
    async with frozen_world(600, FAULTS, pages=pages) as simulator, fleet(tmp_path, database, simulator) as workers:
        alive: list[Running] = [await workers.join(**settings) for _ in range(3)]
        for _ in range(KILLS):
            asked = random.choice(alive)
            due = simulator.requests.total + random.randrange(100)
            async with consuming(consumer, program("python", await asked.url(), ends=False)):
                await _asked(simulator, due)
                await asyncio.sleep(random.random() * 0.3)
                killed = random.choice(alive)
                await killed.kill()
                alive.remove(killed)
            alive.append(await workers.join(**settings))
        assert workers.completed() < 2 * len(pages), "all was done before the last kill: it proves little"
        async with consuming(consumer, program("python", await alive[0].url(), ends=False)):
            await workers.complete(2 * len(pages), seconds=240)
            await _until(lambda: numbers(mirrored(consumer)) == stored_numbers(database.sql))
