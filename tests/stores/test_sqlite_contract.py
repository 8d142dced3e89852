"""The SQLite store makes the promises of a Store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.store_contract import CheckingStoreContract, Look, Tables
from milepost.stores.sqlite import SqliteStore, open_sqlite
from stores.sqlite_files import tables_of


class TestSqliteStore(CheckingStoreContract):
    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[SqliteStore]:
        async with open_sqlite(path) as store:
            yield store

    @pytest.fixture
    def look(self, path: Path) -> Look:
        async def look() -> Tables:
            return tables_of(path)

        return look
