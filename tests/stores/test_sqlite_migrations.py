"""Migrating a database: once, forward only, and whole however it is interrupted."""

import shutil
from pathlib import Path

import pytest

from kit.builders import NOON, STREAM, at, entries
from kit.long import long_only
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import StoreRefused
from milepost.core.events import DeadLetterOpened, Stage
from milepost.core.evolve import fold
from milepost.core.journal import instant_text
from milepost.stores import rows
from milepost.stores.postgresql.migrate import MIGRATIONS as POSTGRESQL
from milepost.stores.sql import load_statements
from milepost.stores.sqlite import migrate as migrating
from milepost.stores.sqlite.migrate import MIGRATIONS, applied, migrate, pending, shipped
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import live
from stores.processes import command, injecting, outcome
from stores.sqlite_files import execute, raw, rows_of
from stores.store_dump import projections

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


class TestAnOlderDatabase:
    async def test_an_older_database_with_dead_letters_verifies_and_continues(self, tmp_path: Path, more: Path) -> None:
        """Its dead letters have neither the time of their redrive nor a fingerprint."""
        path = tmp_path / "milepost.db"
        newer = taken_away(more, since="0003")
        migrate(path)
        as_it_was(path, [DeadLetterOpened(f"d_{n}", Stage.FETCH, f"t_{n}", "id: expected str") for n in range(3)])
        for each, script in newer.items():
            each.write_text(script)

        async with open_sqlite(path) as store:
            assert await store.due_dead_letters(STREAM, at(10**9), 10) == ()
            assert [due.payload for due in await store.find_open_dead_letters(("d_0", "d_2"))] == ["{}", "{}"]
        before = projections(path)
        async with open_sqlite_reader(path, alone=True) as journal_reader:
            assert (await journal_reader.verify()).dead_letters == 3
            await journal_reader.rebuild()
        assert projections(path) == before

    def test_the_rows_of_before_have_their_pages(self, tmp_path: Path, more: Path) -> None:
        path = tmp_path / "milepost.db"
        newer = taken_away(more, since="0011")
        migrate(path)
        execute(
            path,
            f"""
            INSERT INTO conversations (conversation_id, platform, page_id, updated_time, first_synced_at, synced_at)
            VALUES ('t_1', 'messenger', '7', 'x', '{instant_text(at(1))}', '{instant_text(at(8))}'),
                ('t_2', 'messenger', '7', 'x', '{instant_text(at(2))}', '{instant_text(at(9))}'),
                ('t_3', 'instagram', '7', 'x', '{instant_text(at(3))}', '{instant_text(at(4))}');
            """,
        )
        for each, script in newer.items():
            each.write_text(script)
        migrate(path)

        assert rows_of(path, "SELECT * FROM pages ORDER BY platform") == [
            ("instagram", "7", None, None, instant_text(at(3)), instant_text(at(4))),
            ("messenger", "7", None, None, instant_text(at(1)), instant_text(at(9))),
        ]

    async def test_the_rows_of_before_begin_the_change_feed(self, tmp_path: Path, more: Path) -> None:
        path, noon = tmp_path / "milepost.db", f"'{instant_text(NOON)}'"
        newer = taken_away(more, since="0016")
        migrate(path)
        execute(
            path,
            f"""
            INSERT INTO conversations (conversation_id, platform, page_id, updated_time, first_synced_at, synced_at)
            VALUES ('t_1', 'messenger', '7', {noon}, {noon}, {noon}), ('t_2', 'messenger', '8', {noon}, {noon}, {noon});
            INSERT INTO contact_interaction_events
                (event_id, conversation_id, platform, page_id, direction, kind, occurred_at)
            VALUES ('m_1', 't_1', 'messenger', '7', 'in', 'message', {noon});
            INSERT INTO journal (seq, stream, version, recorded_at, type, data, hash)
            VALUES (1, 'messenger:7', 1, {noon}, 'run_started', '{{}}', ''),
                (2, 'messenger:7', 2, {noon}, 'run_ended', '{{}}', '');
            """,
        )
        for each, script in newer.items():
            each.write_text(script)
        migrate(path)

        async with open_sqlite_reader(path) as reader:
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


def as_it_was(path: Path, events: list[DeadLetterOpened]) -> None:
    """Write a journal and its projections into the tables before 0003_remedies.sql."""
    appended, sql = entries(*events, recorded_at=NOON), load_statements("sqlite")
    with raw(path) as connection:
        connection.executemany(sql["insert_entries"], map(rows.entry_tuple, appended))
        connection.execute(sql["upsert_checkpoint"], rows.checkpoint_tuple(fold(appended, Checkpoint(STREAM))))
        for each in events:
            dead_letter = (each.dead_letter_id, STREAM.key, each.stage, each.subject, each.reason, instant_text(NOON))
            connection.execute("INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?)", dead_letter)
            connection.execute("INSERT INTO dead_letter_payloads VALUES (?, '{}')", (each.dead_letter_id,))


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
    async def test_a_database_of_another_program_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "crm.db"
        execute(path, "CREATE TABLE contacts (name); INSERT INTO contacts VALUES ('Ada'); CREATE TABLE journal (day)")
        before = schema(path)

        with pytest.raises(StoreRefused, match=r"already exists.*store\.url"):
            async with open_sqlite(path):
                pass

        assert schema(path) == before
        assert rows_of(path, "SELECT name FROM contacts") == [("Ada",)]


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
