"""Limits keep progress: the next run continues exactly there."""

import asyncio

from kit.binary import started, until
from kit.installation import Installation, on_sqlite_first
from kit.simulated import BICYCLES, frozen_world, taken_cursors

STREAM = f"messenger:{BICYCLES.id}"
BATCHES = 10


@on_sqlite_first
async def test_a_sync_at_its_batch_limit_exits_75_and_the_next_continues_there(installation: Installation) -> None:
    async with frozen_world(50 * BATCHES, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync={"max_batches_per_run": 4})
        syncs = await installation.sync_until_complete()
        asked = taken_cursors(simulator)[STREAM]
    assert [sync.code for sync in syncs] == [75, 75, 0]
    # No wasted request: the walk, and the head once more for the catch-up scan.
    assert asked == [None, *installation.positions(STREAM)[: BATCHES - 1], None]
    assert len(set(asked)) == BATCHES
    assert installation.endings(STREAM) == [("paused", "batch_limit"), ("paused", "batch_limit"), ("complete", None)]


async def test_a_sync_at_its_time_limit_exits_75_and_the_next_continues_there(installation: Installation) -> None:
    async with frozen_world(50 * BATCHES, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync={"max_run_duration": "3s"})
        simulator.hold(after=3)
        async with started(installation.folder, "sync") as running:
            await until(lambda: simulator.held or running.has_ended)
            await asyncio.sleep(3)  # even longer since the run began
            simulator.release()
            first = await running.ended()
        place = installation.positions(STREAM)[-1]
        taken_cursors(simulator)
        await installation.sync_until_complete()
        asked = taken_cursors(simulator)[STREAM]
    assert first.code == 75
    assert "time limit" in first.stdout
    assert asked[0] == place
    assert installation.endings(STREAM)[0] == ("paused", "time_limit")
    assert installation.endings(STREAM)[-1] == ("complete", None)


async def test_a_rate_limit_longer_than_the_run_exits_75_and_makes_no_dead_letter(installation: Installation) -> None:
    async with frozen_world(50, "rate_limit=first:1", pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync={"max_run_duration": "20s"})
        limited = await installation.sync()
        assert limited.code == 75, limited
        assert "rate limit" in limited.stdout
        assert simulator.requests.total == 1
        assert installation.rows("SELECT count(*) FROM dead_letters") == [(0,)]
        assert installation.rows("SELECT retries, failed_batches FROM runs") == [(0, 0)]


@on_sqlite_first
async def test_the_daemon_continues_at_once_after_a_limit_of_a_run(installation: Installation) -> None:
    async with frozen_world(50 * BATCHES, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator, sync={"max_batches_per_run": 4, "interval": "1h"})
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
        asked = taken_cursors(simulator)[STREAM]
    assert asked == [None, *installation.positions(STREAM)[: BATCHES - 1], None]
    assert [reason for _, reason in installation.endings(STREAM)] == ["batch_limit", "batch_limit", None]
