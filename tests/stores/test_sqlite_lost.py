"""The files of a database that are deleted, replaced or overwritten while it is open: no commit to them counts."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from kit.builders import STREAM
from milepost.core.errors import OutcomeUnknown, StoreAway, StoreBusy, StoreLost
from milepost.core.model import Keys
from milepost.stores.open import forget
from milepost.stores.sqlite import store as store_module
from milepost.stores.sqlite.commit import SqliteWriter
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import SqliteStore, open_sqlite
from milepost.stores.url import StoreUrl
from stores.histories import live, next_commit
from stores.sqlite_files import execute, raw, rows_of

Harm = Callable[[Path], object]


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def other_database(path: Path) -> Path:
    """Make another database, as somebody might who restores one."""
    other = path.with_name("other.db")
    with raw(path) as connection:
        connection.execute("VACUUM INTO ?", (str(other),))
    return other


def put_another_in_its_place(path: Path) -> None:
    other_database(path).rename(path)


def copy_over_it(path: Path) -> None:
    path.write_bytes(other_database(path).read_bytes())


def empty_it(path: Path) -> None:
    os.truncate(path, 0)


def move_its_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def delete(suffix: str) -> Harm:
    return lambda path: beside(path, suffix).unlink()


def replace(suffix: str) -> Harm:
    def harm(path: Path) -> None:
        beside(path, ".new").touch()
        beside(path, ".new").rename(beside(path, suffix))

    return harm


GONE: dict[str, tuple[Harm, str]] = {
    "deleted": (delete(""), "the database .*milepost.db was deleted or moved away while it was open"),
    "moved": (lambda path: path.rename(path.with_name("away.db")), "was deleted or moved away"),
    "folder moved": (move_its_folder, "the database .*milepost.db was deleted or moved away"),
    "replaced": (put_another_in_its_place, "the database .*milepost.db was replaced by another file"),
    "overwritten by a backup": (copy_over_it, "the database .*milepost.db was overwritten"),
    "emptied": (empty_it, "the database .*milepost.db was overwritten"),
    "wal deleted": (delete("-wal"), "milepost.db-wal, which the database needs, was deleted"),
    "wal replaced": (replace("-wal"), "milepost.db-wal, which the database needs, was replaced"),
    "shm deleted": (delete("-shm"), "milepost.db-shm, which the database needs, was deleted"),
    "lock deleted": (delete(".lock"), "milepost.db.lock, which the database needs, was deleted"),
    "lock replaced": (replace(".lock"), "milepost.db.lock, which the database needs, was replaced"),
}
each_harm = pytest.mark.parametrize("harm", GONE)


@pytest.fixture
def path(tmp_path: Path, migrated: Path) -> Path:
    """Return a database in a folder that may be moved."""
    (tmp_path / "here").mkdir()
    return Path(shutil.copy(migrated, tmp_path / "here"))


@asynccontextmanager
async def opened_in_vain(path: Path, message: str) -> AsyncIterator[SqliteStore]:
    """Open the database, and check that its loss is reported after the block."""
    with pytest.raises(StoreLost, match=message) as lost:
        async with open_sqlite(path) as store:
            yield store
    assert lost.value.hint


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def move(path: Path, to: Path) -> None:
    path.rename(to)


async def refuses(store: SqliteStore, message: str) -> None:
    """Check that every query and commit is refused."""
    checks = [store.load(STREAM), store.known(Keys(STREAM)), store.checkpoints(), store.answers()]
    for asked in checks:
        with pytest.raises(StoreLost, match=message):
            await asked


class TestAFileThatIsGone:
    @each_harm
    async def test_a_lost_file_is_reported_to_queries_and_commits_and_after_the_block(
        self, path: Path, harm: str
    ) -> None:
        harms, message = GONE[harm]
        async with opened_in_vain(path, message) as store:
            reached = await live(store, STREAM, 2)
            harms(path)
            with pytest.raises(StoreLost, match=message):
                await store.commit(next_commit(reached))
            await refuses(store, message)

    @each_harm
    async def test_a_lost_file_is_reported_after_the_block_although_nothing_was_asked(
        self, path: Path, harm: str
    ) -> None:
        harms, message = GONE[harm]
        async with opened_in_vain(path, message) as store:
            await live(store, STREAM, 2)
            harms(path)

    @each_harm
    async def test_a_lost_file_is_noticed_without_being_asked(
        self, path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_module, "WATCH_SECONDS", 0.01)
        harms, message = GONE[harm]
        async with opened_in_vain(path, message) as store:
            await live(store, STREAM, 2)
            watching = asyncio.create_task(store.watch())
            harms(path)
            assert "while it was open" in (await watching).message

    async def test_a_lost_file_stays_lost_when_it_is_put_back(self, path: Path) -> None:
        """Meanwhile others may have made another one, and callers got the error."""
        away = path.with_name("away.db")
        async with opened_in_vain(path, "while it was open") as store:
            move(path, away)
            with pytest.raises(StoreLost):
                await store.answers()
            move(away, path)
            await refuses(store, "deleted or moved away")

    @pytest.mark.parametrize("harm", ["deleted", "replaced", "wal deleted", "lock deleted"])
    async def test_a_commit_to_a_file_that_is_lost_meanwhile_does_not_count(
        self, path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The file is lost while the rows are written: the COMMIT succeeds, but its rows are nowhere to be found."""
        harms, message = GONE[harm]
        write = SqliteWriter.write

        def harmed(*arguments: object) -> object:
            committed = write(*arguments)  # type: ignore[arg-type]
            harms(path)
            return committed

        async with opened_in_vain(path, message) as store:
            reached = await live(store, STREAM, 2)
            if harm == "replaced":
                other = other_database(path)
                harms = other.rename
            monkeypatch.setattr(SqliteWriter, "write", harmed)
            with pytest.raises(StoreLost, match=message):
                await store.commit(next_commit(reached))

    async def test_the_outcome_of_a_commit_is_unknown_if_the_files_cannot_be_checked(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The directory may hang, for example. The commit is settled by reading, and not made twice."""
        write, look = SqliteWriter.write, Path.stat
        async with open_sqlite(path) as store:
            reached = await live(store, STREAM, 2)
            commit = next_commit(reached)

            def fail(self: Path, **_: object) -> os.stat_result:
                raise PermissionError(13, "Permission denied", str(self))

            def harmed(*arguments: object) -> object:
                committed = write(*arguments)  # type: ignore[arg-type]
                monkeypatch.setattr(Path, "stat", fail)
                return committed

            monkeypatch.setattr(SqliteWriter, "write", harmed)
            with pytest.raises(OutcomeUnknown, match="Permission denied"):
                await store.commit(commit)
            with pytest.raises(StoreAway):
                await store.answers()
            monkeypatch.setattr(Path, "stat", look)
            assert await store.settle(commit) is not None


class TestWhatIsCommitted:
    @pytest.mark.parametrize("harm", ["wal deleted", "wal replaced", "shm deleted", "lock deleted", "lock replaced"])
    async def test_what_is_committed_survives_the_loss_of_a_file_beside_the_database(
        self, path: Path, harm: str
    ) -> None:
        async with opened_in_vain(path, "while it was open") as store:
            reached = await live(store, STREAM, 30)
            GONE[harm][0](path)
        async with open_sqlite(path) as store:
            assert await store.load(STREAM) == reached
        async with open_sqlite_reader(path) as journal_reader:
            await journal_reader.verify()

    async def test_what_is_committed_does_not_get_into_a_database_that_replaced_it(self, path: Path) -> None:
        other = other_database(path)
        before = bytes_of(other)
        async with opened_in_vain(path, "while it was open") as store:
            await live(store, STREAM, 30)
            move(other, path)
        assert bytes_of(path) == before

    async def test_what_is_committed_is_whole_again_when_a_moved_database_is_put_back(self, path: Path) -> None:
        async with opened_in_vain(path, "while it was open") as store:
            reached = await live(store, STREAM, 30)
            move(path, path.with_name("away.db"))
        move(path.with_name("away.db"), path)
        async with open_sqlite(path) as store:
            assert await store.load(STREAM) == reached


class TestASecondMilepost:
    async def test_the_first_milepost_notices_a_second_that_a_lost_lock_lets_in(self, path: Path) -> None:
        async with opened_in_vain(path, r"milepost\.db\.lock") as first:
            reached = await live(first, STREAM, 2)
            with pytest.raises(StoreBusy):
                async with open_sqlite(path):
                    pass
            beside(path, ".lock").unlink()
            async with open_sqlite(path) as second:
                with pytest.raises(StoreLost):
                    await first.commit(next_commit(reached))
                assert (await live(second, STREAM, 2)).version > reached.version


class TestAReader:
    @pytest.mark.parametrize("harm", ["deleted", "replaced"])
    async def test_a_reader_of_a_lost_file_gets_an_error(self, path: Path, harm: str) -> None:
        async with open_sqlite_reader(path) as journal_reader:
            assert await journal_reader.checkpoints() == []
            GONE[harm][0](path)
            with pytest.raises(StoreLost, match=GONE[harm][1]):
                await journal_reader.entries(after=0, limit=10)

    async def test_a_rebuild_of_a_lost_file_gets_an_error(self, path: Path) -> None:
        async with open_sqlite_reader(path, alone=True) as journal_reader:
            await journal_reader.rebuild()
            beside(path, ".lock").unlink()
            with pytest.raises(StoreLost):
                await journal_reader.rebuild()


class TestNothingIsLost:
    """What other programs may do beside the daemon."""

    async def test_checkpoints_vacuums_and_other_connections_are_no_loss(self, path: Path) -> None:
        async with open_sqlite(path) as store:
            await live(store, STREAM, 10)
            for script in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(RESTART)", "ANALYZE"):
                execute(path, script)
                await store.answers()
                await live(store, STREAM, 1)
            execute(path, "PRAGMA journal_mode = WAL")
            assert rows_of(path, "SELECT count(*) > 0 FROM journal") == [(1,)]
            await store.answers()

    async def test_a_backup_and_an_erasure_are_no_loss(self, path: Path, tmp_path: Path) -> None:
        async with open_sqlite(path) as store:
            reached = await live(store, STREAM, 10)
            async with open_sqlite_reader(path) as journal_reader:
                await journal_reader.copy_to(tmp_path / "copy.db", lambda _, __: None)
            await forget(StoreUrl(f"sqlite:///{path}"), STREAM, "c_1")
            assert await store.load(STREAM) == reached

    async def test_a_symlink_that_leads_elsewhere_later_is_no_loss(self, path: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.db"
        link.symlink_to(path)
        async with open_sqlite(link) as store:
            link.unlink()
            link.symlink_to(tmp_path / "other.db")
            await live(store, STREAM, 3)

    async def test_reading_a_backup_without_files_beside_it_is_no_loss(self, path: Path) -> None:
        other = other_database(path)
        with closing(sqlite3.connect(other)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        async with open_sqlite_reader(other) as journal_reader:
            await journal_reader.verify()


class TestADatabaseThatIsMissingAtTheStart:
    async def test_a_missing_database_is_created_anew_with_a_warning_if_there_was_one(
        self, path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with open_sqlite(path):
            pass
        move(path, path.with_name("away.db"))
        async with open_sqlite(path):
            pass
        assert "database missing, a new one was created" in capsys.readouterr().out + caplog.text

    async def test_a_database_is_created_silently_where_there_never_was_one(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with open_sqlite(tmp_path / "new.db"):
            pass
        assert "missing" not in capsys.readouterr().out
