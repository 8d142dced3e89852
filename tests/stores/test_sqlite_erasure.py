"""Forgetting a person beside a daemon: nothing of them is left on the disk, and the daemon brings nothing back."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from kit.builders import NOON, STREAM
from milepost.core.errors import StoreRefused
from milepost.core.events import DeadLetterOpened, RunStarted, Stage
from milepost.core.model import Changes, DeadLetterPayload
from milepost.stores.archive import open_archive
from milepost.stores.erasure import Forgotten, forget
from milepost.stores.migrate import MIGRATIONS
from milepost.stores.sqlite import SqliteStore, open_sqlite
from stores.lives import commit_after, contact_row, conversation_row, event_row
from stores.sqlite_files import names_in, raw, tables_of

SECRET = "Wq7-zebra"  # what only she said
GONE = Forgotten(contacts=1, conversations=1, interaction_events=30, payloads=1)


def rows_of(person: str, words: str) -> Changes:
    """Give rows large enough to lie on many pages."""
    thread = f"t_{person}"
    events = (event_row(f"m_{person}_{n}", conversation_id=thread, text=words * 50) for n in range(30))
    return Changes(
        (conversation_row(thread, contact_id=person, snippet=words),),
        (contact_row(person, name=words),),
        tuple(events),
        (DeadLetterPayload(f"d_{person}", f'{{"id": "t_x", "from": "{person}", "snippet": "{words}"}}'),),
    )


async def keep(store: SqliteStore, person: str, words: str) -> None:
    letter = DeadLetterOpened(f"d_{person}", Stage.FETCH, f"t_x_{person}", "id: expected str")
    await store.commit(commit_after(await store.recall(STREAM.key), letter, changes=rows_of(person, words)))


def on_disk(path: Path) -> bytes:
    """Read the database and its WAL as they lie there."""
    wal = path.with_name(f"{path.name}-wal")
    return path.read_bytes() + (wal.read_bytes() if wal.exists() else b"")


async def test_leaves_no_word_of_theirs_on_the_disk(path: Path) -> None:
    async with open_sqlite(path) as store:
        for person in ("ada", "bob"):
            await keep(store, person, f"{SECRET} {person}")
    assert on_disk(path).count(f"{SECRET} ada".encode()) > 1_000

    assert await forget(path, STREAM, "ada") == GONE

    assert f"{SECRET} ada".encode() not in on_disk(path)
    assert on_disk(path).count(f"{SECRET} bob".encode()) > 1_000


async def test_leaves_no_word_of_theirs_while_a_daemon_runs(path: Path) -> None:
    async with open_sqlite(path) as store:
        await keep(store, "ada", SECRET)

        assert await forget(path, STREAM, "ada") == GONE

        assert SECRET.encode() not in on_disk(path)
        async with open_archive(path) as archive:
            await archive.verify()


async def test_a_reader_delays_what_is_in_the_wal_and_nothing_else(path: Path) -> None:
    async with open_sqlite(path) as store:
        await keep(store, "ada", SECRET)
        with raw(path) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM contacts").fetchone()

            assert await forget(path, STREAM, "ada") == GONE

        assert tables_of(path).contacts == {}
        await forget(path, STREAM, "ada")
        assert SECRET.encode() not in on_disk(path)


async def test_a_daemon_at_work_brings_nothing_back(path: Path) -> None:
    forgotten = asyncio.Event()

    async def write_again_and_again(store: SqliteStore) -> None:
        written_since = 0
        while written_since < 20:
            written_since += forgotten.is_set()
            await keep(store, "ada", SECRET)

    async with open_sqlite(path) as store, asyncio.TaskGroup() as group:
        group.create_task(write_again_and_again(store))
        await asyncio.sleep(0)
        await forget(path, STREAM, "ada")
        forgotten.set()

    tables = tables_of(path)
    assert (tables.conversations, tables.contacts, tables.interaction_events, tables.payloads) == ({}, {}, {}, {})
    assert tables.checkpoints == tables.refold()


async def test_is_whole_or_not_at_all(path: Path) -> None:
    async with open_sqlite(path) as store:
        await keep(store, "ada", SECRET)
    with raw(path) as connection:
        connection.execute(
            "CREATE TRIGGER refuses BEFORE DELETE ON dead_letter_payloads BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    before = tables_of(path)

    with pytest.raises(sqlite3.IntegrityError):
        await forget(path, STREAM, "ada")

    assert tables_of(path) == before
    async with open_sqlite(path) as store:
        await store.commit(commit_after(await store.recall(STREAM.key), RunStarted(NOON), changes=rows_of("ada", "x")))
    assert [row.name for row in tables_of(path).contacts.values()] == ["x"]


async def test_without_a_database_of_this_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "milepost.db"

    with pytest.raises(StoreRefused, match="there is no database"):
        await forget(path, STREAM, "ada")
    assert names_in(tmp_path) == set()

    with raw(path) as connection:
        connection.executescript((MIGRATIONS / "0001_journal.sql").read_text())
    with pytest.raises(StoreRefused, match="older Milepost"):
        await forget(path, STREAM, "ada")


async def test_a_contact_without_an_id_is_nobody(path: Path) -> None:
    with pytest.raises(ValueError, match="has an id"):
        await forget(path, STREAM, "")
