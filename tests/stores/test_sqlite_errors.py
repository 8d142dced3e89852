"""What may pass is StoreAway, which a start is repeated for; what calls for a person is StoreRefused."""

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.builders import STREAM
from kit.small_disk import remount, show_elsewhere, small_disk, unmount
from milepost.core.errors import MilepostError, StoreAway, StoreLost, StoreRefused, StoreRemounted
from milepost.stores.sqlite.errors import why_unopened
from milepost.stores.sqlite.files import OpenFiles
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import live, next_commit
from stores.sqlite_files import raw
from stores.store_dump import SqliteDump

PASSING = (
    errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ENODEV, errno.ENXIO,
    errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENOLCK,
)  # fmt: skip
LASTING = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EOPNOTSUPP)
INODES_OF = {"lock": 1, "database": 2, "wal": 3, "shm": 4}  # the directory has one, too


async def opened(path: Path) -> None:
    async with open_sqlite(path) as store:
        await live(store, STREAM, 2)


async def error_at(path: Path) -> MilepostError:
    with pytest.raises(MilepostError) as raised:
        await opened(path)
    assert str(path) in raised.value.message
    assert raised.value.hint
    return raised.value


@contextmanager
def files_left(count: int) -> Iterator[None]:
    """Let this process open only so many more files during the block."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def failing_open(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the lock file fail to open."""
    really = os.open

    def failing(path: str | Path, flags: int, mode: int = 0o777, **keywords: int | None) -> int:
        if str(path).endswith(".lock"):
            raise OSError(number, os.strerror(number), str(path))
        return really(path, flags, mode, **keywords)

    monkeypatch.setattr(os, "open", failing)


class TestTheLock:
    @pytest.mark.parametrize("number", PASSING, ids=lambda number: errno.errorcode[number])
    async def test_an_error_of_the_lock_that_may_pass_is_an_absence(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        failing_open(monkeypatch, number)
        error = await error_at(path)
        assert isinstance(error, StoreAway), error
        assert os.strerror(number) in error.message
        assert "backup" not in error.hint

    @pytest.mark.parametrize("number", LASTING, ids=lambda number: errno.errorcode[number])
    async def test_an_error_of_the_lock_that_calls_for_a_person_is_refused(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        failing_open(monkeypatch, number)
        error = await error_at(path)
        assert isinstance(error, StoreRefused), error
        assert os.strerror(number) in error.message


class TestRoom:
    @pytest.mark.parametrize("missing", INODES_OF)
    async def test_without_an_inode_for_one_of_its_files_a_database_is_away_until_there_is_one(
        self, tmp_path: Path, missing: str
    ) -> None:
        with small_disk(tmp_path, "16m") as disk:
            remount(disk, f"nr_inodes={INODES_OF[missing]}")
            error = await error_at(disk / "milepost.db")
            assert isinstance(error, StoreAway), error
            assert "No space left on device" in error.message
            assert "df -i" in error.hint
            remount(disk, "nr_inodes=100")
            await opened(disk / "milepost.db")

    async def test_a_migration_without_space_is_away_and_is_made_up_for(self, tmp_path: Path) -> None:
        with small_disk(tmp_path, "16m") as disk:
            (disk / "ballast").write_bytes(bytes(16 * 2**20 - 64 * 2**10))
            error = await error_at(disk / "milepost.db")
            assert isinstance(error, StoreAway), error
            (disk / "ballast").unlink()
            await opened(disk / "milepost.db")

    @pytest.mark.parametrize("count", range(5))
    async def test_without_file_descriptors_a_database_is_away(self, path: Path, count: int) -> None:
        await opened(path)  # what has to be imported and read is
        with files_left(count), pytest.raises((StoreAway, OSError), match="Too many open files"):
            await opened(path)
        await opened(path)

    async def test_a_database_on_a_disk_that_became_read_only_is_away(self, tmp_path: Path) -> None:
        with small_disk(tmp_path, "16m") as disk:
            await opened(disk / "milepost.db")
            remount(disk, "ro")
            error = await error_at(disk / "milepost.db")
            assert isinstance(error, StoreAway), error
            assert "mounted read-only" in error.hint
            remount(disk, "rw")
            await opened(disk / "milepost.db")

    async def test_a_new_database_on_a_read_only_disk_is_refused(self, tmp_path: Path) -> None:
        with small_disk(tmp_path, "16m") as disk:
            remount(disk, "ro")
            assert isinstance(await error_at(disk / "milepost.db"), StoreRefused)

    def test_looking_for_the_reason_leaves_nothing_behind(self, path: Path) -> None:
        before = sorted(path.parent.iterdir())
        assert why_unopened(path) is None
        assert sorted(path.parent.iterdir()) == before


class TestWrites:
    async def test_a_write_that_changes_nothing_changes_nothing(self, path: Path) -> None:
        async with open_sqlite(path) as store:
            await live(store, STREAM, 2)
            before = SqliteDump(path).tables()
            await store.takes_writes()
            await store.write_nothing()
            assert SqliteDump(path).tables() == before

    async def test_an_idle_database_on_a_full_disk_takes_no_writes_until_there_is_room(self, tmp_path: Path) -> None:
        with small_disk(tmp_path, "16m") as disk:
            async with open_sqlite(disk / "milepost.db") as store:
                ballast = disk / "ballast"
                ballast.write_bytes(bytes(shutil.disk_usage(disk).free))
                await store.answers()
                for _ in range(2):
                    with pytest.raises(StoreAway, match="full"):
                        await store.takes_writes()
                ballast.unlink()
                await store.takes_writes()

    async def test_a_commit_that_failed_counts_even_where_a_small_write_would_fit(self, path: Path) -> None:
        async with open_sqlite(path) as store:
            reached = await live(store, STREAM, 2)
            await store._database.run(lambda connection: connection.execute("PRAGMA busy_timeout = 0"))
            with raw(path) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(StoreAway):
                    await store.commit(next_commit(reached))
            with pytest.raises(StoreAway, match="locked"):
                await store.takes_writes()
            await store.commit(next_commit(reached))
            await store.takes_writes()


class TestAMountThatVanishes:
    async def test_a_mount_that_vanished_is_waited_for_and_used_again_if_it_is_the_same(self, tmp_path: Path) -> None:
        with small_disk(tmp_path, "16m") as disk:
            kept = tmp_path / "kept"
            async with open_sqlite(disk / "milepost.db") as store:
                await live(store, STREAM, 2)
                show_elsewhere(disk, kept)
                unmount(disk)
                with pytest.raises(StoreAway, match="is not mounted any more") as raised:
                    await store.answers()
                assert raised.value.hint.startswith("mount it again")
                show_elsewhere(kept, disk)
                unmount(kept)
                await live(store, STREAM, 3)

    @pytest.mark.parametrize("waits", [True, False])
    async def test_another_mount_in_its_place_needs_a_new_start(self, tmp_path: Path, waits: bool) -> None:
        async def lose(disk: Path) -> None:
            async with open_sqlite(disk / "milepost.db") as store:
                await live(store, STREAM, 2)
                unmount(disk)
                if waits:
                    with pytest.raises(StoreAway):
                        await store.answers()
                with small_disk(tmp_path, "16m") as another:
                    (another / "milepost.db").write_bytes(b"another one")
                    await store.answers()

        with small_disk(tmp_path, "16m") as disk, pytest.raises(StoreRemounted, match="mounted anew") as raised:
            await lose(disk)
        assert "start Milepost again" in raised.value.hint

    async def test_a_lost_mount_stays_lost_whatever_is_mounted_later(self, tmp_path: Path) -> None:
        async def lose(disk: Path) -> None:
            async with open_sqlite(disk / "milepost.db") as store:
                with small_disk(tmp_path, "16m") as another:
                    (another / "milepost.db").write_bytes(b"another one")
                    with pytest.raises(StoreRemounted):
                        await store.answers()

        with small_disk(tmp_path, "16m") as disk, pytest.raises(StoreRemounted):
            await lose(disk)

    async def test_a_mount_that_comes_late_over_a_new_database_needs_a_new_start(self, tmp_path: Path) -> None:
        async def cover(path: Path) -> None:
            async with open_sqlite(path) as store:
                with small_disk(tmp_path, "16m") as disk:
                    (disk / "milepost.db").write_bytes(b"the real one")
                    await store.answers()

        (tmp_path / "disk").mkdir()
        with pytest.raises(StoreRemounted):
            await cover(tmp_path / "disk" / "milepost.db")

    async def test_a_directory_that_is_moved_on_the_same_file_system_is_lost(self, path: Path) -> None:
        files = OpenFiles(path)
        files.opening()
        path.parent.rename(path.parent.with_name("elsewhere"))
        with pytest.raises(StoreLost, match="deleted or moved away") as raised:
            files.demand_same()
        assert not isinstance(raised.value, StoreRemounted)
