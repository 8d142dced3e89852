"""An account that moves to another page, in PostgreSQL."""

import pytest

from contracts.moves_contract import MovesContract
from kit.postgres import Database
from stores.store_dump import PostgresDump, StoreDump


@pytest.fixture
def kept(database: Database) -> StoreDump:
    return PostgresDump(database)


class TestPostgresqlMoves(MovesContract):
    """In PostgreSQL."""
