"""An account that moves to another page, in SQLite."""

from pathlib import Path

import pytest

from contracts.moves_contract import MovesContract
from stores.store_dump import SqliteDump, StoreDump


@pytest.fixture
def kept(path: Path) -> StoreDump:
    return SqliteDump(path)


class TestSqliteMoves(MovesContract):
    """In SQLite."""
