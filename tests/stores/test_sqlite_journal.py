"""The journal's table is append-only, whoever tries otherwise."""

import sqlite3
from pathlib import Path

import pytest

from milepost.stores.sqlite.store import open_sqlite
from stores.histories import live, stream
from stores.sqlite_files import raw, rows_of


@pytest.fixture
async def journal(path: Path) -> Path:
    async with open_sqlite(path) as store:
        await live(store, stream(1), 5)
    return path


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET data = '{}' WHERE seq = 2",
        "UPDATE journal SET hash = hash",
        "UPDATE OR IGNORE journal SET version = 1 WHERE seq = 2",
        "DELETE FROM journal WHERE seq = 2",
        "DELETE FROM journal",
        "INSERT INTO journal SELECT * FROM journal WHERE seq = 2 ON CONFLICT (seq) DO UPDATE SET data = '{}'",
    ],
)
def test_entries_cannot_be_changed_or_deleted(journal: Path, statement: str) -> None:
    before = rows_of(journal, "SELECT * FROM journal")

    with raw(journal) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)

    assert rows_of(journal, "SELECT * FROM journal") == before


@pytest.mark.parametrize("version", ["version", "version + 1000", "NULL", "-1"])
def test_every_version_but_the_next_is_refused(journal: Path, version: str) -> None:
    before = rows_of(journal, "SELECT * FROM journal")

    with raw(journal) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(
            "INSERT OR REPLACE INTO journal (stream, version, run_id, recorded_at, type, data, hash) "
            f"SELECT stream, {version}, run_id, recorded_at, type, data, hash FROM journal WHERE seq = 2"
        )

    assert rows_of(journal, "SELECT * FROM journal") == before


def test_the_next_entry_cannot_replace_another(journal: Path) -> None:
    before = rows_of(journal, "SELECT * FROM journal")

    with raw(journal) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(
            "INSERT OR REPLACE INTO journal SELECT 1, stream, max(version) + 1, run_id, recorded_at, type, data, hash "
            "FROM journal WHERE stream = (SELECT stream FROM journal WHERE seq = 1)"
        )

    assert rows_of(journal, "SELECT * FROM journal") == before


async def test_the_journal_tells_a_streams_state_even_if_its_checkpoint_is_gone(journal: Path) -> None:
    async with open_sqlite(journal) as store:
        before = await store.load(stream(1))
    with raw(journal) as connection:
        connection.execute("DELETE FROM checkpoints")

    async with open_sqlite(journal) as store:
        assert before.version > 0
        assert await store.load(stream(1)) == before
