"""Views of the tables in another schema, for whoever may read the tables, and for nobody else.

A view of ours is recognised by the catalog: it has one of our names and the owner of the table, and selects all of its
columns, in their order, from that table and no other.
"""

import psycopg
import structlog
from psycopg import sql

from milepost.core.errors import StoreRefused
from milepost.stores.postgresql.connection import Connection
from milepost.stores.postgresql.dsn import Dsn
from milepost.stores.postgresql.rights import make_private

SHOWN = ("pages", "contacts", "conversations", "contact_interaction_events", "runs")
SHOWN_BEFORE = ("checkpoints", "dead_letters")  # by earlier versions
ONLY_IF_FREE = {"pages"}  # shown since 0.2: a name that an installation may have given away before
DEFAULT_SCHEMA = "public"  # the only one in earlier versions

# What has such a name, whether it is ours, and whether it reads with the privileges of whoever queries it.
FOUND = """
SELECT
    relname,
    relkind = 'v' AND relowner IN (current_user::regrole, (SELECT relowner FROM pg_class WHERE oid = shown.oid))
    AND ARRAY[shown.oid] = (
        SELECT array_agg(DISTINCT refobjid)
        FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid
        WHERE
            classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass
            AND ev_class = pg_class.oid AND refobjid <> pg_class.oid
    )
    AND (SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute WHERE attrelid = pg_class.oid AND attnum > 0) = (
        SELECT (array_agg(attname ORDER BY attnum))[:relnatts] FROM pg_attribute
        WHERE attrelid = shown.oid AND attnum > 0 AND NOT attisdropped
    ),
    'security_invoker=true' = ANY (coalesce(reloptions, '{}'))
FROM pg_class CROSS JOIN LATERAL (SELECT to_regclass(format('%%I.%%I', %(schema)s::text, relname))::oid AS oid) AS shown
WHERE relnamespace = to_regnamespace(%(view_schema)s) AND relname = ANY (%(names)s)
"""


async def show_views(connection: Connection, dsn: Dsn) -> None:
    """Create the views in the schema `store.views`, and drop those of ours that are not wanted there or in `public`.

    The caller begins the transaction and ends it. Raises StoreRefused if something else has such a name, unless earlier
    versions left that name free.
    """
    for schema in {dsn.views, DEFAULT_SCHEMA} - {"", dsn.schema}:
        parameters = {"schema": dsn.schema, "view_schema": schema, "names": [*SHOWN, *SHOWN_BEFORE]}
        found = await connection.execute(FOUND, parameters)
        there = {name: (bool(is_ours), bool(is_safe)) for name, is_ours, is_safe in await found.fetchall()}
        shown = SHOWN if schema == dsn.views else ()
        for name, (is_ours, _) in there.items():
            if is_ours and name not in shown:
                await _drop(connection, schema, name)
        for name in shown:
            is_ours, is_safe = there.get(name, (True, False))
            if not is_ours and name in ONLY_IF_FREE:
                log = structlog.get_logger("milepost")
                hint = f"read {dsn.schema}.{name}; or rename what has its name, and restart"
                log.warning("view is not shown, its name is taken", view=f"{schema}.{name}", hint=hint)
                continue
            if not is_ours:
                raise StoreRefused(
                    f"{schema}.{name} in {dsn.name} is not Milepost's, and so cannot be shown as a view",
                    hint="rename it, or name another schema in store.views",
                )
            await _create(connection, dsn, name, is_new=not is_safe)


async def _create(connection: Connection, dsn: Dsn, name: str, *, is_new: bool) -> None:
    """Create or replace a view, as its table may have more columns by now; the grants of a safe one stay."""
    statement = sql.SQL("CREATE OR REPLACE VIEW {} WITH (security_invoker = true) AS SELECT * FROM {}").format(
        sql.Identifier(dsn.views, name), sql.Identifier(dsn.schema, name)
    )
    await connection.execute(statement)
    if is_new:
        await make_private(connection, dsn.views, name)


async def _drop(connection: Connection, schema: str, name: str) -> None:
    """Drop a view or, if others depend on it, close it to everybody who may not read the table."""
    view = sql.Identifier(schema, name)
    try:
        async with connection.transaction():
            await connection.execute(sql.SQL("DROP VIEW {}").format(view))
    except psycopg.errors.DependentObjectsStillExist:
        await connection.execute(sql.SQL("ALTER VIEW {} SET (security_invoker = true)").format(view))
        await make_private(connection, schema, name)
        log = structlog.get_logger("milepost")
        log.warning("view is no longer shown, but others depend on it", view=f"{schema}.{name}", hint="drop both")
