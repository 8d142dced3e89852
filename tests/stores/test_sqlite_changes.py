"""The change feed of a SQLite database."""

from pathlib import Path

import pytest

from contracts.changes_contract import ChangesContract
from stores.store_dump import SqliteDump, StoreDump


@pytest.fixture
def kept(path: Path) -> StoreDump:
    return SqliteDump(path)


class TestSqliteChanges(ChangesContract):
    """In SQLite."""
