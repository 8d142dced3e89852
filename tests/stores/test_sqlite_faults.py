"""What the user sees when the database or its disk has a fault, and what is left afterwards."""

import asyncio
import os
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from kit.builders import NOON, STREAM
from kit.needs import unprivileged
from kit.small_disk import small_disk
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import JournalDamaged, MilepostError, RowsRejected, StoreAway, StoreRefused
from milepost.core.model import DataSource, Keys
from milepost.core.ports import Commit, Committed
from milepost.core.position import Stretch
from milepost.stores.reader import DeadLetterState
from milepost.stores.sqlite.commit import SqliteWriter
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import SqliteStore, open_sqlite
from stores.histories import life, live, next_commit, stream
from stores.processes import command, outcome
from stores.sqlite_files import execute, raw
from stores.store_dump import SqliteDump

# Root has all permissions, so the program runs as `nobody` to lack some.


DISK_FULL = "nothing that was committed is lost"


async def use(path: Path) -> None:
    """Do all that a daemon does with its database, and check it."""
    async with open_sqlite(path) as store:
        for number in range(3):
            asked = tuple(f"{stream(number).key}/{version}/0" for version in range(60))
            await store.known(Keys(stream(number), asked, asked, asked, asked, NOON, Stretch(NOON, NOON, None, asked)))
            await store.due_dead_letters(stream(number), NOON, 100)
            await live(store, stream(number), 3)
    async with open_sqlite_reader(path) as journal_reader:
        await journal_reader.verify()
        await journal_reader.entries(after=0, limit=10_000)
        await journal_reader.dead_letters(DeadLetterState.ALL, limit=10_000)
        await journal_reader.runs(limit=10_000)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    """Return a database of some size, closed and to be copied."""
    path = Path(shutil.copy(migrated, tmp_path_factory.mktemp("used")))

    async def lived() -> None:
        async with open_sqlite(path) as store:
            for number in range(3):
                await live(store, stream(number), 40)

    asyncio.run(lived())
    return path


class TestAFile:
    async def refused(self, path: Path, why: str) -> None:
        with pytest.raises(StoreRefused, match=why) as refusal:
            await use(path)
        assert str(path) in refusal.value.message
        assert refusal.value.hint

    async def test_a_file_in_a_missing_directory_is_refused(self, tmp_path: Path) -> None:
        await self.refused(tmp_path / "missing" / "milepost.db", "No such file or directory")

    async def test_a_directory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "milepost.db").mkdir()
        await self.refused(tmp_path / "milepost.db", "unable to open")

    async def test_a_file_whose_lock_is_a_directory_is_refused(self, path: Path) -> None:
        path.with_name("milepost.db.lock").mkdir()
        await self.refused(path, "Is a directory")

    async def test_a_file_whose_directory_is_a_file_is_refused(self, path: Path) -> None:
        await self.refused(path / "milepost.db", "Not a directory")

    async def test_a_symlink_to_itself_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "milepost.db").symlink_to("milepost.db")
        await self.refused(tmp_path / "milepost.db", "unable to open|symbolic links")

    @pytest.mark.parametrize("text", ["# my notes\n" * 1_000, "# notes"], ids=["long", "short"])
    async def test_a_file_that_is_not_a_database_is_refused_and_left_alone(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "milepost.db"
        path.write_text(text)

        await self.refused(path, "not a database")

        assert path.read_text() == text

    async def test_an_empty_file_becomes_a_database(self, tmp_path: Path) -> None:
        path = tmp_path / "milepost.db"
        path.touch()

        await use(path)


class TestRights:
    @pytest.fixture
    def ours(self, used: Path) -> Iterator[Path]:
        """Yield a database in a directory that everybody may reach."""
        with tempfile.TemporaryDirectory() as directory:
            Path(directory).chmod(0o777)
            path = Path(shutil.copy(used, directory))
            path.chmod(0o666)
            yield path
            Path(directory).chmod(0o777)

    def outcome_for(self, path: Path) -> str:
        printed = outcome(command(path), user=unprivileged())
        assert printed[-1] == "done" or len(printed) == 1, "it is only found out at the first commit"
        return printed[-1]

    def test_the_permissions_that_are_needed_suffice(self, ours: Path) -> None:
        assert self.outcome_for(ours) == "done"

    @pytest.mark.parametrize("mode", [0o000, 0o222, 0o444], ids=oct)
    def test_missing_permissions_for_the_file_are_named(self, ours: Path, mode: int) -> None:
        ours.chmod(mode)

        assert self.outcome_for(ours).startswith(f"StoreRefused the database {ours} cannot be used: ")

    def test_a_directory_that_may_not_be_entered_is_named(self, ours: Path) -> None:
        ours.parent.chmod(0o000)

        assert self.outcome_for(ours).startswith(f"StoreRefused the database {ours} cannot be opened: ")

    def test_missing_permissions_for_the_directory_are_named(self, ours: Path) -> None:
        ours.parent.chmod(0o555)

        outcome = self.outcome_for(ours)

        assert outcome.startswith(f"StoreRefused the database {ours} cannot be locked: Permission denied")
        assert "this user may write there" in outcome

    def test_permissions_for_the_directory_that_are_missing_once_it_was_locked_are_named(self, ours: Path) -> None:
        """SQLite needs files beside the database as well."""
        ours.with_name(ours.name + ".lock").touch()
        ours.with_name(ours.name + ".lock").chmod(0o666)
        ours.parent.chmod(0o555)

        assert self.outcome_for(ours).startswith(f"StoreRefused the database {ours} cannot be used: ")


def damaged(used: Path, directory: Path, seed: int) -> Path:
    """Copy a database and overwrite a few places in it."""
    jitter = Random(seed)  # noqa: S311  (repeatable)
    path = Path(shutil.copy(used, directory / f"{seed}.db"))
    with path.open("r+b") as file:
        for _ in range(jitter.choice((1, 1, 4))):
            file.seek(jitter.randrange(4096, path.stat().st_size))
            file.write(jitter.randbytes(jitter.choice((1, 40, 4096))))
    return path


def interruptible(used: Path, directory: Path, kept: float) -> Path:
    """Copy a database without its end."""
    path = Path(shutil.copy(used, directory))
    os.truncate(path, int(kept * path.stat().st_size))
    return path


def torn(wal: Path) -> None:
    """Leave an unfinished write at the end of a WAL, as a crash may."""
    with wal.open("ab") as file:
        file.write(bytes(range(256)) * 20)


class TestDamage:
    """Damage causes StoreRefused or JournalDamaged, or hits nothing: never a traceback, never a wrong result."""

    @pytest.mark.parametrize("kept", [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
    async def test_a_truncated_file_is_reported(self, used: Path, tmp_path: Path, kept: float) -> None:
        path = interruptible(used, tmp_path, kept)

        with pytest.raises((StoreRefused, JournalDamaged)) as raised:
            await use(path)

        assert "backup" in raised.value.hint or "no SQLite database" in raised.value.hint

    async def test_damaged_pages_are_reported(self, used: Path, tmp_path: Path) -> None:
        errors = [await self._error_of(damaged(used, tmp_path, seed)) for seed in range(25)]

        assert sum(error is not None for error in errors) >= 10

    async def _error_of(self, path: Path) -> MilepostError | None:
        try:
            await use(path)
        except (StoreRefused, JournalDamaged) as error:
            return error
        return None

    async def test_a_damaged_wal_loses_only_what_was_never_acknowledged(self, path: Path, tmp_path: Path) -> None:
        crashed = tmp_path / "crashed.db"
        async with open_sqlite(path) as store:
            after = await live(store, STREAM, 5)
            shutil.copy(path, crashed)
            shutil.copy(f"{path}-wal", f"{crashed}-wal")
        torn(Path(f"{crashed}-wal"))

        async with open_sqlite(crashed) as store:
            assert await store.load(STREAM) == after


@contextmanager
def a_file_is_at_most(size: int) -> Iterator[None]:
    """Limit the files of this process to so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def fill_up(store: SqliteStore) -> Checkpoint:
    """Commit until the store is away, and return the stream's checkpoint then."""
    checkpoint = await store.load(STREAM)
    for _ in range(2_000):
        following = next_commit(checkpoint)
        try:
            await store.commit(following)
        except StoreAway:
            return checkpoint
        checkpoint = following.checkpoint
    pytest.fail("there was room for everything")


async def nothing_is_half_stored(path: Path, store: SqliteStore, reached: Checkpoint) -> None:
    assert await store.load(STREAM) == reached
    tables = SqliteDump(path).tables()
    assert tables.checkpoints == tables.refold() == {STREAM.key: reached}
    stored = [each for each in life(STREAM, len(tables.journal)) if each.checkpoint.version <= reached.version]
    assert set(tables.conversations) == {row.conversation_id for each in stored for row in each.changes.conversations}
    assert set(tables.dead_letters) == {row.dead_letter_id for each in stored for row in each.changes.payloads}
    assert set(tables.payloads) == {
        key for key, dead_letter in tables.dead_letters.items() if dead_letter.closed_at is None
    }


class TestAFullDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        """Mount a disk of two megabytes."""
        with small_disk(tmp_path, "2m") as disk:
            yield disk

    async def test_a_full_disk_is_an_absence_until_there_is_room(self, disk: Path, migrated: Path) -> None:
        path = Path(shutil.copy(migrated, disk))
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(600_000))
        async with open_sqlite(path) as store:
            for _ in range(3):
                reached = await fill_up(store)
                await nothing_is_half_stored(path, store, reached)
                ballast.write_bytes(bytes(max(0, ballast.stat().st_size - 200_000)))

                assert (await live(store, STREAM, 1)).version > reached.version
        async with open_sqlite_reader(path) as journal_reader:
            await journal_reader.verify()

    async def test_a_disk_that_the_log_has_filled_gets_room_by_writing_it_back(
        self, disk: Path, migrated: Path
    ) -> None:
        path = Path(shutil.copy(migrated, disk))
        async with open_sqlite(path) as store:
            at_first = await live(store, STREAM, 3)
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - 200_000))
        failures = 0
        async with open_sqlite(path) as store:
            for number in range(100):  # each rewrites the same pages, again and again into the log
                try:
                    await store.replace_source(DataSource("facebook", f"https://graph{number}.example"))
                except StoreAway:
                    failures += 1
                    await store.replace_source(DataSource("facebook", f"https://graph{number}.example"))
            assert await store.load(STREAM) == at_first
            assert failures > 1, "the log never filled the disk: this tests nothing"

    @pytest.mark.parametrize("room", [0, 5_000, 30_000])
    async def test_a_full_disk_at_the_start_is_reported(self, disk: Path, migrated: Path, room: int) -> None:
        path = Path(shutil.copy(migrated, disk))
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - room))

        with pytest.raises(StoreAway, match=DISK_FULL):
            await use(path)

        (disk / "ballast").unlink()
        await use(path)

    @pytest.mark.parametrize("room", [0, 8_192, 20_480, 57_344, 90_112, 122_880])
    async def test_a_disk_too_full_for_a_new_database_is_reported_until_there_is_room(
        self, disk: Path, room: int
    ) -> None:
        """This holds for each migration at which the disk becomes full."""
        (disk / "ballast").write_bytes(bytes(shutil.disk_usage(disk).free - room))

        with pytest.raises(StoreAway, match="disk"):
            await use(disk / "milepost.db")

        (disk / "ballast").unlink()
        await use(disk / "milepost.db")

    async def test_a_quota_counts_as_a_full_disk(self, path: Path) -> None:
        async with open_sqlite(path) as store:
            with a_file_is_at_most(400_000):
                reached = await fill_up(store)
            await nothing_is_half_stored(path, store, reached)
            assert (await live(store, STREAM, 1)).version > reached.version


class TestALockedDatabase:
    async def test_a_locked_database_is_an_absence_from_the_timeout_until_it_is_unlocked(self, path: Path) -> None:
        async with open_sqlite(path) as store:
            reached = await live(store, STREAM, 2)
            await store._database.run(lambda connection: connection.execute("PRAGMA busy_timeout = 50"))
            with raw(path) as other:
                other.execute("BEGIN EXCLUSIVE")
                with pytest.raises(StoreAway, match="locked"):
                    await store.commit(next_commit(reached))
                assert await store.load(STREAM) == reached
                other.execute("ROLLBACK")

            assert (await live(store, STREAM, 1)).version > reached.version

    async def test_a_reader_s_lock_delays_nothing(self, path: Path) -> None:
        async with open_sqlite(path) as store:
            before = await live(store, STREAM, 2)
            with raw(path) as other:
                other.execute("BEGIN")
                other.execute("SELECT * FROM journal").fetchall()
                after = await live(store, STREAM, 50)
                assert len(other.execute("SELECT * FROM journal").fetchall()) == before.version

            assert await store.load(STREAM) == after


async def test_a_database_whose_tables_are_gone_is_refused(path: Path) -> None:
    execute(path, "DROP TABLE conversations")

    with pytest.raises(StoreRefused, match="no such table"):
        await use(path)


async def test_a_fault_while_a_group_is_written_one_by_one_is_raised_only_to_those_it_hit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is refused, so each commit is written by itself. Commits stored before the fault are reported as stored."""
    opening, stored, refused, hit = (next(life(stream(number), 1)) for number in range(4))
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorname = "SQLITE_FULL"

    write = SqliteWriter.write

    def write_or_fail(writer: SqliteWriter, group: list[Commit], events_chunk_size: int) -> list[Committed]:
        if refused in group:
            raise sqlite3.IntegrityError("not this one")
        if hit in group:
            raise full
        return write(writer, group, events_chunk_size)

    monkeypatch.setattr(SqliteWriter, "write", write_or_fail)
    async with open_sqlite(path) as store:
        commits = (opening, stored, refused, hit)
        answers = await asyncio.gather(*(store.commit(each) for each in commits), return_exceptions=True)

        assert [type(answer) for answer in answers] == [Committed, Committed, RowsRejected, StoreAway]
        assert await store.load(stream(1)) == stored.checkpoint
