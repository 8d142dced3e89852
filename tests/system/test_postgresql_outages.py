"""PostgreSQL outages during a sync: nothing is lost, nothing is duplicated, and the sync continues."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from kit.binary import Running, started, until
from kit.flaky_proxy import Cut, breakable_line
from kit.installation import COPIED, Installation, PostgresqlInstallation
from kit.simulated import frozen_world
from milepost.simulator.server import SimulatorServer

CONVERSATIONS = 1_800  # in three streams, each of more batches than are requested ahead
SYNC = {"batch_size": 10}
RETRY = {"attempts": 20, "base_delay": "1ms", "max_delay": "10ms"}


pytestmark = pytest.mark.parametrize("installation", ["postgresql"], indirect=True)


def now_and_then(seed: int) -> Iterator[Cut | None]:
    """Yield a cut every few commits, each time a different one, but none for the last, which read the summary."""
    random = Random(seed)  # noqa: S311  (a seed, so that it happens again)
    for cut in [Cut.BEFORE, Cut.AFTER, Cut.MEANWHILE] * 8:
        yield from [None] * random.randrange(3)
        yield cut


async def assert_whole(installation: Installation, another: Installation, simulator: SimulatorServer) -> None:
    """Compare with what an undisturbed sync copies of the same world."""
    await another.sync_from(simulator, sync=SYNC)
    whole, copied = another.copied(), installation.copied()
    for table in COPIED:
        assert copied[table] == whole[table], f"{table} differs from that of an undisturbed run"
    await installation.verify()
    assert installation.rows("SELECT count(*) FROM journal WHERE type = 'store_returned'") != [(0,)]


async def asked(simulator: SimulatorServer, times: int, running: Running) -> None:
    """Wait until the world has received that many more requests."""
    due = simulator.requests.total + times
    await until(lambda: simulator.requests.total >= due or running.has_ended)
    if running.has_ended:
        pytest.fail(str(await running.ended()))


@pytest.mark.long
async def test_commits_of_unknown_outcome_are_resolved_and_the_copy_is_complete(
    installation: PostgresqlInstallation, another: Installation
) -> None:
    async with frozen_world(CONVERSATIONS) as simulator, breakable_line(installation.kept) as line:
        installation.store_url = line.store_url
        installation.configure_for(simulator, sync=SYNC, retry=RETRY)
        async with started(installation.folder, "sync") as running:
            await until(lambda: simulator.requests.total)
            line.cut_commits(now_and_then(seed=1))
            ended = await running.ended()
        line.cut_commits(())
        assert ended.code == 0, f"{ended}"
        assert min(line.cuts[each] for each in (Cut.BEFORE, Cut.AFTER, Cut.MEANWHILE)) >= 3, line.cuts
        assert "in the middle of a commit" in ended.stderr
        await assert_whole(installation, another, simulator)


@pytest.mark.timeout(300)  # the server is started four times
async def test_a_sync_waits_for_a_server_that_dies_repeatedly_and_the_copy_is_complete(
    installation: PostgresqlInstallation, another: Installation
) -> None:
    server = installation.kept.server
    async with frozen_world(1_200, "latency=10ms") as simulator:
        installation.configure_for(simulator, sync=SYNC, retry=RETRY)
        async with started(installation.folder, "sync") as running:
            for outage in range(3):
                await asked(simulator, 20, running)
                await asyncio.to_thread(server.kill if outage else lambda: server.stop("fast"))
                if not outage:
                    await running.says("database unavailable")
                server.start()
            ended = await running.ended(120)
        assert ended.code == 0, f"{ended}"
        assert "database available again" in ended.stderr
        await assert_whole(installation, another, simulator)


@pytest.mark.long
async def test_a_server_that_stays_away_ends_the_sync_with_a_hint(
    installation: PostgresqlInstallation,
) -> None:
    async with frozen_world(CONVERSATIONS, "latency=10ms") as simulator:
        installation.configure_for(simulator, sync={"max_run_duration": "4s"}, retry=RETRY)
        async with started(installation.folder, "sync") as running:
            await until(lambda: simulator.requests.total >= 5)
            installation.kept.server.stop("immediate")
            ended = await running.ended()
        assert ended.code == 1, f"{ended}"
        assert "check that the server runs" in ended.stdout + ended.stderr
        assert installation.kept.password not in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        installation.kept.server.start()
        await installation.sync_from(simulator)
