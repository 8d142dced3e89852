"""`milepost backup` beside a working daemon, and a daemon that resumes from the restored backup."""

import shutil
import signal
from pathlib import Path

from kit.binary import Ended, milepost, started
from kit.installation import COPIED, Installation
from kit.simulated import BICYCLES, frozen_world, taken_cursors
from kit.small_disk import small_disk
from stores.sqlite_files import DROP_TRIGGERS, execute

STREAM = f"messenger:{BICYCLES.id}"
BATCHES = 10
STORED = "SELECT count(*) FROM journal WHERE type = 'batch_stored'"


async def back_up(installation: Installation, *arguments: str) -> Ended:
    return await milepost(installation.folder, "backup", *arguments)


def left_beside(installation: Installation) -> set[str]:
    return {path.name for path in installation.folder.iterdir() if "backup" in path.name}


async def test_a_daemon_resumes_from_a_backup_made_while_it_worked_and_duplicates_nothing(
    installation: Installation, another: Installation
) -> None:
    async with frozen_world(BATCHES * 50, pages=(BICYCLES,)) as simulator:
        await another.sync_from(simulator)
        installation.configure_for(simulator)
        simulator.hold(after=simulator.requests.by_stream[STREAM] + 4)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("batch=4")
            made = await back_up(installation, "backup.db")
            assert made.code == 0, made
            simulator.release()
            await daemon.says("sweep completed")
            daemon.signal(signal.SIGTERM)
            await daemon.ended()
        assert installation.rows(STORED) == [(BATCHES,)]
        _restore(installation, installation.folder / "backup.db")
        place = installation.positions(STREAM)[-1]
        assert installation.rows(STORED) == [(4,)]
        taken_cursors(simulator)
        async with started(installation.folder, "run") as daemon:
            await daemon.says("sweep completed")
        assert taken_cursors(simulator)[STREAM][0] == place
    copied, undisturbed = installation.copied(), another.copied()
    for table in COPIED:
        assert copied[table] == undisturbed[table], f"{table} differs from that of an undisturbed run"
    await installation.verify()


def _restore(installation: Installation, backup: Path) -> None:
    """Restore as docs/operations.md says, with the daemon stopped."""
    for suffix in ("-wal", "-shm"):
        Path(f"{installation.database}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(backup, installation.database)


async def test_a_backup_is_private_and_overwritten_only_with_force(installation: Installation) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        await installation.sync_from(simulator)
        made = await back_up(installation, "backup.db")
    backup = installation.folder / "backup.db"
    assert made.code == 0, made
    assert backup.stat().st_mode & 0o777 == 0o600
    assert made.stdout.startswith("backup.db is a sound copy of ")
    content = backup.read_bytes()
    refused = await back_up(installation, "backup.db")
    assert refused.code == 2
    assert "backup.db exists; --force overwrites it" in refused.stderr
    assert backup.read_bytes() == content
    assert (await back_up(installation, "--force", "backup.db")).code == 0
    assert left_beside(installation) == {"backup.db"}


async def test_a_backup_never_overwrites_the_database_itself(installation: Installation) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        await installation.sync_from(simulator)
    file = installation.database.stat().st_ino
    refused = await back_up(installation, "--force", str(installation.database))
    assert refused.code == 2
    assert "belongs to the database itself" in refused.stderr
    assert installation.database.stat().st_ino == file


async def test_a_damaged_database_makes_no_backup_and_keeps_the_previous_one(installation: Installation) -> None:
    async with frozen_world(60, pages=(BICYCLES,)) as simulator:
        await installation.sync_from(simulator)
    execute(installation.database, f"{DROP_TRIGGERS}; UPDATE journal SET data = '{{}}' WHERE seq = 2")
    backup = installation.folder / "backup.db"
    backup.write_text("the one from before")
    refused = await back_up(installation, "--force", "backup.db")
    assert refused.code == 1
    assert "no backup was made, because the copy is damaged: " in refused.stderr
    assert "run `milepost journal verify` to check the database itself" in refused.stderr
    assert backup.read_text() == "the one from before"
    assert left_beside(installation) == {"backup.db"}


async def test_a_backup_without_a_database_fails(installation: Installation) -> None:
    refused = await back_up(installation, "backup.db")
    assert refused.code == 78
    assert "there is no database at" in refused.stderr
    assert left_beside(installation) == set()


async def test_a_missing_target_folder_is_reported(installation: Installation) -> None:
    async with frozen_world(10, pages=(BICYCLES,)) as simulator:
        await installation.sync_from(simulator)
    refused = await back_up(installation, "missing/backup.db")
    assert refused.code == 1
    assert refused.stderr == (
        "milepost: missing/backup.db cannot be written: No such file or directory\n  → write it elsewhere\n"
    )


async def test_a_full_disk_is_reported_and_leaves_no_file(installation: Installation, tmp_path: Path) -> None:
    async with frozen_world(600) as simulator:
        await installation.sync_from(simulator)
    with small_disk(tmp_path, "1m") as disk:
        refused = await back_up(installation, str(disk / "backup.db"))
        assert list(disk.iterdir()) == []
    assert refused.code == 1
    assert "cannot be written: database or disk is full" in refused.stderr
    assert "make room, or write it elsewhere" in refused.stderr
