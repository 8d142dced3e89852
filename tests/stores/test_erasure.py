"""Erasing a person from any database, beside a daemon that works on it: nothing is left, and nothing comes back."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM, at
from kit.postgres import Database, Server, fresh_database
from milepost.core.errors import StoreRefused
from milepost.core.events import DeadLetterOpened, RunStarted, Stage
from milepost.core.model import Changes, DeadLetterPayload
from milepost.core.ports import Store
from milepost.stores.commit import Forgotten
from milepost.stores.open import forget, open_reader, open_store
from milepost.stores.sqlite.migrate import MIGRATIONS, RECORD
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import forget_in_sqlite, open_sqlite
from stores.histories import commit_after, contact_row, conversation_row, event_row, page_row
from stores.sqlite_files import names_in, raw
from stores.store_dump import SqliteDump, StoreDump

SECRET = "Wq7-zebra"  # what only she wrote
GONE = Forgotten(contacts=1, conversations=1, interaction_events=30, payloads=1)


def rows_of(person: str, words: str) -> Changes:
    """Return rows large enough to lie on many pages."""
    thread = f"t_{person}"
    events = (event_row(f"m_{person}_{n}", conversation_id=thread, text=words * 50) for n in range(30))
    return Changes(
        (conversation_row(thread, contact_id=person, snippet=words),),
        (contact_row(person, name=words),),
        tuple(events),
        (DeadLetterPayload(f"d_{person}", f'{{"id": "t_x", "from": "{person}", "snippet": "{words}"}}'),),
    )


async def keep(store: Store, person: str, words: str) -> None:
    dead_letter = DeadLetterOpened(f"d_{person}", Stage.FETCH, f"t_x_{person}", "id: expected str")
    await store.commit(commit_after(await store.load(STREAM), dead_letter, changes=rows_of(person, words)))


class TestErasure:
    async def test_an_erasure_beside_a_daemon_leaves_a_journal_that_verifies(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "ada", SECRET)

            assert await forget(kept.store_url, STREAM, "ada") == GONE

            async with open_reader(kept.store_url) as journal_reader:
                await journal_reader.verify()

    async def test_a_daemon_at_work_brings_nothing_back(self, kept: StoreDump) -> None:
        forgotten = asyncio.Event()

        async def write_again_and_again(store: Store) -> None:
            written_since = 0
            while written_since < 20:
                written_since += forgotten.is_set()
                await keep(store, "ada", SECRET)

        async with open_store(kept.store_url) as store, asyncio.TaskGroup() as group:
            group.create_task(write_again_and_again(store))
            await asyncio.sleep(0)
            await forget(kept.store_url, STREAM, "ada")
            forgotten.set()

        tables = kept.tables()
        assert (tables.conversations, tables.contacts, tables.interaction_events, tables.payloads) == ({}, {}, {}, {})
        assert tables.checkpoints == tables.refold()

    async def test_an_erasure_is_complete_or_does_nothing(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await keep(store, "ada", SECRET)
        kept.refuse_deletes("dead_letter_payloads")
        before = kept.tables()

        with pytest.raises(Exception, match="not this one"):
            await forget(kept.store_url, STREAM, "ada")

        assert kept.tables() == before
        async with open_store(kept.store_url) as store:
            checkpoint = await store.load(STREAM)
            await store.commit(commit_after(checkpoint, RunStarted(NOON), changes=rows_of("ada", "x")))
        assert [row.name for row in kept.tables().contacts.values()] == ["x"]

    async def test_a_conversation_whose_contact_is_withheld_goes_with_whoever_wrote_in_it(
        self, kept: StoreDump
    ) -> None:
        said = replace(event_row("m_1", text=SECRET), contact_id="ada")
        changes = Changes((conversation_row(contact_id=None, snippet=SECRET),), interaction_events=(said,))
        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(await store.load(STREAM), RunStarted(NOON), changes=changes))

            assert (await forget(kept.store_url, STREAM, "ada")).conversations == 1

            await store.commit(commit_after(await store.load(STREAM), RunStarted(NOON), changes=changes))
        assert (kept.tables().conversations, kept.tables().interaction_events) == ({}, {})

    @pytest.mark.parametrize("person", ["a[d]a", "[", "a*", "a?b", "a.b", "a-b="])
    async def test_an_id_is_found_in_payloads_whatever_its_characters_are(self, kept: StoreDump, person: str) -> None:
        """A pattern in a statement is no pattern of the id."""
        async with open_store(kept.store_url) as store:
            for each in (person, "ab", "acb", "ad a"):
                await keep(store, each, SECRET)

            assert await forget(kept.store_url, STREAM, person) == GONE

            await keep(store, person, SECRET)
        assert kept.tables().payloads.keys() == {"d_ab", "d_acb", "d_ad a"}

    async def test_the_page_of_an_erased_person_stays(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.commit(commit_after(await store.load(STREAM), changes=Changes(page=page_row())))

        await forget(kept.store_url, STREAM, "ada")

        assert [row.name for row in kept.tables().pages.values()] == ["Corner Bakery"]

    async def test_a_contact_without_an_id_is_refused(self, kept: StoreDump) -> None:
        with pytest.raises(ValueError, match="has an id"):
            await forget(kept.store_url, STREAM, "")


# --- SQLite -----------------------------------------------------------------------------------------------------------


def on_disk(path: Path) -> bytes:
    """Return the bytes of the database and its WAL."""
    wal = path.with_name(f"{path.name}-wal")
    return path.read_bytes() + (wal.read_bytes() if wal.exists() else b"")


async def test_an_erasure_leaves_no_word_of_the_person_on_the_disk(path: Path) -> None:
    async with open_sqlite(path) as store:
        for person in ("ada", "bob"):
            await keep(store, person, f"{SECRET} {person}")
    assert on_disk(path).count(f"{SECRET} ada".encode()) > 1_000

    assert await forget_in_sqlite(path, STREAM, "ada") == GONE

    assert f"{SECRET} ada".encode() not in on_disk(path)
    assert on_disk(path).count(f"{SECRET} bob".encode()) > 1_000


async def test_an_erasure_beside_a_daemon_leaves_no_word_of_the_person(path: Path) -> None:
    async with open_sqlite(path) as store:
        await keep(store, "ada", SECRET)

        assert await forget_in_sqlite(path, STREAM, "ada") == GONE

        assert SECRET.encode() not in on_disk(path)
        async with open_sqlite_reader(path) as journal_reader:
            await journal_reader.verify()


async def test_a_reader_only_delays_what_is_in_the_wal(path: Path) -> None:
    async with open_sqlite(path) as store:
        await keep(store, "ada", SECRET)
        with raw(path) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM contacts").fetchone()

            assert await forget_in_sqlite(path, STREAM, "ada") == GONE

        assert SqliteDump(path).tables().contacts == {}
        await forget_in_sqlite(path, STREAM, "ada")
        assert SECRET.encode() not in on_disk(path)


@pytest.fixture
def without_secure_delete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn SECURE_DELETE off, as in a SQLite that was built without it; Debian's has it."""
    connect = sqlite3.connect

    def connected(path: Path, **arguments: Any) -> sqlite3.Connection:  # noqa: ANN401 -- sqlite3's own
        connection: sqlite3.Connection = connect(path, **arguments)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr("milepost.stores.sqlite.connection.sqlite3.connect", connected)


@pytest.mark.usefixtures("without_secure_delete")
@pytest.mark.parametrize("size", [10, 1_000])
async def test_an_erasure_leaves_nothing_of_what_was_replaced_before_it(path: Path, size: int) -> None:
    """Each message replaces the snippet of its conversation, and an edit replaces the text of a message."""
    words = f"{SECRET} " * size
    row = replace(event_row("m_1", text=words), contact_id="ada")
    async with open_sqlite(path) as store:
        for changes in (
            Changes((conversation_row(contact_id="ada", snippet=words),), (contact_row("ada"),), (row,)),
            Changes((conversation_row(contact_id="ada", snippet="short", synced_at=at(9)),)),
            Changes(revised=(replace(row, text="short"),)),
        ):
            await store.commit(commit_after(await store.load(STREAM), RunStarted(NOON), changes=changes))

        await forget_in_sqlite(path, STREAM, "ada")

    assert SECRET.encode() not in on_disk(path)


async def test_an_erasure_without_a_database_of_this_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "milepost.db"

    with pytest.raises(StoreRefused, match="there is no database"):
        await forget_in_sqlite(path, STREAM, "ada")
    assert names_in(tmp_path) == set()

    with raw(path) as connection:
        connection.executescript((MIGRATIONS / "0001_journal.sql").read_text() + RECORD.format(name="0001_journal"))
    with pytest.raises(StoreRefused, match="older Milepost"):
        await forget_in_sqlite(path, STREAM, "ada")


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


EVERYTHING = "SELECT string_agg(each::text, ' ') FROM {} AS each"


async def test_an_erasure_leaves_no_word_of_the_person_in_any_table(database: Database) -> None:
    async with open_store(database.store_url) as store:
        for person in ("ada", "bob"):
            await keep(store, person, f"{SECRET} {person}")

    await forget(database.store_url, STREAM, "ada")

    tables = [name for (name,) in database.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'milepost'")]
    said = " ".join(database.sql(EVERYTHING.format(table))[0][0] or "" for table in tables)
    assert f"{SECRET} ada" not in said
    assert f"{SECRET} bob" in said


async def test_an_erasure_without_a_schema_of_this_program_is_refused(postgres: Server) -> None:
    with fresh_database(postgres, template=None) as database:
        with pytest.raises(StoreRefused, match="there is no schema"):
            await forget(database.store_url, STREAM, "ada")
        assert database.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'milepost'") == []

        database.sql("CREATE SCHEMA milepost AUTHORIZATION milepost")
        database.sql("CREATE TABLE milepost.schema_migrations (name text, applied_at timestamptz)")
        database.sql("INSERT INTO schema_migrations VALUES ('0001_journal', now())")
        database.sql("ALTER TABLE schema_migrations OWNER TO milepost")
        with pytest.raises(StoreRefused, match="older Milepost"):
            await forget(database.store_url, STREAM, "ada")
