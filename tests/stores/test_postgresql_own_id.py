"""An id that turns out to be ours, in PostgreSQL."""

import pytest

from contracts.own_id_contract import OwnIdContract
from kit.postgres import Database
from stores.store_dump import PostgresDump, StoreDump


@pytest.fixture
def kept(database: Database) -> StoreDump:
    return PostgresDump(database)


class TestPostgresqlOwnId(OwnIdContract):
    """In PostgreSQL."""
