"""The files of a database that are deleted, replaced or overwritten while it is open: nothing is told as committed."""

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
    """Give a database in a folder that may be moved."""
    (tmp_path / "here").mkdir()
    return Path(shutil.copy(migrated, tmp_path / "here"))


@asynccontextmanager
async def opened_in_vain(path: Path, told: str) -> AsyncIterator[SqliteStore]:
    """Open the database; after the block it has to be told that it was lost."""
    with pytest.raises(StoreLost, match=told) as lost:
        async with open_sqlite(path) as store:
            yield store
    assert lost.value.hint


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def move(path: Path, to: Path) -> None:
    path.rename(to)


async def refuses(store: SqliteStore, told: str) -> None:
    """See that nothing is asked or committed any more."""
    checks = [store.load(STREAM.key), store.known(Keys(STREAM)), store.checkpoints(), store.answers()]
    for asked in checks:
        with pytest.raises(StoreLost, match=told):
            await asked


class TestAFileThatIsGone:
    @each_harm
    async def test_is_told_to_whoever_asks_or_commits_and_after_the_block(self, path: Path, harm: str) -> None:
        harms, told = GONE[harm]
        async with opened_in_vain(path, told) as store:
            reached = await live(store, STREAM, 2)
            harms(path)
            with pytest.raises(StoreLost, match=told):
                await store.commit(next_commit(reached))
            await refuses(store, told)

    @each_harm
    async def test_is_told_after_the_block_although_nobody_asked(self, path: Path, harm: str) -> None:
        harms, told = GONE[harm]
        async with opened_in_vain(path, told) as store:
            await live(store, STREAM, 2)
            harms(path)

    @each_harm
    async def test_is_found_without_being_asked(self, path: Path, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_module, "WATCH_SECONDS", 0.01)
        harms, told = GONE[harm]
        async with opened_in_vain(path, told) as store:
            await live(store, STREAM, 2)
            watching = asyncio.create_task(store.watch())
            harms(path)
            assert "while it was open" in (await watching).message

    async def test_stays_gone_when_it_is_put_back(self, path: Path) -> None:
        """Meanwhile others may have made another one, and who asked was told that it is gone."""
        away = path.with_name("away.db")
        async with opened_in_vain(path, "while it was open") as store:
            move(path, away)
            with pytest.raises(StoreLost):
                await store.answers()
            move(away, path)
            await refuses(store, "deleted or moved away")

    @pytest.mark.parametrize("harm", ["deleted", "replaced", "wal deleted", "lock deleted"])
    async def test_takes_back_the_word_for_a_commit_in_hand(
        self, path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It goes while the rows are written: the COMMIT succeeds, and nobody would find what it wrote."""
        harms, told = GONE[harm]
        write = SqliteWriter.write

        def harmed(*arguments: object) -> object:
            committed = write(*arguments)  # type: ignore[arg-type]
            harms(path)
            return committed

        async with opened_in_vain(path, told) as store:
            reached = await live(store, STREAM, 2)
            if harm == "replaced":
                other = other_database(path)
                harms = other.rename
            monkeypatch.setattr(SqliteWriter, "write", harmed)
            with pytest.raises(StoreLost, match=told):
                await store.commit(next_commit(reached))

    async def test_leaves_a_commit_open_where_nobody_can_look(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such as a directory that hangs: the commit is settled by reading, and not made twice."""
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
    async def test_is_in_the_database_when_only_a_file_beside_it_goes(self, path: Path, harm: str) -> None:
        async with opened_in_vain(path, "while it was open") as store:
            reached = await live(store, STREAM, 30)
            GONE[harm][0](path)
        async with open_sqlite(path) as store:
            assert await store.load(STREAM.key) == reached
        async with open_sqlite_reader(path) as journal_reader:
            await journal_reader.verify()

    async def test_into_the_database_before_does_not_get_into_the_one_in_its_place(self, path: Path) -> None:
        other = other_database(path)
        before = bytes_of(other)
        async with opened_in_vain(path, "while it was open") as store:
            await live(store, STREAM, 30)
            move(other, path)
        assert bytes_of(path) == before

    async def test_is_whole_again_when_the_database_that_was_moved_is_put_back(self, path: Path) -> None:
        async with opened_in_vain(path, "while it was open") as store:
            reached = await live(store, STREAM, 30)
            move(path, path.with_name("away.db"))
        move(path.with_name("away.db"), path)
        async with open_sqlite(path) as store:
            assert await store.load(STREAM.key) == reached


class TestASecondMilepost:
    async def test_that_the_lock_does_not_hold_off_any_more_is_noticed_by_the_first(self, path: Path) -> None:
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
    async def test_is_told_that_it_reads_what_nobody_finds(self, path: Path, harm: str) -> None:
        async with open_sqlite_reader(path) as journal_reader:
            assert await journal_reader.checkpoints() == []
            GONE[harm][0](path)
            with pytest.raises(StoreLost, match=GONE[harm][1]):
                await journal_reader.entries(after=0, limit=10)

    async def test_that_rebuilds_is_told_that_it_was_for_nothing(self, path: Path) -> None:
        async with open_sqlite_reader(path, alone=True) as journal_reader:
            await journal_reader.rebuild()
            beside(path, ".lock").unlink()
            with pytest.raises(StoreLost):
                await journal_reader.rebuild()


class TestNothingIsLost:
    """What other programs may do beside the daemon."""

    async def test_by_checkpoints_vacuums_and_other_connections_that_come_and_go(self, path: Path) -> None:
        async with open_sqlite(path) as store:
            await live(store, STREAM, 10)
            for script in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(RESTART)", "ANALYZE"):
                execute(path, script)
                await store.answers()
                await live(store, STREAM, 1)
            execute(path, "PRAGMA journal_mode = WAL")
            assert rows_of(path, "SELECT count(*) > 0 FROM journal") == [(1,)]
            await store.answers()

    async def test_by_a_backup_or_a_person_who_is_forgotten(self, path: Path, tmp_path: Path) -> None:
        async with open_sqlite(path) as store:
            reached = await live(store, STREAM, 10)
            async with open_sqlite_reader(path) as journal_reader:
                await journal_reader.copy_to(tmp_path / "copy.db", lambda _, __: None)
            await forget(StoreUrl(f"sqlite:///{path}"), STREAM, "c_1")
            assert await store.load(STREAM.key) == reached

    async def test_by_a_symlink_that_leads_elsewhere_later(self, path: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.db"
        link.symlink_to(path)
        async with open_sqlite(link) as store:
            link.unlink()
            link.symlink_to(tmp_path / "other.db")
            await live(store, STREAM, 3)

    async def test_by_a_backup_that_is_read_which_has_no_files_beside_it(self, path: Path) -> None:
        other = other_database(path)
        with closing(sqlite3.connect(other)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        async with open_sqlite_reader(other) as journal_reader:
            await journal_reader.verify()


class TestADatabaseThatIsMissingAtTheStart:
    async def test_is_made_anew_and_that_is_said_where_there_was_one(
        self, path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with open_sqlite(path):
            pass
        move(path, path.with_name("away.db"))
        async with open_sqlite(path):
            pass
        assert "database missing, a new one was created" in capsys.readouterr().out + caplog.text

    async def test_is_made_without_a_word_where_there_never_was_one(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with open_sqlite(tmp_path / "new.db"):
            pass
        assert "missing" not in capsys.readouterr().out
