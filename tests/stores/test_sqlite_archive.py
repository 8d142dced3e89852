"""Reading the journal of a SQLite database, beside the daemon that has the file for itself."""

import asyncio
import shutil
from pathlib import Path

import pytest

from contracts.archive_contract import ArchiveContract, fill, finds_a_changed_journal, rebuild
from milepost.core.errors import StoreBusy, StoreRefused
from milepost.stores.sqlite.archive import open_sqlite_archive
from milepost.stores.sqlite.store import open_sqlite
from stores.kept import Kept, SqliteKept
from stores.sqlite_files import names_in


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    path = Path(shutil.copy(migrated, tmp_path_factory.mktemp("filled")))

    async def live() -> None:
        async with open_sqlite(path) as store:
            await fill(store)

    asyncio.run(live())
    return path


@pytest.fixture
def filled(tmp_path: Path, lived: Path) -> Kept:
    return SqliteKept(Path(shutil.copy(lived, tmp_path / "filled.db")))


@pytest.fixture
def empty(path: Path) -> Kept:
    return SqliteKept(path)


class TestSqliteArchive(ArchiveContract):
    @pytest.mark.parametrize(
        "tampering",
        [
            "UPDATE journal SET data = replace(data, 'cursor-', 'corsar-') WHERE seq = 60",
            "UPDATE journal SET data = data || ' ' WHERE seq = 60",
            "UPDATE journal SET data = '{' WHERE seq = 60",
            "UPDATE journal SET recorded_at = replace(recorded_at, '.000Z', '.001Z') WHERE seq = 60",
            "UPDATE journal SET recorded_at = replace(recorded_at, 'Z', '+00:00') WHERE seq = 60",
            "UPDATE journal SET recorded_at = replace(recorded_at, '.000Z', '.000999Z') WHERE seq = 60",
            "UPDATE journal SET recorded_at = 'yesterday' WHERE seq = 60",
            "REPLACE INTO journal SELECT seq, stream, version, run_id, recorded_at, type, '{}', hash FROM journal",
        ],
    )
    async def test_finds_texts_of_the_journal_that_were_changed(self, filled: Kept, tampering: str) -> None:
        await finds_a_changed_journal(filled, tampering)

    async def test_a_rebuild_is_refused_beside_a_daemon(self, filled: SqliteKept) -> None:
        async with open_sqlite(filled.path):
            with pytest.raises(StoreBusy, match="works on the database"):
                await rebuild(filled)


class TestOpening:
    async def test_a_path_without_a_database_is_refused_and_stays_so(self, tmp_path: Path) -> None:
        with pytest.raises(StoreRefused, match="milepost run"):
            async with open_sqlite_archive(tmp_path / "milepost.db"):
                pass

        assert names_in(tmp_path) == set()

    async def test_a_database_that_was_never_migrated_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "milepost.db").touch()

        with pytest.raises(StoreRefused, match="older Milepost"):
            async with open_sqlite_archive(tmp_path / "milepost.db"):
                pass

    async def test_a_reader_cannot_write(self, filled: SqliteKept) -> None:
        async with open_sqlite_archive(filled.path) as archive:
            with pytest.raises(StoreRefused):
                await archive.rebuild()
