"""`store copy` refuses unsuitable sources and targets, and leaves them alone."""

import asyncio
from contextlib import AbstractAsyncContextManager

import psycopg
import pytest

from kit.postgres import ROLE
from milepost.core.errors import BadConfiguration, MilepostError, StoreBusy, StoreRefused
from milepost.stores.open import forget, open_reader, open_store
from milepost.stores.sqlite import migrate as migrating
from stores.copies import Pair, copied, holds_nothing
from stores.databases import AnyDatabase, Databases
from stores.histories import live, stream
from stores.sqlite_files import DROP_TRIGGERS


class TestNotEmpty:
    async def test_a_target_with_a_journal_is_refused_and_left_alone(
        self, source: AnyDatabase, target: AnyDatabase
    ) -> None:
        async with open_store(target.store_url) as store:
            await live(store, stream(7), 3)
        before = target.everything()

        with pytest.raises(StoreRefused, match=r"is not empty: it has rows in .*journal") as refused:
            await copied(source, target)

        assert "drop that one first" in refused.value.hint
        assert target.everything() == before

    async def test_a_target_with_rows_and_no_journal_is_refused(self, source: AnyDatabase, target: AnyDatabase) -> None:
        async with open_store(target.store_url):
            pass
        target.execute("INSERT INTO dead_letter_payloads VALUES ('d_1', 'mine')")

        with pytest.raises(StoreRefused, match="is not empty: it has rows in dead_letter_payloads"):
            await copied(source, target)

        assert target.rows("SELECT * FROM dead_letter_payloads") == [("d_1", "mine")]

    async def test_a_target_that_is_an_earlier_copy_is_refused(self, source: AnyDatabase, target: AnyDatabase) -> None:
        await copied(source, target)
        with pytest.raises(StoreRefused, match="is not empty"):
            await copied(source, target)
        assert target.everything() == source.everything()

    async def test_a_target_that_is_the_source_itself_is_refused(self, source: AnyDatabase) -> None:
        before = source.everything()
        with pytest.raises(BadConfiguration, match="is the database to be copied"):
            await copied(source, source)
        assert source.everything() == before

    async def test_a_file_of_another_program_is_refused(self, into_sqlite: Pair) -> None:
        source, target = into_sqlite
        target.execute("CREATE TABLE customers (name)")
        before = target.file.read_bytes()
        with pytest.raises(StoreRefused, match="is the database of another program"):
            await copied(source, target)
        assert target.file.read_bytes() == before

    async def test_a_schema_of_another_program_is_refused(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        target.execute(f"CREATE SCHEMA milepost AUTHORIZATION {ROLE}")
        target.execute("CREATE TABLE milepost.contacts (name text)")
        with pytest.raises(StoreRefused, match=r"the schema milepost .* is not empty"):
            await copied(source, target)
        assert target.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'milepost'") == [("contacts",)]

    async def test_a_target_whose_migration_was_cut_off_is_migrated(
        self, into_sqlite: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, target = into_sqlite
        with monkeypatch.context() as patch:
            patch.setattr(migrating, "shipped", lambda: {"0001_journal", "0002_contacts"})
            migrating.migrate(target.file)
        await copied(source, target)
        assert target.everything() == source.everything()


class TestUnfinishedCopiesOfEarlierVersions:
    """They copied step by step, and marked the target until it was verified."""

    @pytest.fixture
    def marked(self, target: AnyDatabase) -> AnyDatabase:
        asyncio.run(target.fill(commits=3))
        target.execute("INSERT INTO unfinished_copy VALUES (1, 'sqlite:///old.db', '2026-03-01T12:00:00.000Z')")
        return target

    async def test_a_marked_target_is_emptied_and_filled_anew(self, source: AnyDatabase, marked: AnyDatabase) -> None:
        marked.execute("INSERT INTO dead_letter_payloads VALUES ('d_1', 'of the copy that was cut off')")
        await copied(source, marked)
        assert marked.everything() == source.everything()
        assert marked.mark() == []

    async def test_a_marked_database_is_opened_by_nobody(self, marked: AnyDatabase, maker: Databases) -> None:
        before = marked.everything()

        async def opened(opening: AbstractAsyncContextManager[object]) -> None:
            async with opening:
                raise AssertionError("it was opened")

        for attempt in (
            opened(open_store(marked.store_url)),
            opened(open_reader(marked.store_url)),
            opened(open_reader(marked.store_url, alone=True)),
            forget(marked.store_url, stream(0), "c_1"),
            copied(marked, maker.build("sqlite")),
        ):
            with pytest.raises(StoreRefused, match="is incomplete") as refused:
                await attempt
            assert "milepost store copy" in refused.value.hint
        assert marked.everything() == before

    async def test_the_journal_of_a_copy_is_append_only(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        await copied(source, target)
        with pytest.raises(psycopg.errors.RestrictViolation):
            target.execute("TRUNCATE journal")


class TestUnusable:
    async def test_a_missing_source_is_refused(self, maker: Databases) -> None:
        source, target = maker.build("sqlite"), maker.build("sqlite")
        with pytest.raises(StoreRefused, match="there is no database at"):
            await copied(source, target)
        assert not target.file.exists()

    async def test_a_source_of_an_older_version_is_refused_and_not_migrated(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        source.execute("DROP TABLE unfinished_copy")
        source.execute("DELETE FROM schema_migrations WHERE name = '0005_unfinished_copy'")

        with pytest.raises(StoreRefused, match="was made by an older Milepost") as refused:
            await copied(source, target)

        assert "milepost sync" in refused.value.hint
        assert source.rows("SELECT name FROM sqlite_master WHERE name = 'unfinished_copy'") == []
        assert not target.has_tables()

    async def test_a_source_with_a_damaged_journal_is_not_copied(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        source.execute(f"{DROP_TRIGGERS}; UPDATE journal SET data = '{{}}' WHERE seq = 2")

        with pytest.raises(MilepostError, match="the copy is not sound") as unsound:
            await copied(source, target)

        assert "milepost journal verify" in unsound.value.hint
        assert holds_nothing(target)

    async def test_a_source_in_use_is_refused_before_anything_is_created(self, into_postgresql: Pair) -> None:
        source, target = into_postgresql
        async with open_store(source.store_url):
            with pytest.raises(StoreBusy, match="is using the database"):
                await copied(source, target)
        assert not target.has_tables()

    async def test_a_target_in_use_is_refused(self, into_sqlite: Pair) -> None:
        source, target = into_sqlite
        async with open_store(target.store_url):
            with pytest.raises(StoreBusy, match="is using the database"):
                await copied(source, target)
        assert not any(target.everything().values())
