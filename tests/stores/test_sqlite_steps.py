"""Verifying a journal that grows meanwhile: in short steps, so that the WAL beside it does not grow without bound."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kit.builders import NOON
from milepost.core.errors import JournalDamaged
from milepost.stores.open import open_reader, remove
from milepost.stores.reader import Audit, load_statements
from milepost.stores.sqlite import reader
from milepost.stores.sqlite.queries import SqliteSession
from milepost.stores.sqlite.reader import open_sqlite_reader, verify_in_steps
from milepost.stores.sqlite.store import open_sqlite
from milepost.stores.url import StoreUrl
from stores.histories import live, stream
from stores.sqlite_files import DROP_TRIGGERS, execute, raw

Step = Callable[[], None]


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "ENTRIES_PER_STEP", 7)


@pytest.fixture
async def journal(path: Path) -> Path:
    async with open_sqlite(path) as store:
        for number in range(3):
            await live(store, stream(number), 20)
    return path


@pytest.fixture
def connection(journal: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(journal, isolation_level=None)) as connection:
        yield connection


def verified(connection: sqlite3.Connection, meanwhile: Step = lambda: None) -> Audit:
    """Verify, and do something between two steps."""
    return verify_in_steps(SqliteSession(load_statements("sqlite"), connection), meanwhile)


def test_no_step_keeps_the_wal_from_being_reused(journal: Path, connection: sqlite3.Connection) -> None:
    emptied: list[tuple[int, int, int]] = []

    def commit_and_empty_the_wal() -> None:
        with raw(journal) as writer:
            writer.execute("UPDATE contacts SET updated_at = updated_at")
            emptied.append(writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    entries = verified(connection, commit_and_empty_the_wal).entries
    assert len(emptied) == entries // 7 > 10
    assert set(emptied) == {(0, 0, 0)}, "somebody was reading"
    assert not connection.in_transaction


def test_entries_that_are_committed_meanwhile_are_verified_as_well(
    journal: Path, connection: sqlite3.Connection
) -> None:
    before, left = verified(connection).entries, iter(range(1, 5))

    def commit() -> None:
        number = next(left, None)
        if number is not None:
            asyncio.run(continued(journal, number))

    after = verified(connection, commit)
    assert (after.streams, after.entries) == (5, verified(connection).entries)
    assert after.entries > before + 12


async def continued(journal: Path, number: int) -> None:
    async with open_sqlite(journal) as store:
        await live(store, stream(number), 6)


@pytest.mark.parametrize("after", [1, 5, 12])
def test_a_stream_that_is_removed_meanwhile_is_no_damage(
    journal: Path, connection: sqlite3.Connection, after: int
) -> None:
    steps = iter(range(after))

    def remove_one() -> None:
        if next(steps, None) is None and not removed:
            removed.append(asyncio.run(remove(StoreUrl(f"sqlite:///{journal}"), stream(1), "somebody", NOON)))

    removed: list[object] = []
    found = verified(connection, remove_one)
    assert removed
    assert found == verified(connection)


def test_damage_is_found_in_any_step(journal: Path, connection: sqlite3.Connection) -> None:
    execute(journal, DROP_TRIGGERS)
    for seq in (1, 7, 8, verified(connection).entries):
        with raw(journal) as writer:
            ((data,),) = writer.execute("SELECT data FROM journal WHERE seq = ?", (seq,)).fetchall()
            writer.execute("UPDATE journal SET data = data || ' ' WHERE seq = ?", (seq,))
        with pytest.raises(JournalDamaged, match="does not follow"):
            verified(connection)
        assert not connection.in_transaction
        with raw(journal) as writer:
            writer.execute("UPDATE journal SET data = ? WHERE seq = ?", (data, seq))


async def test_a_cancelled_caller_ends_a_verification_at_the_next_step(journal: Path) -> None:
    async with open_reader(StoreUrl(f"sqlite:///{journal}")) as journal_reader:
        verifying = asyncio.create_task(journal_reader.verify())
        await asyncio.sleep(0)
        verifying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await verifying
    async with open_sqlite_reader(journal) as journal_reader:
        assert (await journal_reader.verify()).streams == 3
