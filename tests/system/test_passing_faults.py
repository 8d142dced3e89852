"""Faults of the machine that may pass: the program ends with a code for which its unit starts it again, or waits."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from kit.binary import PATIENCE_SECONDS, POLL_SECONDS, Running, milepost, started, until
from kit.installation import Installation, PostgresqlInstallation
from kit.needs import long_only
from kit.simulated import BICYCLES, frozen_world
from kit.small_disk import remount, small_disk, unmount
from milepost.reporting.summary import ExitCode
from milepost.simulator.server import SimulatorServer

UNIT = Path(__file__).parents[2] / "systemd" / "milepost.service"
INODES_OF = {"lock": 1, "database": 2, "wal": 3, "shm": 4}  # the directory has one, too


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Installation]:
    with small_disk(tmp_path, "64m") as disk:
        installation = Installation(tmp_path)
        installation.database = disk / "milepost.db"
        yield installation


def configured(installation: Installation, simulator: SimulatorServer) -> None:
    installation.configure_for(simulator, store={"url": f"sqlite:///{installation.database}"})


def disk_of(installation: Installation) -> Path:
    return installation.database.parent


async def ready(daemon: Running, url: str, *, status: int) -> str:
    """Wait until /readyz answers with the status, and return its text."""
    async with asyncio.timeout(PATIENCE_SECONDS), aiohttp.ClientSession(url) as session:
        while not daemon.has_ended:
            async with session.get("/readyz") as response:
                if response.status == status:
                    return await response.text()
            await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"ended\n{daemon.said}")


def test_the_unit_starts_it_again_after_every_code_but_that_of_a_bad_configuration() -> None:
    unit = UNIT.read_text()
    assert "\nRestart=on-failure\n" in unit
    assert f"\nRestartPreventExitStatus={ExitCode.CONFIGURATION:d}\n" in unit


@pytest.mark.parametrize("missing", INODES_OF)
async def test_a_daemon_without_an_inode_for_a_file_is_started_again(on_small_disk: Installation, missing: str) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        configured(on_small_disk, simulator)
        remount(disk_of(on_small_disk), f"nr_inodes={INODES_OF[missing]}")
        ended = await milepost(on_small_disk.folder, "run")
        assert ended.code == ExitCode.WITH_ERRORS, ended
        assert "make room, also for more files" in ended.stderr
        remount(disk_of(on_small_disk), "nr_inodes=100")
        assert (await on_small_disk.sync()).code == 0


@pytest.mark.parametrize("is_new", [True, False], ids=["while it migrates", "while it opens"])
async def test_a_daemon_that_starts_on_a_full_disk_is_started_again(on_small_disk: Installation, is_new: bool) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        configured(on_small_disk, simulator)
        if not is_new:
            assert (await on_small_disk.sync()).code == 0
        ballast = disk_of(on_small_disk) / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(ballast.parent).free))
        ended = await milepost(on_small_disk.folder, "run")
        assert ended.code == ExitCode.WITH_ERRORS, ended
        assert "full" in ended.stderr
        ballast.unlink()
        assert (await on_small_disk.sync()).code == 0


async def test_a_daemon_whose_disk_became_read_only_is_started_again(on_small_disk: Installation) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        configured(on_small_disk, simulator)
        assert (await on_small_disk.sync()).code == 0
        remount(disk_of(on_small_disk), "ro")
        ended = await milepost(on_small_disk.folder, "run")
        assert ended.code == ExitCode.WITH_ERRORS, ended
        assert "mounted read-only" in ended.stderr
        remount(disk_of(on_small_disk), "rw")
        assert (await on_small_disk.sync()).code == 0


@pytest.mark.parametrize("files", [9, *long_only(7, 11, 14)])
async def test_a_daemon_that_may_open_too_few_files_is_started_again(installation: Installation, files: int) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run", under=("prlimit", f"--nofile={files}")) as daemon:
            await until(lambda: daemon.has_ended or "http=http" in daemon.said)
            if daemon.has_ended:
                ended = await daemon.ended()
                assert ended.code == ExitCode.WITH_ERRORS, ended
                assert "Too many open files" in ended.stderr
        assert (await installation.sync()).code == 0


async def test_a_daemon_whose_file_system_went_away_waits_for_it_and_says_so(on_small_disk: Installation) -> None:
    async with frozen_world(20, pages=(BICYCLES,)) as simulator:
        configured(on_small_disk, simulator)
        disk = disk_of(on_small_disk)
        async with started(on_small_disk.folder, "run") as daemon:
            url = await daemon.url()
            await daemon.says("sweep completed")
            kept = on_small_disk.folder / "kept.db"
            assert (await milepost(on_small_disk.folder, "backup", str(kept))).code == 0
            unmount(disk)
            assert "is not mounted any more" in await ready(daemon, url, status=503)
            with small_disk(on_small_disk.folder, "16m"):
                shutil.move(shutil.copy(kept, disk / "new.db"), on_small_disk.database)
                ended = await daemon.ended()
                assert ended.code == ExitCode.WITH_ERRORS, ended
                assert "was mounted anew" in ended.stderr
                assert "backup" not in ended.stderr
                assert (await on_small_disk.sync()).code == 0


@pytest.mark.parametrize("installation", ["postgresql"], indirect=True)
async def test_a_daemon_whose_server_is_frozen_is_not_ready_until_it_goes_on(
    installation: PostgresqlInstallation,
) -> None:
    async with frozen_world(40, pages=(BICYCLES,)) as simulator:
        installation.configure_for(simulator)
        async with started(installation.folder, "run") as daemon:
            url = await daemon.url()
            await daemon.says("sweep completed")
            await ready(daemon, url, status=200)
            with installation.kept.server.frozen():
                assert "did not answer within 2 s" in await ready(daemon, url, status=503)
                async with aiohttp.ClientSession(url) as session, session.get("/healthz") as response:
                    assert response.status == 200
                status = await milepost(installation.folder, "status")
                assert status.code == ExitCode.WITH_ERRORS, status
                assert "does not answer" in status.stderr
            await ready(daemon, url, status=200)
            assert not daemon.has_ended
