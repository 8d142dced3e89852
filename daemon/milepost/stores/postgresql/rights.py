"""Keeps what Milepost creates to its owner, whatever default privileges grant to others, and its rows in its own sight.

Hosts that serve a database over an API grant their roles everything on what is created in `public`, some on what is
created anywhere; PostgreSQL itself grants functions to everybody. What an operator grants afterwards stays. Row-level
security is the operator's: who turns it on for all tables has it on those of a later version as well.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from milepost.core.errors import StoreRefused
from milepost.stores.postgresql.connection import Connection
from milepost.stores.url import StoreUrl

# Each object of ours in a schema, with the statement that revokes the privileges of somebody else on it.
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

# The tables among these objects that row-level security does not cover, although the operator has it on the journal.
UNCOVERED = """
SELECT 'ALTER TABLE ' || oid::regclass || ' ENABLE ROW LEVEL SECURITY'
FROM pg_class
WHERE
    oid = ANY (%(oids)s::oid[]) AND relkind IN ('r', 'p') AND NOT relrowsecurity
    AND (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(format('%%I.journal', %(schema)s::text)))
"""
# Policies apply to the owner of a table where they are forced. These tables have one that hides rows from us, or none
# that shows us all of them.
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
    revoke: str | None  # None where nobody else has a privilege on it


@asynccontextmanager
async def kept_private(connection: Connection, schema: str) -> AsyncIterator[None]:
    """Revoke every privilege of others on what is created in the schema, or with it, during the block.

    Use it inside the transaction that creates it, so that nobody sees it before. What was there is left alone.
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
    """Raise StoreRefused where row-level security hides rows from Milepost itself: it would act on what it sees."""
    found = await connection.execute(HIDDEN, {"schema": store_url.schema})
    hidden = [name for (name,) in await found.fetchall()]
    if hidden:
        raise StoreRefused(
            f"row-level security hides rows from Milepost itself in {store_url.name}: {', '.join(hidden)}",
            hint="ALTER TABLE … NO FORCE ROW LEVEL SECURITY, or a policy FOR ALL … USING (true): docs/postgresql.md",
        )


async def make_private(connection: Connection, schema: str, name: str) -> None:
    """Revoke every privilege of others on a table or view."""
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
