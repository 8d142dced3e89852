"""A disk that fills up during a sync: the sync waits for space, and continues."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.binary import milepost, started
from kit.installation import Installation, assert_copied, ballast_of, installed_on_small_disk
from kit.simulated import NOW, frozen_world


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Installation]:
    with installed_on_small_disk(tmp_path) as installation:
        yield installation


async def test_a_sync_waits_for_a_full_disk_and_completes_when_there_is_space(on_small_disk: Installation) -> None:
    async with frozen_world(600) as simulator:
        on_small_disk.configure_for(simulator, store={"url": f"sqlite:///{on_small_disk.database}"})
        async with started(on_small_disk.folder, "sync") as running:
            line = await running.says("database unavailable, retrying")
            ballast_of(on_small_disk.database.parent).unlink()
            ended = await running.ended()
        assert "the disk is full: make room; nothing that was committed is lost" in line
        assert ended.code == 0, ended
        assert "database available again" in ended.stderr
        assert_copied(on_small_disk, simulator.world, NOW, was_frozen=True)
    assert on_small_disk.rows("SELECT count(*) > 0 FROM journal WHERE type = 'store_returned'") == [(1,)]
    verified = await milepost(on_small_disk.folder, "journal", "verify")
    assert verified.code == 0, verified


@pytest.mark.long
async def test_a_disk_that_stays_full_ends_the_sync_and_the_next_one_continues_when_there_is_space(
    on_small_disk: Installation,
) -> None:
    async with frozen_world(600) as simulator:
        url = {"url": f"sqlite:///{on_small_disk.database}"}
        on_small_disk.configure_for(simulator, store=url, sync={"max_run_duration": "8s"})
        ended = await on_small_disk.sync()
        assert ended.code == 1, ended
        assert "make room" in ended.stdout + ended.stderr
        ballast_of(on_small_disk.database.parent).unlink()
        on_small_disk.configure_for(simulator, store=url)
        assert (await on_small_disk.sync()).code == 0
        sweeps = on_small_disk.rows("SELECT count(*) FROM journal WHERE type = 'sweep_started' GROUP BY stream")
        assert set(sweeps) == {(1,)}, "it began again from the beginning"
        assert_copied(on_small_disk, simulator.world, NOW, was_frozen=True)
