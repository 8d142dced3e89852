"""Disks that fill up during a sync, which waits for space and continues, and power cuts while files are written."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from kit.binary import command, started
from kit.installation import Installation, assert_copied, ballast_of, installed_on_small_disk
from kit.power_cut import Call, Disk, recorded, recording
from kit.simulated import NOW, frozen_world
from milepost.stores.open import open_store
from milepost.stores.url import StoreUrl
from stores.histories import live, stream


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
    await on_small_disk.verify()


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
        await on_small_disk.sync_from(simulator, store=url)
        sweeps = on_small_disk.rows("SELECT count(*) FROM journal WHERE type = 'sweep_started' GROUP BY stream")
        assert set(sweeps) == {(1,)}, "it began again from the beginning"
        assert_copied(on_small_disk, simulator.world, NOW, was_frozen=True)


@pytest.fixture
async def config(tmp_path: Path) -> Path:
    """Return a configuration with a database of some entries."""
    database, config = tmp_path / "milepost.db", tmp_path / "config.yaml"
    async with open_store(StoreUrl(f"sqlite:///{database}")) as store:
        await live(store, stream(0), 12)
    config.write_text(f"store:\n  url: sqlite:///{database}\n")
    return config


@pytest.mark.parametrize("arguments", [("backup",), ("journal", "export")], ids=" ".join)
def test_a_file_is_complete_or_absent_and_present_once_announced(
    tmp_path: Path, config: Path, arguments: tuple[str, ...]
) -> None:
    directory, record = tmp_path / "directory", tmp_path / "record"
    directory.mkdir()
    file = directory / "file"
    written = [*recording(record), *command(*arguments, str(file), "-c", str(config))]
    subprocess.run(written, capture_output=True, check=True, timeout=60)

    calls, whole = list(recorded(record)), file.read_bytes()
    assert whole
    assert calls[-1].descriptor in (1, 2), "it ends with the announcement"
    for seed in range(10):
        jitter = None if seed == 0 else Random(seed)  # noqa: S311  (repeatable)
        disk = Disk(directory)
        for number, call in enumerate(calls):
            disk.follow(call)
            if call is calls[-1] or _is_of_interest(call):
                left = disk.cut(tmp_path / f"{seed}-{number}", jitter) / "file"
                assert left.exists() or call is not calls[-1], "it was announced, and is not there"
                assert not left.exists() or left.read_bytes() == whole, f"it is not whole after {call.name}"


def _is_of_interest(call: Call) -> bool:
    return call.is_sync or call.name in ("rename", "unlink")
