"""Row-level security on Milepost's tables: it is the operator's, it stays, and Milepost itself sees all of its rows."""

from pathlib import Path

import psycopg
import pytest

from contracts.store_contract import commit
from kit.builders import NOON, run_started
from kit.postgres import ROLE, Database, on_both_releases
from milepost.core.errors import StoreRefused
from milepost.core.model import Changes
from milepost.stores.open import open_reader, open_store
from milepost.stores.postgresql.rights import kept_private
from milepost.stores.url import StoreUrl
from stores.copies import copied
from stores.databases import AnyDatabase
from stores.histories import contact_row, conversation_row, event_row

pytestmark = on_both_releases

STRANGER = "somebody_else"
COVERED = "SELECT relname FROM pg_class WHERE relnamespace = 'milepost'::regnamespace AND relrowsecurity ORDER BY 1"
OURS = "SELECT relname FROM pg_class WHERE relnamespace = 'milepost'::regnamespace AND relkind = 'r' ORDER BY 1"
FORCED = "ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
SHOW_ALL = f"CREATE POLICY milepost ON milepost.contacts FOR ALL TO {ROLE} USING (true)"


def on_all_tables(database: Database, change: str) -> None:
    for (table,) in database.sql(OURS):
        database.sql(f"ALTER TABLE milepost.{table} {change}")


async def written(database: Database, contact_id: str = "c_1") -> None:
    """Store a row of each of the three kinds."""
    changes = Changes((conversation_row(),), (contact_row(contact_id),), (event_row(),))
    async with open_store(database.store_url) as store:
        await commit(store, changes=changes)


async def made_later(database: Database) -> None:
    """Create tables as a migration of a later version does."""
    connection = await psycopg.AsyncConnection.connect(database.url, password=database.password)
    async with connection, kept_private(connection, "milepost"):
        await connection.execute("CREATE TABLE milepost.later (a int); CREATE VIEW milepost.seen AS SELECT 1 AS a")


async def test_a_table_of_a_later_version_is_covered_as_the_others_are(database: Database) -> None:
    on_all_tables(database, "ENABLE ROW LEVEL SECURITY")

    await made_later(database)

    assert database.sql(COVERED) == database.sql(OURS)
    assert ("later",) in database.sql(OURS)


async def test_a_table_of_a_later_version_is_open_to_readers_where_the_others_are(database: Database) -> None:
    database.sql("ALTER TABLE milepost.contacts ENABLE ROW LEVEL SECURITY")

    await made_later(database)

    assert database.sql(COVERED) == [("contacts",)]


async def test_row_level_security_does_not_apply_to_milepost(database: Database) -> None:
    on_all_tables(database, "ENABLE ROW LEVEL SECURITY")
    database.sql("CREATE POLICY nobody ON milepost.contacts AS RESTRICTIVE FOR ALL TO PUBLIC USING (false)")

    await written(database)

    assert database.sql("SELECT name FROM milepost.contacts") == [("Ada",)]


async def test_a_start_is_refused_if_row_level_security_hides_rows_from_milepost(database: Database) -> None:
    """Who is to be forgotten would not be found, and what is stored would look new."""
    await written(database)
    for table in ("contacts", "journal"):
        database.sql(f"ALTER TABLE milepost.{table} {FORCED}")

    with pytest.raises(StoreRefused, match=r"hides rows .*: contacts, journal \(") as refusal:
        await written(database)
    assert "NO FORCE ROW LEVEL SECURITY" in refusal.value.hint
    with pytest.raises(StoreRefused, match="hides rows"):
        async with open_reader(database.store_url):
            pass


@pytest.mark.parametrize(
    "policy",
    [
        f"CREATE POLICY half ON milepost.contacts FOR ALL TO {ROLE} USING (name = 'Eve')",
        f"CREATE POLICY half ON milepost.contacts FOR ALL TO {ROLE} USING (true) WITH CHECK (name = 'Eve')",
        f"CREATE POLICY half ON milepost.contacts FOR SELECT TO {ROLE} USING (true)",
        f"CREATE POLICY half ON milepost.contacts FOR ALL TO {STRANGER} USING (true)",
        f"{SHOW_ALL}; CREATE POLICY hides ON milepost.contacts AS RESTRICTIVE FOR DELETE USING (name = 'Eve')",
    ],
)
async def test_a_policy_that_shows_only_some_rows_is_not_enough(database: Database, policy: str) -> None:
    database.sql(f"DO $$ BEGIN CREATE ROLE {STRANGER}; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    database.sql(f"ALTER TABLE milepost.contacts {FORCED}")
    database.sql(policy)

    with pytest.raises(StoreRefused, match=r"hides rows .*: contacts \("):
        await written(database)
    database.sql(f"DROP OWNED BY {STRANGER}")


async def test_milepost_works_with_a_policy_of_its_own_where_policies_are_forced(database: Database) -> None:
    await written(database)
    for (table,) in database.sql(OURS):
        database.sql(f"ALTER TABLE milepost.{table} {FORCED}")
        database.sql(f"CREATE POLICY milepost ON milepost.{table} FOR ALL TO {ROLE} USING (true) WITH CHECK (true)")

    await written(database, "c_2")

    assert database.sql("SELECT count(*) FROM milepost.contacts") == [(2,)]
    async with open_reader(database.store_url) as reader:
        assert await reader.rebuild() == await reader.verify()


async def test_a_copy_is_refused_where_policies_are_forced(database: Database, tmp_path: Path) -> None:
    """COPY FROM does not work there, whatever the policy says."""
    source = AnyDatabase(StoreUrl(f"sqlite:///{tmp_path}/milepost.db"))
    target = AnyDatabase(database.store_url, database)
    async with open_store(source.store_url) as store:
        await commit(store, run_started(NOON))
    database.sql(f"ALTER TABLE milepost.contacts {FORCED}; {SHOW_ALL}")

    with pytest.raises(StoreRefused, match=r"is forced on Milepost itself .*: contacts") as refusal:
        await copied(source, target)
    assert "NO FORCE" in refusal.value.hint

    database.sql("ALTER TABLE milepost.contacts NO FORCE ROW LEVEL SECURITY")
    await copied(source, target)


async def test_a_table_of_somebody_else_is_no_business_of_ours(database: Database) -> None:
    database.sql(f"CREATE TABLE milepost.theirs (a int); ALTER TABLE milepost.theirs {FORCED}")
    database.sql(f"GRANT ALL ON milepost.theirs TO {ROLE}")

    await written(database)
