"""A database file that is deleted, replaced or overwritten under the real program: it logs that and exits."""

import asyncio
import shutil
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import aiohttp
import pytest

from kit.binary import Ended, Running, started, until
from kit.event_source import listening
from kit.installation import Installation
from kit.postgres import state_of
from kit.simulated import BICYCLES, frozen_world

MAX_SECONDS = 20.0  # it takes one or two, unless the machine is busy; the next sweep is an hour away
IN_HAND = 3  # requests in flight or prefetched when the database was lost
Harm = Callable[[Path], object]


def beside(database: Path, suffix: str) -> Path:
    return database.with_name(database.name + suffix)


def copied(database: Path) -> Path:
    copy = database.with_name("copy.db")
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    return copy


def delete(suffix: str) -> Harm:
    return lambda database: beside(database, suffix).unlink()


HARMS: dict[str, tuple[Harm, str]] = {
    "deleted": (delete(""), "milepost.db was deleted or moved away while it was open"),
    "replaced": (lambda database: copied(database).rename(database), "milepost.db was replaced by another file"),
    "overwritten": (
        lambda database: shutil.copyfile(copied(database), database),
        "milepost.db was overwritten while it was open",
    ),
    "wal deleted": (delete("-wal"), "milepost.db-wal, which the database needs, was deleted"),
    "lock deleted": (delete(".lock"), "milepost.db.lock, which the database needs, was deleted"),
}
UNREADABLE = {
    "deleted",
    "replaced",
    "wal deleted",
}  # for the API, which has a connection of its own; the other cases leave it readable
each_harm = pytest.mark.parametrize("harm", HARMS)


@asynccontextmanager
async def held_still(daemon: Running) -> AsyncIterator[None]:
    """Freeze the daemon during the block."""
    daemon.signal(signal.SIGSTOP)
    await until(lambda: state_of(daemon.pid) == "T")
    try:
        yield
    finally:
        daemon.signal(signal.SIGCONT)


def assert_reported(ended: Ended, expected: str) -> None:
    assert ended.code == 78, ended
    error, hint = ended.stderr.splitlines()[-2:]
    assert error.startswith("milepost: ")
    assert expected in error
    assert hint.startswith("  → nothing is written any more; ")
    assert "Traceback" not in ended.stderr


async def statuses(session: aiohttp.ClientSession, path: str, found: list[int]) -> None:
    """Send requests until nothing answers any more."""
    with suppress(aiohttp.ClientError):
        while True:
            async with session.get(path) as response:
                found.append(response.status)
                await response.read()
            await asyncio.sleep(0.01)


async def read_ids(url: str, received: list[int]) -> None:
    async with listening(url, last_event_id="0") as source:
        with suppress(aiohttp.ClientError):
            while events := await source.some_events():
                received += [int(event.id) for event in events if event.id]


@each_harm
async def test_a_working_daemon_logs_it_refuses_requests_and_exits_without_publishing_more_events(
    installation: Installation, harm: str
) -> None:
    harms, expected = HARMS[harm]
    async with frozen_world(5_000, "latency=50ms", pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync={"batch_size": 10})
        async with started(installation.folder, "run") as daemon:
            url = await daemon.url()
            await daemon.says("batch=3")
            received, ready, listed = list[int](), list[int](), list[int]()
            async with aiohttp.ClientSession(url) as session, asyncio.TaskGroup() as asking:
                asking.create_task(read_ids(url, received))
                asking.create_task(statuses(session, "/readyz", ready))
                asking.create_task(statuses(session, "/api/streams", listed))
                await until(lambda: received and ready and listed)
                async with held_still(daemon):
                    ((last,),) = installation.rows("SELECT max(seq) FROM journal")
                    harms(installation.database)
                began = time.monotonic()
                line = await daemon.says("database lost")
                assert time.monotonic() - began < MAX_SECONDS
                asked = simulator.requests.total
                ended = await daemon.ended()
            assert simulator.requests.total - asked <= IN_HAND
    assert expected in line
    assert_reported(ended, expected)
    assert set(ready) == {200, 503}
    assert set(listed) == {200, 503} if harm in UNREADABLE else {200}
    assert max(received) <= last


@pytest.mark.parametrize("harm", ["deleted", "replaced", "wal deleted"])
async def test_an_idle_daemon_logs_it_and_exits_within_seconds(installation: Installation, harm: str) -> None:
    harms, expected = HARMS[harm]
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            harms(installation.database)
            began = time.monotonic()
            await daemon.says("database lost")
            assert time.monotonic() - began < MAX_SECONDS
            assert_reported(await daemon.ended(), expected)


async def test_a_daemon_that_is_just_shutting_down_does_not_report_success(installation: Installation) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            async with held_still(daemon):
                installation.database.unlink()
                daemon.signal(signal.SIGTERM)
            assert_reported(await daemon.ended(), HARMS["deleted"][1])


async def test_a_sync_reports_a_lost_database_and_prints_no_summary(installation: Installation) -> None:
    async with frozen_world(5_000, "latency=50ms", pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync={"batch_size": 10})
        async with started(installation.folder, "sync") as sync:
            await sync.says("batch=3")
            installation.database.unlink()
            ended = await sync.ended()
    assert_reported(ended, HARMS["deleted"][1])
    assert ended.stdout == ""


async def test_a_sync_that_waits_for_the_api_reports_a_lost_database_too(installation: Installation) -> None:
    async with frozen_world(20, "latency=10s", pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "sync") as sync:
            await until(lambda: simulator.requests.total)
            installation.database.unlink()
            began = time.monotonic()
            await sync.says("database lost")
            assert time.monotonic() - began < MAX_SECONDS
            assert_reported(await sync.ended(), HARMS["deleted"][1])


@pytest.mark.parametrize("harm", ["wal deleted", "lock deleted"])
async def test_commits_survive_if_only_a_file_beside_the_database_was_lost(
    installation: Installation, harm: str
) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
            before = installation.rows("SELECT seq, hash FROM journal")
            HARMS[harm][0](installation.database)
            assert (await daemon.ended()).code == 78
        assert installation.rows("SELECT seq, hash FROM journal")[: len(before)] == before
        assert (await installation.sync()).code == 0


async def test_following_the_journal_ends_when_the_database_is_lost(installation: Installation) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        await installation.sync_from(simulator)
    async with started(installation.folder, "journal", "tail", "-f") as tail:
        await until(lambda: "Full sweep complete" in tail._stdout.read_text())
        copied(installation.database).rename(installation.database)
        assert_reported(await tail.ended(), HARMS["replaced"][1])
