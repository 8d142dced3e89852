"""Migrating a schema: once, forward only, and whole however it is interrupted."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.binary import until
from kit.builders import STREAM
from kit.needs import long_only
from kit.postgres import Database, Server, fresh_database, on_both_releases
from milepost.core.errors import StoreAway, StoreRefused
from milepost.stores.open import has_database, open_reader, open_store
from milepost.stores.postgresql import migrate as migrating
from milepost.stores.postgresql.migrate import MIGRATIONS, migrate, open_current, shipped
from milepost.stores.url import StoreUrl
from stores.histories import live

ROOT = Path(__file__).parent.parent.parent
COLUMNS = """
    SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
    WHERE table_schema = 'milepost' ORDER BY 1, 2
"""

pytestmark = on_both_releases


@pytest.fixture
def empty(postgres: Server) -> Iterator[Database]:
    """Yield a database without a schema of ours."""
    with fresh_database(postgres, template=None) as database:
        yield database


@pytest.fixture
def more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the shipped migrations, to which some can be added."""
    copied = Path(shutil.copytree(MIGRATIONS, tmp_path / "migrations [50%]"))
    monkeypatch.setattr(migrating, "MIGRATIONS", copied)
    return copied


async def migrated(database: Database) -> set[str]:
    return await migrate(database.store_url)


def in_order(database: Database) -> list[str]:
    """Return the names of what was applied, in that order."""
    return [name for (name,) in database.sql("SELECT name FROM schema_migrations ORDER BY applied_at, name")]


def limited(database: Database) -> list[str]:
    """Limit the time that statements and transactions in the database may take; return the names of the settings."""
    found = database.sql("SELECT name FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout')")
    for (name,) in found:
        database.sql(f"ALTER DATABASE {database.name} SET {name} = '100s'")
    return [name for (name,) in found]


class TestMigrate:
    async def test_an_empty_database_gets_the_schema(self, empty: Database) -> None:
        assert not await has_database(empty.store_url)

        assert await migrated(empty) == shipped()

        assert in_order(empty) == sorted(shipped())
        assert await has_database(empty.store_url)

    async def test_migrating_again_does_nothing(self, database: Database) -> None:
        before = database.sql("SELECT xmin::text, * FROM schema_migrations ORDER BY name")

        assert await migrated(database) == set()

        assert database.sql("SELECT xmin::text, * FROM schema_migrations ORDER BY name") == before

    async def test_only_missing_migrations_are_applied_in_the_order_of_their_names(
        self, database: Database, more: Path
    ) -> None:
        (more / "0110_third.sql").write_text("ALTER TABLE extra RENAME COLUMN two TO three;")
        (more / "0109_second.sql").write_text("ALTER TABLE extra RENAME COLUMN one TO two;")
        (more / "0108_first.sql").write_text("CREATE TABLE extra (one text); -- 50% of it")

        assert await migrated(database) == {"0108_first", "0109_second", "0110_third"}

        assert [name for _, name, *_ in database.sql(COLUMNS) if name in ("one", "two", "three")] == ["three"]

    async def test_a_migration_takes_as_long_as_it_takes_whatever_the_database_allows(
        self, database: Database, more: Path
    ) -> None:
        timeouts = limited(database)
        seen = " UNION ALL ".join(f"SELECT current_setting('{name}') AS it" for name in timeouts)
        (more / "0108_large.sql").write_text(f"CREATE TABLE seen AS {seen};")

        assert await migrated(database) == {"0108_large"}

        assert database.sql("SELECT it FROM milepost.seen") == [("0",)] * len(timeouts)

    async def test_a_long_transaction_takes_as_long_as_it_takes_whatever_the_database_allows(
        self, database: Database
    ) -> None:
        timeouts = limited(database)
        async with open_current(database.store_url) as opened, opened.long_transaction() as connection:
            for name in timeouts:
                shown = await connection.execute(f"SHOW {name}".encode())
                assert await shown.fetchone() == ("0",)

    @pytest.mark.parametrize("isolation", ["read committed", *long_only("repeatable read")])
    async def test_one_of_many_simultaneous_starts_migrates_and_the_others_wait(
        self, empty: Database, isolation: str
    ) -> None:
        empty.sql(f"ALTER DATABASE {empty.name} SET default_transaction_isolation = '{isolation}'")

        done = await asyncio.gather(*(migrated(empty) for _ in range(8)))

        assert sorted(name for each in done for name in each) == sorted(shipped())

    async def test_a_start_waits_for_the_migration_of_another_whatever_lock_timeout_the_role_has(
        self, database: Database
    ) -> None:
        database.sql(f"ALTER DATABASE {database.name} SET lock_timeout = '1ms'")
        with database.connect() as other, other.transaction():
            other.execute("SELECT pg_advisory_xact_lock(hashtextextended('milepost migrations', 0))")
            starting = asyncio.create_task(migrated(database))
            waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            await until(lambda: starting.done() or database.sql(waits))

        assert await starting == set()

    async def test_a_schema_that_was_created_for_it_is_used(self, empty: Database) -> None:
        """By somebody who does not allow it to create one."""
        empty.sql("CREATE SCHEMA crm AUTHORIZATION milepost")
        empty.sql(f"ALTER DATABASE {empty.name} OWNER TO postgres")
        store_url = StoreUrl(empty.url, empty.password, schema="crm")

        async with open_store(store_url) as store:
            await live(store, STREAM, 3)
        async with open_reader(store_url) as journal_reader:
            assert (await journal_reader.verify()).streams == 1

        assert empty.sql("SELECT count(*) FROM crm.checkpoints") == [(1,)]
        assert empty.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'milepost'") == []


class TestAnInterruptedMigration:
    async def test_a_failed_migration_changes_nothing_and_succeeds_once_it_is_repaired(
        self, empty: Database, more: Path
    ) -> None:
        before = shipped()
        bad = more / "0900_bad.sql"
        bad.write_text("CREATE TABLE half (a text); INSERT INTO half VALUES (1); CREATE TABLE half (b text);")

        with pytest.raises(StoreRefused, match='"half" already exists'):
            await migrated(empty)

        assert in_order(empty) == sorted(before)
        assert empty.sql("SELECT to_regclass('half')") == [(None,)]
        bad.write_text("CREATE TABLE half (a text);")
        assert await migrated(empty) == {"0900_bad"}
        async with open_store(empty.store_url) as store:
            await live(store, STREAM, 3)

    @pytest.mark.parametrize("name", ["0001_journal", "0004_listings", *long_only("0002_contacts", "0003_remedies")])
    async def test_a_migration_that_is_cut_off_is_finished_by_the_next_start(
        self, empty: Database, database: Database, more: Path, name: str
    ) -> None:
        script = (more / f"{name}.sql").read_text()
        (more / f"{name}.sql").write_text(f"{script}; SELECT pg_terminate_backend(pg_backend_pid());")
        with pytest.raises(StoreAway):
            await migrated(empty)

        (more / f"{name}.sql").write_text(script)
        assert name in await migrated(empty)

        assert empty.sql(COLUMNS) == database.sql(COLUMNS)
        assert in_order(empty) == sorted(shipped())


class TestAnOlderDatabase:
    async def test_a_reader_refuses_an_older_database(self, database: Database, more: Path) -> None:
        (more / "0900_new.sql").write_text("CREATE TABLE extra (one text);")

        with pytest.raises(StoreRefused, match=r"older Milepost.*milepost run"):
            async with open_reader(database.store_url):
                pass


async def test_a_database_that_cannot_hold_every_text_is_refused(postgres: Server) -> None:
    latin = "TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'"
    with fresh_database(postgres, template=None, options=latin) as database:
        with pytest.raises(StoreRefused, match="encoded in LATIN1") as raised:
            await migrated(database)

        assert "--encoding=UTF8" in raised.value.hint
        assert database.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'milepost'") == []
