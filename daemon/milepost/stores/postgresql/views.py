"""Views of the tables in `public`, for whoever may read the tables, and for nobody else.

A view of ours is told apart by the catalog: it has one of our names, belongs to whom the table belongs, and selects all
of its columns, in their order, from that table and from no other.
"""

import psycopg
import structlog
from psycopg import sql
from psycopg.rows import TupleRow

from milepost.core.errors import StoreRefused
from milepost.stores.postgresql.dsn import Dsn
from milepost.stores.postgresql.rights import make_private

Connection = psycopg.AsyncConnection[TupleRow]

SHOWN = ("contacts", "conversations", "contact_interaction_events", "runs")
SHOWN_BEFORE = ("checkpoints", "dead_letters")  # by earlier versions
PLACE = "public"

# What has such a name, whether it is ours, and whether it reads with the rights of whoever asks it.
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
WHERE relnamespace = to_regnamespace(%(place)s) AND relname = ANY (%(names)s)
"""


async def show_views(connection: Connection, dsn: Dsn) -> None:
    """Show the tables in `public` if the URL asks for it, and take away what is ours there and is not asked for.

    Belongs into a transaction. Raises StoreRefused where something else has such a name.
    """
    asked = {"schema": dsn.schema, "place": PLACE, "names": [*SHOWN, *SHOWN_BEFORE]}
    found = await connection.execute(FOUND, asked)
    there = {name: (bool(is_ours), bool(is_safe)) for name, is_ours, is_safe in await found.fetchall()}
    shown = SHOWN if dsn.has_views else ()
    for name, (is_ours, _) in there.items():
        if is_ours and name not in shown:
            await _take_away(connection, name)
    for name in shown:
        is_ours, is_safe = there.get(name, (True, False))
        if not is_ours:
            raise StoreRefused(
                f"{PLACE}.{name} in {dsn.name} is not Milepost's: views=public cannot make its view",
                hint="rename it, or leave `views` out of store.url",
            )
        await _show(connection, dsn, name, is_new=not is_safe)


async def _show(connection: Connection, dsn: Dsn, name: str, *, is_new: bool) -> None:
    """Make a view, or make it anew, as its table may have more columns by now; the grants of a safe one stay."""
    make = sql.SQL("CREATE OR REPLACE VIEW {} WITH (security_invoker = true) AS SELECT * FROM {}").format(
        sql.Identifier(PLACE, name), sql.Identifier(dsn.schema, name)
    )
    await connection.execute(make)
    if is_new:
        await make_private(connection, PLACE, name)


async def _take_away(connection: Connection, name: str) -> None:
    """Drop a view; where others are made of it, have it give nothing to anybody who may not read the table."""
    view = sql.Identifier(PLACE, name)
    try:
        async with connection.transaction():
            await connection.execute(sql.SQL("DROP VIEW {}").format(view))
    except psycopg.errors.DependentObjectsStillExist:
        await connection.execute(sql.SQL("ALTER VIEW {} SET (security_invoker = true)").format(view))
        await make_private(connection, PLACE, name)
        log = structlog.get_logger("milepost")
        log.warning("view is no longer shown, but others depend on it", view=f"{PLACE}.{name}", hint="drop both")
