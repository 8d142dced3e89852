"""A copy of the database is as of one moment, whatever is committed meanwhile, and delays nobody."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from milepost.core.errors import JournalDamaged, MilepostError
from milepost.stores.sqlite import reader
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import open_sqlite
from stores.histories import live, stream
from stores.sqlite_files import DROP_TRIGGERS, execute, names_in, raw, rows_of

COUNT = "SELECT count(*) FROM contacts WHERE contact_id GLOB 'before*' OR contact_id GLOB 'meanwhile*'"
ADD = (
    "INSERT INTO contacts (platform, page_id, contact_id, name, first_seen_at, last_interaction_at, updated_at)"
    " VALUES ('messenger', '1', ?, 'Ada', '2026-01-01Z', '2026-01-01Z', '2026-01-01Z')"
)


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    path = tmp_path / "milepost.db"
    async with open_sqlite(path) as store:
        await live(store, stream(1), 23)
    with raw(path) as connection:
        connection.execute("BEGIN")
        connection.executemany(ADD, ((f"before {number}",) for number in range(2_000)))
        connection.execute("COMMIT")
    return path


async def copy(database: Path, target: Path, progress: Callable[[int, int], None] = lambda _, __: None) -> None:
    async with open_sqlite_reader(database) as journal_reader:
        await journal_reader.copy_to(target, progress)


async def test_a_copy_is_of_the_moment_when_it_began_however_much_is_committed_meanwhile(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "STEP_PAGES", 1)
    steps: list[tuple[int, int]] = []

    def commit(copied: int, pages: int) -> None:
        # A timeout of 0: a commit that had to wait for the copy would fail.
        with closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as writer:
            writer.execute(ADD, (f"meanwhile {copied}",))
        steps.append((copied, pages))

    await copy(database, tmp_path / "copy.db", commit)
    total = steps[0][1]
    assert total > 20
    assert steps == [(copied, total) for copied in range(1, total + 1)], "it began anew"
    assert rows_of(tmp_path / "copy.db", COUNT) == [(2_000,)]
    assert rows_of(database, COUNT) == [(2_000 + total,)]


async def test_the_wal_does_not_grow_beyond_its_bound_meanwhile(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on commits wait for the end of the copy, as for any other writer."""
    monkeypatch.setattr(reader, "STEP_PAGES", 1)
    monkeypatch.setattr(reader, "MAX_WAL_BYTES", 100_000)
    outcomes: list[str] = []

    def commit(copied: int, _: int) -> None:
        with closing(sqlite3.connect(database, isolation_level=None, timeout=0)) as writer:
            try:
                writer.execute(ADD, (f"meanwhile {copied}",))
                outcomes.append("committed")
            except sqlite3.OperationalError as error:
                outcomes.append(str(error))

    with raw(database) as keeper:  # or the last writer to leave would empty the WAL
        keeper.execute("SELECT count(*) FROM contacts").fetchone()
        await copy(database, tmp_path / "copy.db", commit)
        committed = outcomes.count("committed")
        assert outcomes == ["committed"] * committed + ["database is locked"] * (len(outcomes) - committed)
        assert 0 < committed < len(outcomes) / 2
        assert database.with_name("milepost.db-wal").stat().st_size < 150_000
        commit(-1, -1)
    assert outcomes[-1] == "committed"
    assert rows_of(tmp_path / "copy.db", COUNT) == [(2_000,)]


async def test_commits_that_are_only_in_the_wal_are_copied(database: Path, tmp_path: Path) -> None:
    with raw(database) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(ADD, ("before, in the WAL only",))
        await copy(database, tmp_path / "copy.db")
    assert rows_of(tmp_path / "copy.db", COUNT) == [(2_001,)]


async def test_an_abandoned_copy_ends_at_the_next_step(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "STEP_PAGES", 1)
    loop, steps = asyncio.get_running_loop(), list[int]()

    def give_up(copied: int, _: int) -> None:
        steps.append(copied)
        asyncio.run_coroutine_threadsafe(_cancel(copying), loop).result()

    copying = asyncio.create_task(copy(database, tmp_path / "copy.db", give_up))
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert steps == [1]


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.sleep(0)  # it notices now


async def test_a_copy_is_one_file_that_can_be_read_by_itself(database: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    await copy(database, tmp_path / "alone" / "copy.db")
    async with open_sqlite_reader(tmp_path / "alone" / "copy.db") as copied:
        await copied.verify_whole()
        assert names_in(tmp_path / "alone") == {"copy.db"}


async def test_the_error_names_the_file_that_cannot_be_written(database: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.db").mkdir()
    async with open_sqlite_reader(database) as journal_reader:
        with pytest.raises(MilepostError, match=r"copy\.db cannot be written: unable to open database file"):
            await journal_reader.copy_to(tmp_path / "copy.db", lambda _, __: None)
        assert (await journal_reader.verify()).entries > 20, "the connection is as good as before"


async def test_tampering_with_the_journal_is_detected_in_the_copy(database: Path, tmp_path: Path) -> None:
    execute(database, f"{DROP_TRIGGERS}; UPDATE journal SET data = '{{}}' WHERE seq = 1")
    await copy(database, tmp_path / "copy.db")
    async with open_sqlite_reader(tmp_path / "copy.db") as copied:
        with pytest.raises(JournalDamaged):
            await copied.verify_whole()


async def test_a_damaged_page_is_detected_though_the_journal_is_sound(database: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    await copy(database, target)
    with raw(target) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'contacts'")
        ((page_size,),) = connection.execute("PRAGMA page_size")
    with target.open("r+b") as file:
        file.seek((root - 1) * page_size)
        file.write(bytes(page_size))
    async with open_sqlite_reader(target) as copied:
        assert (await copied.verify()).entries > 20
        with pytest.raises(MilepostError, match="damaged"):
            await copied.verify_whole()
