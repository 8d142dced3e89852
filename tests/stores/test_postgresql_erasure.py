"""Erasing a person from PostgreSQL, beside workers."""

import pytest

from contracts.erasure_contract import SECRET, keep
from kit.builders import STREAM
from kit.postgres import Database, Server, fresh_database
from milepost.core.errors import StoreRefused
from milepost.stores.open import forget, open_store

EVERYTHING = "SELECT string_agg(each::text, ' ') FROM {} AS each"


async def test_an_erasure_leaves_no_word_of_the_person_in_any_table(database: Database) -> None:
    async with open_store(database.store_url) as store:
        for person in ("ada", "bob"):
            await keep(store, person, f"{SECRET} {person}")

    await forget(database.store_url, STREAM, "ada")

    tables = [name for (name,) in database.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'milepost'")]
    said = " ".join(database.sql(EVERYTHING.format(table))[0][0] or "" for table in tables)
    assert f"{SECRET} ada" not in said
    assert f"{SECRET} bob" in said


async def test_an_erasure_without_a_schema_of_this_program_is_refused(postgres: Server) -> None:
    with fresh_database(postgres, template=None) as database:
        with pytest.raises(StoreRefused, match="there is no schema"):
            await forget(database.store_url, STREAM, "ada")
        assert database.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'milepost'") == []

        database.sql("CREATE SCHEMA milepost AUTHORIZATION milepost")
        database.sql("CREATE TABLE milepost.schema_migrations (name text, applied_at timestamptz)")
        database.sql("INSERT INTO schema_migrations VALUES ('0001_journal', now())")
        database.sql("ALTER TABLE schema_migrations OWNER TO milepost")
        with pytest.raises(StoreRefused, match="older Milepost"):
            await forget(database.store_url, STREAM, "ada")
