"""The write-ahead log is written back while nothing is committed, which holds nobody up."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kit.small_disk import small_disk
from milepost.stores.sqlite import store as store_module
from milepost.stores.sqlite.connection import IDLE_SECONDS, IdleCheckpoint, LogLimit
from milepost.stores.sqlite.files import WAL, beside
from milepost.stores.sqlite.store import open_sqlite
from stores.sqlite_files import raw, rows_of

MANY = 2**20


class Clock:
    """A clock that stands still until it is set forward."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield the connection of a writer that never writes the log back itself."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        prepare(connection)
        yield connection


def prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("CREATE TABLE written (id INTEGER PRIMARY KEY, what BLOB)")


def write(writer: sqlite3.Connection, megabytes: int) -> None:
    for _ in range(megabytes):
        writer.execute("INSERT INTO written (what) VALUES (zeroblob(?))", (MANY,))


def log_size(path: Path) -> int:
    return beside(path, WAL).stat().st_size


def test_a_large_log_is_emptied_when_nothing_was_committed_for_a_while(
    path: Path, writer: sqlite3.Connection, clock: Clock
) -> None:
    idle = IdleCheckpoint(path, clock)
    write(writer, 5)
    idle.look()
    clock.seconds += IDLE_SECONDS - 1
    idle.look()
    assert log_size(path) > 5 * MANY

    clock.seconds += 1
    idle.look()

    assert log_size(path) == 0
    assert path.stat().st_size > 5 * MANY
    assert rows_of(path, "SELECT count(*) FROM written") == [(5,)]


def test_a_commit_begins_the_wait_anew(path: Path, writer: sqlite3.Connection, clock: Clock) -> None:
    idle = IdleCheckpoint(path, clock)
    write(writer, 5)
    idle.look()
    clock.seconds += IDLE_SECONDS
    write(writer, 1)
    idle.look()
    clock.seconds += IDLE_SECONDS - 1
    idle.look()

    assert log_size(path) > 6 * MANY


def test_a_small_log_stays(path: Path, writer: sqlite3.Connection, clock: Clock) -> None:
    idle = IdleCheckpoint(path, clock)
    write(writer, 1)
    for _ in range(3):
        idle.look()
        clock.seconds += IDLE_SECONDS

    assert log_size(path) > MANY


def test_beside_a_reader_the_log_is_emptied_after_its_end(path: Path, writer: sqlite3.Connection, clock: Clock) -> None:
    idle = IdleCheckpoint(path, clock)
    with raw(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM written").fetchall()
        write(writer, 5)
        for _ in range(3):
            idle.look()
            clock.seconds += IDLE_SECONDS
        assert log_size(path) > 5 * MANY
        assert reader.execute("SELECT count(*) FROM written").fetchall() == [(0,)]
        reader.execute("ROLLBACK")
    write(writer, 1)
    idle.look()
    clock.seconds += IDLE_SECONDS
    idle.look()

    assert log_size(path) == 0


def test_a_log_is_emptied_while_the_database_has_room_to_grow_by_it(tmp_path: Path, clock: Clock) -> None:
    with small_disk(tmp_path, "9m") as disk, closing(sqlite3.connect(disk / "a.db", isolation_level=None)) as writer:
        prepare(writer)
        idle = IdleCheckpoint(disk / "a.db", clock)
        write(writer, 2)
        idle.look()
        assert log_size(disk / "a.db") > 2 * MANY, "there is room for both"

        write(writer, 2)
        idle.look()

        assert log_size(disk / "a.db") == 0


def test_a_commit_under_way_is_left_alone(path: Path, writer: sqlite3.Connection, clock: Clock) -> None:
    idle = IdleCheckpoint(path, clock)
    write(writer, 5)
    idle.look()
    clock.seconds += IDLE_SECONDS
    writer.execute("BEGIN IMMEDIATE")
    idle.look()  # returns at once: it waits for no lock
    write(writer, 1)
    writer.execute("COMMIT")

    assert rows_of(path, "SELECT count(*) FROM written") == [(6,)]


def test_a_database_that_is_gone_is_not_created(path: Path, writer: sqlite3.Connection, clock: Clock) -> None:
    idle = IdleCheckpoint(path, clock)
    write(writer, 5)
    idle.look()
    clock.seconds += IDLE_SECONDS
    path.unlink()
    idle.look()

    assert not path.exists()


async def test_on_a_small_disk_the_log_is_written_back_before_it_fills_it(tmp_path: Path) -> None:
    with small_disk(tmp_path, "32m") as disk:
        async with open_sqlite(disk / "a.db") as store:
            await store._database.run(lambda connection: connection.execute("CREATE TABLE written (what BLOB)"))
            await store._database.run(lambda connection: connection.execute("INSERT INTO written VALUES (NULL)"))
            for _ in range(48):  # each the same megabyte, again into the log
                await store._database.run(
                    lambda connection: connection.execute("UPDATE written SET what = randomblob(?)", (MANY,))
                )
            assert log_size(disk / "a.db") < 10 * MANY


def test_the_limit_of_the_log_follows_the_room_on_the_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path, "32m") as disk, closing(sqlite3.connect(disk / "a.db", isolation_level=None)) as writer:
        prepare(writer)
        limit = LogLimit(disk / "a.db")

        def limit_in_mb() -> float:
            limit.measure()
            limit.set_on(writer)
            (pages,) = writer.execute("PRAGMA wal_autocheckpoint").fetchone()
            return float(pages * 4096 / MANY)

        assert 7.5 < limit_in_mb() < 8
        (disk / "ballast").write_bytes(bytes(12 * MANY))
        assert 4.5 < limit_in_mb() < 5
        write(writer, 3)
        assert 4.5 < limit_in_mb() < 5, "the log is no loss of room, because it can be written back"
        (disk / "ballast").write_bytes(bytes(28 * MANY))
        assert 3.5 < limit_in_mb() < 4, "so small that each commit would have to write it back"


def test_a_damaged_database_is_left_to_the_next_commit_to_report(
    path: Path, writer: sqlite3.Connection, clock: Clock
) -> None:
    idle = IdleCheckpoint(path, clock)
    write(writer, 5)
    writer.execute("PRAGMA wal_checkpoint")
    with path.open("r+b") as file:
        file.write(b"no database any more")
    beside(path, WAL).write_bytes(bytes(5 * MANY))
    idle.look()
    clock.seconds += IDLE_SECONDS
    idle.look()

    assert log_size(path) == 5 * MANY


async def test_the_store_looks_at_its_log_as_long_as_it_is_watched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, looked = asyncio.get_running_loop(), asyncio.Event()
    monkeypatch.setattr(store_module, "WATCH_SECONDS", 0.0)
    monkeypatch.setattr(IdleCheckpoint, "look", lambda _: loop.call_soon_threadsafe(looked.set))
    async with open_sqlite(path) as store:
        watching = asyncio.create_task(store.watch())
        await looked.wait()
        watching.cancel()
        await asyncio.wait([watching])
