"""The journal's table takes entries and keeps them, whoever asks otherwise."""

import sqlite3
from pathlib import Path

import pytest

from milepost.stores.sqlite import open_sqlite
from stores.lives import live, stream
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
def test_refuses_to_change_or_forget_an_entry(journal: Path, statement: str) -> None:
    before = rows_of(journal, "SELECT * FROM journal")

    with raw(journal) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)

    assert rows_of(journal, "SELECT * FROM journal") == before


def test_refuses_a_version_that_a_stream_has_had(journal: Path) -> None:
    with raw(journal) as connection, pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        connection.execute(
            "INSERT INTO journal (stream, version, run_id, recorded_at, type, data, hash) "
            "SELECT stream, version, run_id, recorded_at, type, data, hash FROM journal WHERE seq = 2"
        )
