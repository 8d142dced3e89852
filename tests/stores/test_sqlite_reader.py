"""Reading the journal of a SQLite database, beside the daemon that holds the file alone."""

import asyncio
import shutil
from pathlib import Path

import pytest

from contracts.reader_contract import JournalReaderContract, fill, finds_a_changed_journal, rebuild
from milepost.core.errors import StoreBusy, StoreRefused
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.sqlite.store import open_sqlite
from stores.sqlite_files import names_in
from stores.store_dump import SqliteDump, StoreDump

LAST_WITH_CURSOR = "(SELECT max(seq) FROM journal WHERE data LIKE '%cursor-%')"


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    path = Path(shutil.copy(migrated, tmp_path_factory.mktemp("filled")))

    async def live() -> None:
        async with open_sqlite(path) as store:
            await fill(store)

    asyncio.run(live())
    return path


@pytest.fixture
def filled(tmp_path: Path, lived: Path) -> StoreDump:
    return SqliteDump(Path(shutil.copy(lived, tmp_path / "filled.db")))


@pytest.fixture
def empty(path: Path) -> StoreDump:
    return SqliteDump(path)


class TestSqliteReader(JournalReaderContract):
    @pytest.mark.parametrize(
        "tampering",
        [
            f"UPDATE journal SET data = replace(data, 'cursor-', 'corsar-') WHERE seq = {LAST_WITH_CURSOR}",
            "UPDATE journal SET data = data || ' ' WHERE seq = 60",
            "UPDATE journal SET data = '{' WHERE seq = 60",
            "UPDATE journal SET recorded_at = replace(recorded_at, '.000Z', '.001Z') WHERE seq = 60",
            "UPDATE journal SET recorded_at = replace(recorded_at, 'Z', '+00:00') WHERE seq = 60",
            "UPDATE journal SET recorded_at = replace(recorded_at, '.000Z', '.000999Z') WHERE seq = 60",
            "UPDATE journal SET recorded_at = 'yesterday' WHERE seq = 60",
            "REPLACE INTO journal SELECT seq, stream, version, run_id, recorded_at, type, '{}', hash FROM journal",
        ],
    )
    async def test_verify_detects_changed_texts_of_the_journal(self, filled: StoreDump, tampering: str) -> None:
        await finds_a_changed_journal(filled, tampering)

    async def test_a_rebuild_is_refused_beside_a_daemon(self, filled: SqliteDump) -> None:
        async with open_sqlite(filled.path):
            with pytest.raises(StoreBusy, match="is using the database"):
                await rebuild(filled)


class TestOpening:
    async def test_a_path_without_a_database_is_refused_and_stays_so(self, tmp_path: Path) -> None:
        with pytest.raises(StoreRefused, match="milepost run"):
            async with open_sqlite_reader(tmp_path / "milepost.db"):
                pass

        assert names_in(tmp_path) == set()

    async def test_an_empty_file_is_refused_as_such(self, tmp_path: Path) -> None:
        """It may have been cut off: then it is not a matter of an older version."""
        (tmp_path / "milepost.db").touch()

        with pytest.raises(StoreRefused, match="is empty") as refused:
            async with open_sqlite_reader(tmp_path / "milepost.db"):
                pass

        assert "restore a backup" in refused.value.hint

    async def test_a_reader_cannot_write(self, filled: SqliteDump) -> None:
        async with open_sqlite_reader(filled.path) as journal_reader:
            with pytest.raises(StoreRefused):
                await journal_reader.rebuild()
