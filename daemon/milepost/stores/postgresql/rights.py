"""Keeps what Milepost creates to its owner, whatever default privileges grant to others.

Hosts that serve a database over an API grant their roles everything on what is created in `public`, some on what is
created anywhere; PostgreSQL itself grants functions to everybody. What an operator grants afterwards stays.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import psycopg
from psycopg.rows import TupleRow

Connection = psycopg.AsyncConnection[TupleRow]

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
    await _revoke(
        connection, [each for each in await _objects(connection, schema) if (each.kind, each.oid) not in before]
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
