"""Migrating a database: once, forward only, and whole however it is interrupted."""

import asyncio
import gc
import shutil
import threading
from pathlib import Path

import pytest

from kit.builders import STREAM
from kit.needs import long_only
from milepost.core.errors import StoreRefused
from milepost.stores.postgresql.migrate import MIGRATIONS as POSTGRESQL
from milepost.stores.sqlite import migrate as migrating
from milepost.stores.sqlite import store as sqlite_store
from milepost.stores.sqlite.connection import is_held
from milepost.stores.sqlite.migrate import MIGRATIONS, applied, migrate, pending, shipped
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import live
from stores.processes import command, injecting, outcome
from stores.sqlite_files import execute, rows_of

ROOT = Path(__file__).parent.parent.parent
OF_SQLITE = {"0018_indexes"}  # about how SQLite writes its indexes


def schema(path: Path) -> list[tuple[object, ...]]:
    return rows_of(path, "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE '%schema_migrations%' ORDER BY name")


def in_order(path: Path) -> list[str]:
    return [name for (name,) in rows_of(path, "SELECT name FROM schema_migrations ORDER BY rowid")]


@pytest.fixture
def more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the shipped migrations, to which some can be added."""
    copied = Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations [50%]"))
    monkeypatch.setattr(migrating, "MIGRATIONS", copied)
    return copied


async def test_a_start_that_is_cancelled_holds_the_database_until_its_migration_has_ended(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise another process might begin the same migrations meanwhile."""
    has_begun, may_end = threading.Event(), threading.Event()

    def migrate_slowly(_: Path, *, is_missing: bool) -> None:
        has_begun.set()
        may_end.wait()

    async def start() -> None:
        async with open_sqlite(path):
            raise AssertionError("it was cancelled before")

    monkeypatch.setattr(sqlite_store, "_bring_up_to_date", migrate_slowly)
    starting = asyncio.create_task(start())
    await asyncio.to_thread(has_begun.wait)
    starting.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    try:
        assert is_held(path)
    finally:
        may_end.set()
    await asyncio.wait([starting])
    assert starting.cancelled()
    assert not is_held(path)


async def test_a_start_that_is_cancelled_says_nothing_of_a_migration_that_fails_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start meets the same failure, and reports it as an error instead of as a traceback."""
    has_begun, may_end, reported = threading.Event(), threading.Event(), list[object]()

    def fail_slowly(_: Path, *, is_missing: bool) -> None:
        has_begun.set()
        may_end.wait()
        raise StoreRefused("a migration failed")

    async def start() -> None:
        async with open_sqlite(path):
            raise AssertionError("it was cancelled before")

    monkeypatch.setattr(sqlite_store, "_bring_up_to_date", fail_slowly)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    starting = asyncio.create_task(start())
    await asyncio.to_thread(has_begun.wait)
    starting.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    may_end.set()
    await asyncio.wait([starting])
    assert starting.cancelled()
    del starting
    gc.collect()
    assert reported == []


class TestMigrate:
    def test_a_new_database_gets_the_schema(self, tmp_path: Path) -> None:
        path = tmp_path / "milepost.db"

        assert migrate(path) == shipped() == applied(path)
        assert pending(path) == set()
        assert in_order(path) == sorted(shipped())

    def test_migrating_again_does_nothing(self, path: Path) -> None:
        before = path.read_bytes()

        assert migrate(path) == set()
        assert path.read_bytes() == before

    def test_only_missing_migrations_are_applied_in_the_order_of_their_names(self, path: Path, more: Path) -> None:
        (more / "0110_third.sql").write_text("ALTER TABLE extra RENAME COLUMN two TO three;")
        (more / "0109_second.sql").write_text("ALTER TABLE extra RENAME COLUMN one TO two;")
        (more / "0108_first.sql").write_text("CREATE TABLE extra (one TEXT);")

        assert migrate(path) == {"0108_first", "0109_second", "0110_third"}

        assert in_order(path) == sorted(shipped())
        assert [name for _, name, *_ in rows_of(path, "PRAGMA table_info(extra)")] == ["three"]

    def test_the_migrations_ship_with_the_package(self) -> None:
        assert MIGRATIONS.resolve() == ROOT / "migrations" / "sqlite"
        assert {"0001_journal", "0002_contacts", "0003_remedies", "0004_listings"} <= shipped()

    def test_both_databases_have_migrations_of_the_same_names(self) -> None:
        assert POSTGRESQL.resolve() == ROOT / "migrations" / "postgresql"
        assert {path.stem for path in POSTGRESQL.glob("*.sql")} >= shipped() - OF_SQLITE


class TestANewerDatabase:
    async def test_a_newer_database_is_refused_with_the_names_of_unknown_migrations(self, path: Path) -> None:
        execute(path, "INSERT INTO schema_migrations VALUES ('0900_from_the_future', '2099-01-01')")

        for opening in (open_sqlite(path), open_sqlite_reader(path), open_sqlite_reader(path, alone=True)):
            with pytest.raises(
                StoreRefused, match="newer than this Milepost: its migrations include 0900_from_the_future"
            ):
                async with opening:
                    pass


class TestADatabaseOfAnotherProgram:
    @pytest.mark.parametrize(
        "tables",
        ["CREATE TABLE contacts (name)", "CREATE TABLE recipes (title)", "CREATE TABLE schema_migrations (name)"],
    )
    async def test_a_database_of_another_program_is_refused_and_left_alone(self, tmp_path: Path, tables: str) -> None:
        path = tmp_path / "crm.db"
        execute(path, tables)
        before = path.read_bytes()

        for opening in (open_sqlite(path), open_sqlite_reader(path)):
            with pytest.raises(StoreRefused, match="is the database of another program: it has") as refused:
                async with opening:
                    pass
            assert "store.url" in refused.value.hint

        assert path.read_bytes() == before

    async def test_what_a_replicator_adds_to_an_empty_file_does_not_matter(self, tmp_path: Path) -> None:
        path = tmp_path / "milepost.db"
        execute(path, "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER); ANALYZE")
        async with open_sqlite(path):
            assert applied(path) == shipped()


class TestAnInterruptedMigration:
    async def test_a_failed_migration_changes_nothing_and_succeeds_once_it_is_repaired(
        self, tmp_path: Path, more: Path
    ) -> None:
        path = tmp_path / "milepost.db"
        migrate(path)
        before = rows_of(path, "SELECT name, sql FROM sqlite_master"), in_order(path)
        (more / "0800_good.sql").write_text("CREATE TABLE whole (a TEXT);")
        bad = more / "0900_bad.sql"
        bad.write_text("CREATE TABLE half (a TEXT); INSERT INTO half VALUES (1); CREATE TABLE half (b TEXT);")

        with pytest.raises(StoreRefused, match="half already exists"):
            migrate(path)

        assert (rows_of(path, "SELECT name, sql FROM sqlite_master"), in_order(path)) == before
        bad.write_text("CREATE TABLE half (a TEXT);")
        assert migrate(path) == {"0800_good", "0900_bad"}
        async with open_sqlite(path) as store:
            await live(store, STREAM, 3)

    @pytest.mark.parametrize("write", [1, 11, 21, 31, *long_only(6, 16, 26, 36)])
    def test_a_killed_migration_is_finished_by_the_next_start(self, tmp_path: Path, migrated: Path, write: int) -> None:
        """Killed at the given write to the disk, before it is done."""
        path = tmp_path / "milepost.db"
        killing = injecting(f"pwrite64:signal=KILL:when={write}")

        assert outcome([*killing, *command(path)]) == []

        assert outcome(command(path))[-1] == "done"

        assert applied(path) == shipped()
        assert schema(path) == schema(migrated)
