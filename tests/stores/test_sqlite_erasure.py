"""Erasing a person beside a daemon: nothing of them is left on the disk, and the daemon brings nothing back."""

from pathlib import Path

import pytest

from contracts.erasure_contract import GONE, SECRET, ErasureContract, keep
from kit.builders import STREAM
from milepost.core.errors import StoreRefused
from milepost.stores.sqlite.erase import forget_in_sqlite as forget
from milepost.stores.sqlite.migrate import MIGRATIONS
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import open_sqlite
from stores.sqlite_files import names_in, raw
from stores.store_dump import SqliteDump, StoreDump, tables_of


@pytest.fixture
def kept(path: Path) -> StoreDump:
    return SqliteDump(path)


class TestSqliteErasure(ErasureContract):
    """In SQLite."""


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

        assert tables_of(path).contacts == {}
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
