"""The views of `store.views`, only for those who may read the tables."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from contracts.store_contract import commit
from kit.postgres import ROLE, Database, Server, fresh_database, on_both_releases
from milepost.core.errors import StoreAway, StoreRefused
from milepost.core.model import Changes
from milepost.stores.open import open_store
from milepost.stores.postgresql import migrate as migrating
from milepost.stores.url import StoreUrl
from stores.histories import contact_row

SHOWN = {"pages", "contacts", "conversations", "contact_interaction_events", "runs"}
OPEN_TO_ANYBODY = f"ALTER DEFAULT PRIVILEGES FOR ROLE {ROLE} IN SCHEMA public GRANT ALL ON TABLES TO PUBLIC"
POLICY = """
ALTER TABLE milepost.contacts ENABLE ROW LEVEL SECURITY;
CREATE POLICY only_ada ON milepost.contacts FOR SELECT USING (name = 'Ada');
"""
# As an earlier Milepost created them.
OLD_VIEWS = f"""
SET ROLE {ROLE};
CREATE OR REPLACE VIEW public.contacts AS SELECT * FROM milepost.contacts;
CREATE OR REPLACE VIEW public.checkpoints AS SELECT * FROM milepost.checkpoints;
CREATE OR REPLACE VIEW public.dead_letters AS SELECT * FROM milepost.dead_letters;
GRANT ALL ON public.contacts, public.checkpoints, public.dead_letters TO PUBLIC;
RESET ROLE;
"""
NAMES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'v'"

pytestmark = on_both_releases


@pytest.fixture
def empty(postgres: Server) -> Iterator[Database]:
    """Yield a database without rows and views, where everybody is granted whatever we create in `public`."""
    with fresh_database(postgres) as database:
        database.sql(OPEN_TO_ANYBODY)
        yield database


@contextmanager
def reader(database: Database) -> Iterator[psycopg.Connection]:
    """Connect as somebody who owns nothing."""
    name = f"reader_{database.name}"
    database.sql(f"CREATE ROLE {name}")
    try:
        with database.server.connect(database.name) as connection:
            connection.execute(f"SET ROLE {name}".encode())
            yield connection
    finally:
        database.sql(f"DROP OWNED BY {name}")
        database.sql(f"DROP ROLE {name}")


async def opened(database: Database, *, views: str = "public") -> None:
    """Open the store once."""
    async with open_store(StoreUrl(database.url, database.password, views=views)):
        pass


async def filled(database: Database) -> None:
    """Store two people."""
    async with open_store(StoreUrl(database.url, database.password, views="public")) as store:
        await commit(store, changes=Changes(contacts=(contact_row("c_1"), contact_row("c_2", name="Eve"))))


def shown(database: Database) -> set[str]:
    return {name for (name,) in database.sql(NAMES)}


async def test_the_tables_that_people_need_are_shown_in_public(empty: Database) -> None:
    await filled(empty)

    assert shown(empty) == SHOWN
    assert empty.sql("SELECT name FROM public.contacts ORDER BY 1") == [("Ada",), ("Eve",)]


async def test_a_second_start_finds_its_views_whatever_the_role_is_called(empty: Database) -> None:
    """If a role has the name of the schema, PostgreSQL leaves that name out of a view's definition."""
    assert ROLE == "milepost"
    await opened(empty)
    await opened(empty)

    assert shown(empty) == SHOWN


async def test_a_start_does_not_wait_for_those_who_read_the_views(empty: Database) -> None:
    """A report, or a session that somebody left open in a transaction, may hold them for hours."""
    await filled(empty)

    with empty.connect() as reading:
        reading.execute("BEGIN")
        reading.execute("SELECT * FROM public.contacts")
        async with asyncio.timeout(60):
            await opened(empty)


async def test_a_view_that_has_to_change_is_not_waited_for_without_end(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrating, "LOCK_TIMEOUT", "SELECT set_config('lock_timeout', '1ms', true)")
    await opened(empty, views="")
    empty.sql(OLD_VIEWS)

    with empty.connect() as reading:
        reading.execute("BEGIN")
        reading.execute("SELECT * FROM public.contacts")
        with pytest.raises(StoreAway, match="lock timeout"):
            async with asyncio.timeout(60):
                await opened(empty)


@pytest.mark.parametrize("statement", ["SELECT * FROM public.contacts", "DELETE FROM public.contacts"])
async def test_the_views_are_closed_to_whoever_may_not_read_the_tables(empty: Database, statement: str) -> None:
    """This holds even if a host grants everybody whatever is in `public`, to serve it over an API."""
    await filled(empty)

    with reader(empty) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


async def test_the_views_leave_row_level_security_alone(empty: Database) -> None:
    await filled(empty)
    empty.sql(POLICY)

    with reader(empty) as connection:
        name = f"reader_{empty.name}"
        empty.sql(f"GRANT USAGE ON SCHEMA milepost TO {name}")
        empty.sql(f"GRANT SELECT ON milepost.contacts, public.contacts TO {name}")
        assert connection.execute("SELECT name FROM public.contacts").fetchall() == [("Ada",)]


async def test_grants_on_a_view_made_afterwards_stay(empty: Database) -> None:
    await filled(empty)

    with reader(empty) as connection:
        name = f"reader_{empty.name}"
        empty.sql(f"GRANT USAGE ON SCHEMA milepost TO {name}")
        empty.sql(f"GRANT SELECT ON milepost.contacts, public.contacts TO {name}")
        await opened(empty)
        assert len(connection.execute("SELECT name FROM public.contacts").fetchall()) == 2


async def test_views_of_an_earlier_milepost_are_replaced(empty: Database) -> None:
    """Those views read with our privileges, and everybody had every privilege on them."""
    await opened(empty, views="")
    empty.sql(OLD_VIEWS)

    await filled(empty)

    assert shown(empty) == SHOWN
    with reader(empty) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM public.contacts")
    with reader(empty) as connection:
        empty.sql(f"GRANT SELECT ON public.contacts TO reader_{empty.name}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM public.contacts")


async def test_views_that_are_no_longer_configured_are_dropped(empty: Database) -> None:
    await filled(empty)
    empty.sql(OLD_VIEWS)

    await opened(empty, views="")

    assert shown(empty) == set()
    assert empty.sql("SELECT count(*) FROM milepost.contacts") == [(2,)]


async def test_a_view_that_others_depend_on_stays_and_is_closed(empty: Database) -> None:
    await filled(empty)
    empty.sql(OLD_VIEWS)
    empty.sql("CREATE VIEW public.report AS SELECT stream FROM public.dead_letters")

    await opened(empty)

    assert shown(empty) == SHOWN | {"dead_letters", "report"}
    with reader(empty) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM public.dead_letters")


@pytest.mark.parametrize(
    "theirs",
    [
        "TABLE public.contacts (a int)",
        "VIEW public.contacts AS SELECT 1 AS a",
        "VIEW public.contacts AS SELECT * FROM milepost.contacts",
        "VIEW public.contacts AS SELECT c.* FROM milepost.contacts AS c, milepost.journal",
        "MATERIALIZED VIEW public.contacts AS SELECT * FROM milepost.contacts",
    ],
)
async def test_a_name_that_somebody_else_has_is_refused_and_left_alone(empty: Database, theirs: str) -> None:
    await opened(empty, views="")
    empty.sql(f"CREATE {theirs}")
    properties = "SELECT relkind, relowner, relacl, reloptions FROM pg_class WHERE oid = 'public.contacts'::regclass"
    before = empty.sql(properties)

    with pytest.raises(StoreRefused, match=r"public.contacts in .* is not Milepost's"):
        await opened(empty)
    await opened(empty, views="")

    assert empty.sql(properties) == before


async def test_a_name_that_was_free_before_and_is_taken_is_left_alone_with_a_warning(
    empty: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installation that shows its views beside other tables starts after an upgrade, too."""
    await opened(empty, views="")
    empty.sql("CREATE TABLE public.pages (slug text)")
    empty.sql("INSERT INTO public.pages VALUES ('about')")

    await opened(empty)

    assert empty.sql("SELECT * FROM public.pages") == [("about",)]
    assert shown(empty) == SHOWN - {"pages"}
    assert "view is not shown, its name is taken" in "".join(capsys.readouterr())


@pytest.mark.parametrize("columns", ["name", "*, 1 AS more"])
async def test_a_view_of_the_same_role_with_other_columns_is_left_alone(empty: Database, columns: str) -> None:
    await opened(empty, views="")
    empty.sql(f"CREATE VIEW public.contacts AS SELECT {columns} FROM milepost.contacts")
    empty.sql(f"ALTER VIEW public.contacts OWNER TO {ROLE}")

    with pytest.raises(StoreRefused, match=r"public.contacts in .* is not Milepost's"):
        await opened(empty)


async def test_the_views_move_to_the_schema_that_is_named(empty: Database) -> None:
    empty.sql(f"CREATE SCHEMA shown AUTHORIZATION {ROLE}")
    await filled(empty)
    await opened(empty, views="shown")
    assert empty.sql("SELECT name FROM shown.contacts ORDER BY 1") == [("Ada",), ("Eve",)]
    assert shown(empty) == set()


async def test_a_schema_for_the_views_that_does_not_exist_is_named(empty: Database) -> None:
    with pytest.raises(StoreRefused, match='"nowhere" does not exist') as raised:
        await opened(empty, views="nowhere")

    assert "store.views" in raised.value.hint
