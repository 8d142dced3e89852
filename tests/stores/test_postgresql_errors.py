"""What an error of PostgreSQL means, by its words, where it has no code."""

import psycopg

from milepost.core.errors import StoreRefused
from milepost.stores.postgresql.errors import translated


def test_a_role_that_does_not_exist_is_no_missing_database() -> None:
    """As a server says that asks for no password."""
    refused = translated(psycopg.OperationalError('connection failed: FATAL:  role "shop" does not exist'), "shop")
    assert isinstance(refused, StoreRefused)
    assert "the user in store.url" in refused.hint
