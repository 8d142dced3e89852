"""Erasing a person beside a daemon: nothing of them is left on the disk, and the daemon brings nothing back."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from contracts.erasure_contract import GONE, SECRET, keep
from kit.builders import NOON, STREAM, at
from milepost.core.errors import StoreRefused
from milepost.core.events import RunStarted
from milepost.core.model import Changes
from milepost.stores.sqlite.erase import forget_in_sqlite as forget
from milepost.stores.sqlite.migrate import MIGRATIONS
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import commit_after, contact_row, conversation_row, event_row
from stores.sqlite_files import names_in, raw
from stores.store_dump import SqliteDump


def on_disk(path: Path) -> bytes:
    """Return the bytes of the database and its WAL."""
    wal = path.with_name(f"{path.name}-wal")
    return path.read_bytes() + (wal.read_bytes() if wal.exists() else b"")


async def test_an_erasure_leaves_no_word_of_the_person_on_the_disk(path: Path) -> None:
    async with open_sqlite(path) as store:
        for person in ("ada", "bob"):
            await keep(store, person, f"{SECRET} {person}")
    assert on_disk(path).count(f"{SECRET} ada".encode()) > 1_000

    assert await forget(path, STREAM, "ada") == GONE

    assert f"{SECRET} ada".encode() not in on_disk(path)
    assert on_disk(path).count(f"{SECRET} bob".encode()) > 1_000


async def test_an_erasure_beside_a_daemon_leaves_no_word_of_the_person(path: Path) -> None:
    async with open_sqlite(path) as store:
        await keep(store, "ada", SECRET)

        assert await forget(path, STREAM, "ada") == GONE

        assert SECRET.encode() not in on_disk(path)
        async with open_sqlite_reader(path) as journal_reader:
            await journal_reader.verify()


async def test_a_reader_only_delays_what_is_in_the_wal(path: Path) -> None:
    async with open_sqlite(path) as store:
        await keep(store, "ada", SECRET)
        with raw(path) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM contacts").fetchone()

            assert await forget(path, STREAM, "ada") == GONE

        assert SqliteDump(path).tables().contacts == {}
        await forget(path, STREAM, "ada")
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

        await forget(path, STREAM, "ada")

    assert SECRET.encode() not in on_disk(path)


async def test_an_erasure_without_a_database_of_this_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "milepost.db"

    with pytest.raises(StoreRefused, match="there is no database"):
        await forget(path, STREAM, "ada")
    assert names_in(tmp_path) == set()

    with raw(path) as connection:
        connection.executescript((MIGRATIONS / "0001_journal.sql").read_text())
    with pytest.raises(StoreRefused, match="older Milepost"):
        await forget(path, STREAM, "ada")
