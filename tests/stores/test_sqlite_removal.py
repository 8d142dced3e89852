"""Removing a stream from a file: nothing of it is left on the disk, no daemon works beside, a kill leaves it whole."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from contracts.removal_contract import BY, GONE, rebuilt_equal, two_lives
from kit.binary import started, until
from kit.builders import NOON
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import StoreBusy, StoreRefused
from milepost.core.model import Changes
from milepost.stores.open import remove
from milepost.stores.sqlite.store import open_sqlite
from milepost.stores.url import StoreUrl
from stores.histories import commit_after, event_row
from stores.sqlite_files import execute, names_in
from stores.store_dump import SqliteDump, StoreDump

SECRET = "Wq7-zebra"
# Deleting the first message never ends.
ENDLESS = """
    CREATE TRIGGER endless BEFORE DELETE ON contact_interaction_events BEGIN
        SELECT count(*) FROM (WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n);
    END
"""


def on_disk(folder: Path) -> bytes:
    """Return the bytes of the database, its WAL and its lock."""
    return b"".join(each.read_bytes() for each in folder.iterdir())


def is_written(path: Path) -> bool:
    """Return whether a transaction that writes is under way."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0.0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorname.startswith("SQLITE_BUSY")
        connection.execute("ROLLBACK")
        return False


@pytest.fixture
def kept(path: Path) -> StoreDump:
    return SqliteDump(path)


async def test_a_removal_leaves_no_word_of_the_stream_on_the_disk(path: Path) -> None:
    async with open_sqlite(path) as store:
        said = Changes(interaction_events=tuple(event_row(f"m_{n}", of=GONE, text=SECRET * 50) for n in range(30)))
        await store.commit(commit_after(Checkpoint(GONE), changes=said))
    assert on_disk(path.parent).count(SECRET.encode()) > 1_000

    await remove(StoreUrl(f"sqlite:///{path}"), GONE, BY, NOON)

    assert SECRET.encode() not in on_disk(path.parent)


async def test_a_removal_beside_a_daemon_is_refused(kept: SqliteDump) -> None:
    await two_lives(kept)
    before = kept.tables()
    async with open_sqlite(kept.path):
        with pytest.raises(StoreBusy, match="another Milepost"):
            await remove(kept.store_url, GONE, BY, NOON)
    assert kept.tables() == before


async def test_a_kill_in_the_middle_of_a_removal_leaves_the_stream_whole_and_a_second_attempt_removes_it(
    kept: SqliteDump,
) -> None:
    await two_lives(kept)
    kept.execute(ENDLESS)
    before = kept.tables()
    (kept.path.parent / "config.yaml").write_text(f"store: {{url: 'sqlite:///{kept.path}'}}\n")
    async with started(kept.path.parent, "streams", "remove", GONE.key, "--yes") as removing:
        await until(lambda: removing.has_ended or is_written(kept.path))
        assert not removing.has_ended, "it ended without having written"
        await removing.kill()

    assert kept.tables() == before
    execute(kept.path, "DROP TRIGGER endless")
    assert await remove(kept.store_url, GONE, BY, NOON) is not None
    await rebuilt_equal(kept)


async def test_a_removal_without_a_database_is_refused_and_creates_none(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="there is no database"):
        await remove(StoreUrl(f"sqlite:///{tmp_path / 'milepost.db'}"), GONE, BY, NOON)
    assert names_in(tmp_path) == set()
