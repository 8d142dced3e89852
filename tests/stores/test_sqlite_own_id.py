"""An id that turns out to be ours, in SQLite."""

from pathlib import Path

import pytest

from contracts.own_id_contract import OwnIdContract
from stores.store_dump import SqliteDump, StoreDump


@pytest.fixture
def kept(path: Path) -> StoreDump:
    return SqliteDump(path)


class TestSqliteOwnId(OwnIdContract):
    """In SQLite."""
