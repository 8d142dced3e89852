"""The SQLite store keeps the contract of a Store."""

from pathlib import Path

import pytest

from contracts.database_contract import DatabaseContract
from stores.store_dump import SqliteDump, StoreDump


class TestSqliteStore(DatabaseContract):
    @pytest.fixture
    def kept(self, path: Path) -> StoreDump:
        return SqliteDump(path)
