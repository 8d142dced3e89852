"""What Milepost creates in a database is closed to others, even on hosts that grant an API's roles everything."""

from collections.abc import Iterator

import psycopg
import pytest

from contracts.store_contract import commit
from kit.postgres import ROLE, Database, Server, fresh_database, on_both_releases
from milepost.core.model import Changes
from milepost.fleet.leases import open_leases
from milepost.stores.open import open_store
from milepost.stores.postgresql.connection import connected
from milepost.stores.reader import load_statements
from milepost.stores.url import StoreUrl
from stores.histories import contact_row, conversation_row, event_row

API_ROLES = ("anon", "authenticated", "service_role")
KINDS = ("TABLES", "SEQUENCES", "FUNCTIONS")
MAKE_ROLE = "DO $$ BEGIN CREATE ROLE {0}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
# Whoever has a privilege, by name or as PUBLIC, on a relation or function that the database did not come with.
OTHERS = """
SELECT name, coalesce(nullif(grantee, 0)::regrole::text, 'PUBLIC') AS who, privilege_type
FROM (
    SELECT oid::regclass::text AS name, relnamespace AS schema, relowner AS owner, relacl AS acl FROM pg_class
    UNION ALL
    SELECT oid::regprocedure::text, pronamespace, proowner, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
    UNION ALL
    SELECT nspname, oid, nspowner, nspacl FROM pg_namespace WHERE nspname = 'milepost'
) AS made CROSS JOIN LATERAL aclexplode(acl)
WHERE schema IN (to_regnamespace('milepost'), 'public'::regnamespace) AND grantee <> owner
"""
MADE = """
SELECT format('%I.%I', relnamespace::regnamespace, relname), relkind FROM pg_class
WHERE relnamespace IN (to_regnamespace('milepost'), 'public'::regnamespace) AND relkind IN ('r', 'v', 'S')
"""
FUNCTIONS = """
SELECT proname FROM pg_proc WHERE pronamespace IN (to_regnamespace('milepost'), 'public'::regnamespace)
"""

pytestmark = on_both_releases


@pytest.fixture(params=[{"views": "public"}, {"schema": "public"}], ids=["a schema of its own", "all in public"])
def hosted(request: pytest.FixtureRequest, postgres: Server) -> Iterator[StoreUrl]:
    """Yield the URL of a database whose host grants its roles everything, in `public` and by a global default."""
    with fresh_database(postgres, template=None) as database:
        grant_by_default(database)
        yield StoreUrl(database.url, database.password, **request.param)
        for role in API_ROLES:
            database.sql(f"DROP OWNED BY {role}")


def grant_by_default(database: Database) -> None:
    for role in API_ROLES:
        database.sql(MAKE_ROLE.format(role))
    who = ", ".join(API_ROLES)
    database.sql(f"GRANT USAGE ON SCHEMA public TO {who}")
    database.sql(f"GRANT CREATE ON SCHEMA public TO {ROLE}")
    for where in ("IN SCHEMA public", ""):
        for kind in KINDS:
            database.sql(f"ALTER DEFAULT PRIVILEGES FOR ROLE {ROLE} {where} GRANT ALL ON {kind} TO {who}")
    database.sql(f"ALTER DEFAULT PRIVILEGES FOR ROLE {ROLE} GRANT ALL ON SCHEMAS TO {who}")


async def at_work(store_url: StoreUrl) -> None:
    """Do what a worker does: store rows of every kind, and use the queue."""
    async with open_store(store_url) as store:
        changes = Changes((conversation_row(),), (contact_row(),), (event_row(),))
        await commit(store, changes=changes)
        sql = load_statements("postgresql", "statements", "queue")
        async with connected(store_url, sql) as database, open_leases(database) as queue:
            await queue.offer(["messenger:1"])


def superuser(server: Server, store_url: StoreUrl) -> Database:
    return Database(server, store_url.name.rsplit("/", 1)[1])


async def test_nobody_else_has_a_privilege_on_anything_that_is_created_and_anon_can_read_and_change_nothing(
    hosted: StoreUrl, postgres: Server
) -> None:
    await at_work(hosted)
    database = superuser(postgres, hosted)
    assert database.sql(OTHERS) == []
    made, functions = database.sql(MADE), database.sql(FUNCTIONS)
    assert len(made) > 15
    assert len(functions) > 15

    let_in = []
    with database.connect() as connection:
        connection.execute("SET ROLE anon")
        for name, kind in made:
            for statement in attempts(name, kind):
                try:
                    connection.execute(statement.encode())
                    let_in.append(statement)
                except psycopg.errors.InsufficientPrivilege:
                    continue
        callable_ = connection.execute(
            "SELECT oid::regprocedure::text FROM pg_proc"
            " WHERE pronamespace IN (to_regnamespace('milepost'), 'public'::regnamespace)"
            " AND has_function_privilege(oid, 'EXECUTE')"
        ).fetchall()

    assert let_in == []
    assert callable_ == []


def attempts(name: str, kind: str) -> list[str]:
    if kind == "S":
        return [f"SELECT last_value FROM {name}", f"SELECT nextval('{name}')", f"SELECT setval('{name}', 1)"]
    tries = [f"SELECT * FROM {name}", f"INSERT INTO {name} DEFAULT VALUES", f"DELETE FROM {name}"]
    return tries if kind == "v" else [*tries, f"TRUNCATE {name}"]


async def test_grants_of_an_operator_stay(hosted: StoreUrl, postgres: Server) -> None:
    await at_work(hosted)
    database = superuser(postgres, hosted)
    database.sql("GRANT SELECT ON contacts TO anon")

    await at_work(hosted)

    assert [(who, what) for _, who, what in database.sql(OTHERS)] == [("anon", "SELECT")]


YOUNGER_ROUTINES = (  # than the migration that closes what was left open
    "begin_changes",
    "number_change",
    "note_deleted_contacts",
    "note_deleted_conversations",
    "note_deleted_messages",
    "note_moved_conversation",
    "note_moved_message",
)


async def test_objects_that_an_earlier_milepost_left_open_are_closed(hosted: StoreUrl, postgres: Server) -> None:
    await at_work(hosted)
    database, schema = superuser(postgres, hosted), hosted.schema
    database.sql(f"SET ROLE {ROLE}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO anon, authenticated, service_role")
    names = ("page_moves", "message_backlog", "pages", "webhook_events", "deleted_rows", "deliveries", "delivery_holds")
    younger = ", ".join(f"{schema}.{name}" for name in names)
    database.sql(f"SET ROLE {ROLE}; REVOKE ALL ON {younger} FROM anon, authenticated, service_role")
    database.sql(f"SET ROLE {ROLE}; GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO anon")
    database.sql(f"SET ROLE {ROLE}; GRANT ALL ON ALL ROUTINES IN SCHEMA {schema} TO PUBLIC, anon")
    database.sql(f"SET ROLE {ROLE}; REVOKE ALL ON SEQUENCE {schema}.change_seqs FROM anon")
    for routine in YOUNGER_ROUTINES:
        database.sql(f"SET ROLE {ROLE}; REVOKE ALL ON ROUTINE {schema}.{routine} FROM PUBLIC, anon")
    database.sql(f"SET ROLE {ROLE}; CREATE TABLE public.theirs (a int)")
    theirs = f"reader_{database.name}"
    database.sql(f"CREATE ROLE {theirs}; GRANT SELECT ON {schema}.contacts TO {theirs}")
    database.sql(f"DELETE FROM {schema}.schema_migrations WHERE name = '0007_rights'")

    await at_work(hosted)

    left = {(name.removeprefix("milepost."), who) for name, who, _ in database.sql(OTHERS)}
    assert left == {("contacts", theirs), *(("theirs", who) for who in API_ROLES)}
    database.sql(f"DROP OWNED BY {theirs}; DROP ROLE {theirs}")
