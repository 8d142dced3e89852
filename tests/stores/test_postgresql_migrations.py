"""Migrating a schema: once, forward only, and whole however it is interrupted."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.builders import NOON, STREAM, at, entries
from kit.long import long_only
from kit.postgres import Database, Server, fresh_database, on_both_releases
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import StoreAway, StoreRefused
from milepost.core.events import DeadLetterOpened, Stage
from milepost.core.evolve import fold
from milepost.core.journal import instant_text
from milepost.stores import rows
from milepost.stores.open import has_database, open_reader, open_store
from milepost.stores.postgresql import migrate as migrating
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.migrate import MIGRATIONS, migrate, shipped
from milepost.stores.url import StoreUrl
from stores.histories import live
from stores.store_dump import PostgresDump

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
    return await migrate(dsn_of(database.store_url))


def in_order(database: Database) -> list[str]:
    """Return the names of what was applied, in that order."""
    return [name for (name,) in database.sql("SELECT name FROM schema_migrations ORDER BY applied_at, name")]


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

    @pytest.mark.parametrize("isolation", ["read committed", *long_only("repeatable read")])
    async def test_one_of_many_simultaneous_starts_migrates_and_the_others_wait(
        self, empty: Database, isolation: str
    ) -> None:
        empty.sql(f"ALTER DATABASE {empty.name} SET default_transaction_isolation = '{isolation}'")

        done = await asyncio.gather(*(migrated(empty) for _ in range(8)))

        assert sorted(name for each in done for name in each) == sorted(shipped())

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

    @pytest.mark.parametrize("name", ["0001_journal", "0002_contacts", "0003_remedies", "0004_listings"])
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

    async def test_an_older_database_with_dead_letters_verifies_and_continues(
        self, empty: Database, more: Path
    ) -> None:
        """Its dead letters have neither the time of their redrive nor a fingerprint."""
        newer = taken_away(more, since="0003")
        await migrated(empty)
        as_it_was(empty, [DeadLetterOpened(f"d_{n}", Stage.FETCH, f"t_{n}", "id: expected str") for n in range(3)])
        for each, script in newer.items():
            each.write_text(script)

        async with open_store(empty.store_url) as store:
            assert await store.due_dead_letters(STREAM, at(10**9), 10) == ()
            assert [due.payload for due in await store.find_open_dead_letters(("d_0", "d_2"))] == ["{}", "{}"]
        before = PostgresDump(empty).projections()
        async with open_reader(empty.store_url) as journal_reader:
            assert (await journal_reader.verify()).dead_letters == 3
            await journal_reader.rebuild()
        assert PostgresDump(empty).projections() == before

    async def test_the_rows_of_before_have_their_pages(self, empty: Database, more: Path) -> None:
        newer = taken_away(more, since="0011")
        await migrated(empty)
        empty.sql(
            f"""
            INSERT INTO conversations (conversation_id, platform, page_id, updated_time, first_synced_at, synced_at)
            VALUES ('t_1', 'messenger', '7', now(), '{at(1)}', '{at(8)}'),
                ('t_2', 'messenger', '7', now(), '{at(2)}', '{at(9)}'),
                ('t_3', 'instagram', '7', now(), '{at(3)}', '{at(4)}')
            """
        )
        for each, script in newer.items():
            each.write_text(script)
        await migrated(empty)

        assert empty.sql("SELECT * FROM pages ORDER BY platform") == [
            ("instagram", "7", None, None, instant_text(at(3)), instant_text(at(4))),
            ("messenger", "7", None, None, instant_text(at(1)), instant_text(at(9))),
        ]

    async def test_the_rows_of_before_begin_the_change_feed(self, empty: Database, more: Path) -> None:
        noon = f"'{at(0)}'"
        newer = taken_away(more, since="0016")
        await migrated(empty)
        empty.sql(
            f"""
            INSERT INTO conversations (conversation_id, platform, page_id, updated_time, first_synced_at, synced_at)
            VALUES ('t_1', 'messenger', '7', {noon}, {noon}, {noon}), ('t_2', 'messenger', '8', {noon}, {noon}, {noon});
            INSERT INTO contact_interaction_events
                (event_id, conversation_id, platform, page_id, direction, kind, occurred_at)
            VALUES ('m_1', 't_1', 'messenger', '7', 'in', 'message', {noon});
            INSERT INTO journal (seq, stream, version, recorded_at, type, data, hash)
            VALUES (1, 'messenger:7', 1, {noon}, 'run_started', '{{}}', ''),
                (2, 'messenger:7', 2, {noon}, 'run_ended', '{{}}', '');
            """
        )
        for each, script in newer.items():
            each.write_text(script)
        await migrated(empty)

        async with open_reader(empty.store_url) as reader:
            page = await reader.read_changes(0, 10)
        assert [(each.seq, each.key, (each.row or {})["version"], each.history) for each in page.changes] == [
            (1, {"conversation_id": "t_1"}, 2, False),
            (2, {"conversation_id": "t_2"}, 0, False),
            (3, {"event_id": "m_1"}, 2, True),
        ]


def taken_away(migrations: Path, *, since: str) -> dict[Path, str]:
    """Delete the migrations from that one on, and return their texts."""
    newer = {each: each.read_text() for each in migrations.iterdir() if each.name >= since}
    for each in newer:
        each.unlink()
    return newer


def as_it_was(database: Database, events: list[DeadLetterOpened]) -> None:
    """Write a journal and its projections into the tables before 0003_remedies.sql."""
    appended = entries(*events, recorded_at=NOON)
    holes = ", ".join(["%s"] * 12)
    with database.connect() as connection:
        for seq, entry in enumerate(appended, start=1):
            connection.execute(
                "INSERT INTO journal VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", (seq, *rows.entry_tuple(entry))
            )
        checkpoint = rows.checkpoint_tuple(fold(appended, Checkpoint(STREAM)))
        connection.execute(f"INSERT INTO checkpoints VALUES ({holes})".encode(), checkpoint)
        for each in events:
            dead_letter = (
                each.dead_letter_id,
                STREAM.key,
                each.stage.value,
                each.subject,
                each.reason,
                instant_text(NOON),
            )
            connection.execute("INSERT INTO dead_letters VALUES (%s, %s, %s, %s, %s, %s)", dead_letter)
            connection.execute("INSERT INTO dead_letter_payloads VALUES (%s, '{}')", (each.dead_letter_id,))


async def test_a_database_that_cannot_hold_every_text_is_refused(postgres: Server) -> None:
    latin = "TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'"
    with fresh_database(postgres, template=None, options=latin) as database:
        with pytest.raises(StoreRefused, match="encoded in LATIN1") as raised:
            await migrated(database)

        assert "--encoding=UTF8" in raised.value.hint
        assert database.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'milepost'") == []
