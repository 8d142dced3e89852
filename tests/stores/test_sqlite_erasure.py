"""Erasing a person beside a daemon: nothing of them is left on the disk, and the daemon brings nothing back."""

import sqlite3
from pathlib import Path

import pytest

from contracts.erasure_contract import GONE, SECRET, keep
from contracts.webhooks_contract import written
from kit.builders import NOON, STREAM, at
from milepost.core.errors import StoreRefused
from milepost.stores.sql import load_statements
from milepost.stores.sqlite.commit import SqliteWriter
from milepost.stores.sqlite.erase import empty_wal
from milepost.stores.sqlite.erase import forget_in_sqlite as forget
from milepost.stores.sqlite.migrate import MIGRATIONS
from milepost.stores.sqlite.queries import at_once
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import open_sqlite
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


@pytest.mark.parametrize("level", [0, 1])
async def test_only_what_is_erased_for_good_is_overwritten_and_the_rest_is_deleted_as_before(
    path: Path, level: int
) -> None:
    async with open_sqlite(path) as store:
        await keep(store, "ada", SECRET)
        await store.webhooks.add([written("m_1", contact_id="bob")], NOON)

        def erase(connection: sqlite3.Connection) -> None:
            connection.execute(f"PRAGMA secure_delete = {level}")
            connection.execute("BEGIN IMMEDIATE")
            at_once(SqliteWriter(load_statements("sqlite"), connection).erase(STREAM, "ada"))
            connection.execute("COMMIT")
            empty_wal(connection)

        await store._database.run(erase)
        assert SECRET.encode() not in on_disk(path)
        assert await store._database.run(secure_delete) == level
        await store.webhooks.trim(at(60), 0)
        assert await store._database.run(secure_delete) == level


def secure_delete(connection: sqlite3.Connection) -> int:
    (level,) = connection.execute("PRAGMA secure_delete").fetchone()
    return int(level)


async def test_an_erasure_without_a_database_of_this_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "milepost.db"

    with pytest.raises(StoreRefused, match="there is no database"):
        await forget(path, STREAM, "ada")
    assert names_in(tmp_path) == set()

    with raw(path) as connection:
        connection.executescript((MIGRATIONS / "0001_journal.sql").read_text())
    with pytest.raises(StoreRefused, match="older Milepost"):
        await forget(path, STREAM, "ada")
