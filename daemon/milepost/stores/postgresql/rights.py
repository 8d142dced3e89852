"""Keeps what Milepost creates private to its owner, and makes sure that row-level security hides no rows from Milepost.

Hosts that serve a database over an API grant their roles all privileges on whatever is created in `public`, and some
hosts on whatever is created anywhere. PostgreSQL itself grants functions to everybody. Later grants of the operator
stay. Row-level security is up to the operator: if it is on for all tables, a later version's new tables get it, too.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from milepost.core.errors import StoreRefused
from milepost.stores.postgresql.connection import Connection
from milepost.stores.url import StoreUrl

# Each of our objects in a schema, with a statement that revokes the privileges of another role on it.
OBJECTS = """
WITH objects AS (
    SELECT
        CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, oid, relname AS bare,
        oid::regclass::text AS name, relowner AS owner, relacl AS acl
    FROM pg_class
    WHERE relnamespace = to_regnamespace(%(schema)s) AND relkind IN ('r', 'p', 'v', 'm', 'S')
    UNION ALL
    SELECT 'ROUTINE', oid, proname, oid::regprocedure::text, proowner, coalesce(proacl, acldefault('f', proowner))
    FROM pg_proc
    WHERE pronamespace = to_regnamespace(%(schema)s)
    UNION ALL
    SELECT 'SCHEMA', oid, nspname, oid::regnamespace::text, nspowner, nspacl
    FROM pg_namespace
    WHERE oid = to_regnamespace(%(schema)s)
)
SELECT
    kind, oid, bare,
    'REVOKE ALL ON ' || kind || ' ' || name || ' FROM '
    || CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END || ' CASCADE'
FROM objects
LEFT JOIN LATERAL (SELECT DISTINCT grantee FROM aclexplode(acl)) AS granted ON granted.grantee <> owner
WHERE pg_has_role(owner, 'USAGE')
"""

# Statements for those tables among these objects that lack row-level security although the journal has it.
UNCOVERED = """
SELECT 'ALTER TABLE ' || oid::regclass || ' ENABLE ROW LEVEL SECURITY'
FROM pg_class
WHERE
    oid = ANY (%(oids)s::oid[]) AND relkind IN ('r', 'p') AND NOT relrowsecurity
    AND (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(format('%%I.journal', %(schema)s::text)))
"""
# The tables of which row-level security may hide rows from us. It applies to a table's owner only where it is forced.
# Then some policy must show us all rows, and none may hide any.
HIDDEN = """
SELECT relname
FROM pg_class
WHERE
    relnamespace = to_regnamespace(%(schema)s) AND relkind IN ('r', 'p') AND row_security_active(pg_class.oid)
    AND relowner = (SELECT relowner FROM pg_class WHERE oid = to_regclass(format('%%I.journal', %(schema)s::text)))
    AND NOT coalesce(
        (
            SELECT
                bool_or(polpermissive AND polcmd = '*' AND shows = 'true' AND takes = 'true')
                AND bool_and(polpermissive OR shows = 'true' AND takes = 'true')
            FROM pg_policy CROSS JOIN LATERAL (
                SELECT
                    coalesce(pg_get_expr(polqual, polrelid), 'true') AS shows,
                    coalesce(pg_get_expr(polwithcheck, polrelid), pg_get_expr(polqual, polrelid), 'true') AS takes
            ) AS written
            WHERE
                polrelid = pg_class.oid
                AND EXISTS (
                    SELECT 1 FROM unnest(polroles) AS role
                    WHERE CASE role WHEN 0 THEN true ELSE pg_has_role(role, 'USAGE') END
                )
        ),
        false
    )
ORDER BY relname
"""


class _Object(NamedTuple):
    kind: str
    oid: int
    name: str
    revoke: str | None  # None if no other role has a privilege on it


@asynccontextmanager
async def kept_private(connection: Connection, schema: str) -> AsyncIterator[None]:
    """Revoke all privileges of other roles on objects that the block creates in the schema, or on a new schema.

    Use it inside the transaction that creates them, so that nobody sees them before. Existing objects are left alone.
    """
    before = {(each.kind, each.oid) for each in await _objects(connection, schema)}
    yield
    made = [each for each in await _objects(connection, schema) if (each.kind, each.oid) not in before]
    await _revoke(connection, made)
    tables = [each.oid for each in made if each.kind == "TABLE"]
    uncovered = await connection.execute(UNCOVERED, {"schema": schema, "oids": tables})
    for (statement,) in await uncovered.fetchall():
        await connection.execute(statement.encode())


async def demand_all_rows(connection: Connection, store_url: StoreUrl) -> None:
    """Raise StoreRefused if row-level security hides rows from Milepost, which would act on those it sees."""
    found = await connection.execute(HIDDEN, {"schema": store_url.schema})
    hidden = [name for (name,) in await found.fetchall()]
    if hidden:
        raise StoreRefused(
            f"row-level security hides rows from Milepost itself in {store_url.name}: {', '.join(hidden)}",
            hint="ALTER TABLE … NO FORCE ROW LEVEL SECURITY, or a policy FOR ALL … USING (true): docs/postgresql.md",
        )


async def make_private(connection: Connection, schema: str, name: str) -> None:
    """Revoke all privileges of other roles on a table or view."""
    await _revoke(
        connection, [each for each in await _objects(connection, schema) if (each.kind, each.name) == ("TABLE", name)]
    )


async def _revoke(connection: Connection, objects: list[_Object]) -> None:
    for each in objects:
        if each.revoke is not None:
            await connection.execute(each.revoke.encode())


async def _objects(connection: Connection, schema: str) -> list[_Object]:
    found = await connection.execute(OBJECTS, {"schema": schema})
    return [_Object(*columns) for columns in await found.fetchall()]
