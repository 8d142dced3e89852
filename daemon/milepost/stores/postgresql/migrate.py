"""Migrates a PostgreSQL schema to this program's and, if wanted, shows its tables as views in another schema.

Forward only, each migration and its record in one transaction.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import structlog
from psycopg import sql

from milepost.core.errors import StoreRefused
from milepost.stores.postgresql.connection import Connection, Database, connected
from milepost.stores.postgresql.errors import errors_of
from milepost.stores.postgresql.liveness import while_answering
from milepost.stores.postgresql.rights import demand_all_rows, kept_private, make_private
from milepost.stores.reader import load_statements
from milepost.stores.url import StoreUrl

MIGRATIONS = Path(__file__).parents[2] / "migrations" / "postgresql"
OLDEST_MAJOR = 15

# Migrating a large table may take any time, and so may the wait for another program that does it, whatever timeout the
# role, the database or the server sets for statements, for locks, and since PostgreSQL 17 for transactions.
NO_BOUND = """
SELECT
    set_config('statement_timeout', '0', true),
    set_config('lock_timeout', '0', true),
    CASE WHEN current_setting('transaction_timeout', true) <> '' THEN set_config('transaction_timeout', '0', true) END
"""
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s || ' migrations', 0))"
SEARCH_PATH = "SELECT set_config('search_path', %s, true)"
LOCK_TIMEOUT = "SELECT set_config('lock_timeout', '60s', true)"
HAS_RECORD = "SELECT to_regclass(%s) IS NOT NULL"
RECORD = """
CREATE TABLE IF NOT EXISTS schema_migrations (name text COLLATE "C" PRIMARY KEY, applied_at timestamptz(3) NOT NULL)
"""


@asynccontextmanager
async def _connection(store_url: StoreUrl) -> AsyncIterator[Connection]:
    with errors_of(store_url.name):
        connection = await psycopg.AsyncConnection.connect(store_url.url, **store_url.connect_kwargs())
        async with while_answering(store_url, connection), connection:
            # Overrides the database's default: a program that waited for another one's migration must see it.
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            yield connection


def shipped() -> set[str]:
    """Return the names of the migrations that this program knows."""
    return {path.stem for path in MIGRATIONS.glob("*.sql")}


async def has_schema(store_url: StoreUrl) -> bool:
    """Return whether Milepost's schema exists. Raises StoreRefused or StoreAway if that cannot be determined."""
    async with _connection(store_url) as connection:
        return bool(await _applied(connection, store_url))


async def demand_current(store_url: StoreUrl) -> None:
    """Raise StoreRefused unless the schema exists and is of this program's version."""
    async with _connection(store_url) as connection:
        applied = await _applied(connection, store_url)
        await demand_all_rows(connection, store_url)
    if not applied:
        raise StoreRefused(
            f"there is no schema {store_url.schema} of Milepost in {store_url.name}",
            hint="`milepost run` or `milepost sync` creates it",
        )
    if _pending(applied, store_url):
        raise StoreRefused(
            f"the schema {store_url.schema} in {store_url.name} was made by an older Milepost",
            hint="`milepost run` or `milepost sync` brings it up to date",
        )


@asynccontextmanager
async def open_current(store_url: StoreUrl, *parts: str, max_connections: int | None = None) -> AsyncIterator[Database]:
    """Open a database with this program's schema, and load the statements of these files besides the common ones.

    Raises as `demand_current` does, and StoreRefused if a copy into it is unfinished.
    """
    await demand_current(store_url)
    statements = load_statements("postgresql", "statements", *parts)
    async with connected(store_url, statements, max_connections=max_connections) as database:
        await database.demand_finished()
        yield database


async def migrate(store_url: StoreUrl) -> set[str]:
    """Apply the pending migrations in the order of their names, and return the names. Others that start then wait.

    Raises StoreAway or StoreRefused; the migrations before the failed one stay applied.
    """
    done: set[str] = set()
    async with _connection(store_url) as connection:
        await _demand_fit(connection, store_url)
        pending = _pending(await _applied(connection, store_url), store_url)
        await connection.commit()
        for name in sorted(pending):
            if await _apply(connection, store_url, name):
                done.add(name)
        async with _alone(connection, store_url):
            await demand_all_rows(connection, store_url)
            await connection.execute(LOCK_TIMEOUT)
            await _show_views(connection, store_url)
    if done:
        log = structlog.get_logger("milepost")
        log.info("database migrated", schema=store_url.schema, applied=", ".join(sorted(done)))
    return done


async def _demand_fit(connection: Connection, store_url: StoreUrl) -> None:
    """Raise StoreRefused if the server is too old, or the database's encoding cannot hold every text."""
    major = connection.info.server_version // 10_000
    if major < OLDEST_MAJOR:
        raise StoreRefused(
            f"the server of {store_url.name} is PostgreSQL {major}",
            hint=f"PostgreSQL {OLDEST_MAJOR} or newer is needed",
        )
    (encoding,) = await (await connection.execute("SHOW server_encoding")).fetchone() or ("",)
    if encoding != "UTF8":
        raise StoreRefused(
            f"the database {store_url.name} is encoded in {encoding}, which cannot hold what people write",
            hint="create one in UTF-8: createdb --encoding=UTF8 --template=template0",
        )


async def _apply(connection: Connection, store_url: StoreUrl, name: str) -> bool:
    """Apply one migration unless another program has applied it meanwhile; return whether this one did."""
    script = (MIGRATIONS / f"{name}.sql").read_text(encoding="utf-8")
    async with _alone(connection, store_url), kept_private(connection, store_url.schema):
        await _make_schema(connection, store_url)
        await connection.execute(SEARCH_PATH, (store_url.schema,))
        await connection.execute(LOCK_TIMEOUT)
        await connection.execute(RECORD)
        found = await connection.execute("SELECT 1 FROM schema_migrations WHERE name = %s", (name,))
        if await found.fetchone() is not None:
            return False
        await connection.execute(script)
        await connection.execute("INSERT INTO schema_migrations VALUES (%s, now())", (name,))
    return True


@asynccontextmanager
async def _alone(connection: Connection, store_url: StoreUrl) -> AsyncIterator[None]:
    """Hold the lock for schema changes in a transaction during the block, without a time limit."""
    async with connection.transaction():
        await connection.execute(NO_BOUND)
        await connection.execute(LOCK, (store_url.schema,))
        yield


async def _make_schema(connection: Connection, store_url: StoreUrl) -> None:
    found = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (store_url.schema,))
    if await found.fetchone() is None:  # only then is the privilege to create one needed
        await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(store_url.schema)))


async def _applied(connection: Connection, store_url: StoreUrl) -> set[str]:
    found = await connection.execute(HAS_RECORD, (f"{store_url.schema}.schema_migrations",))
    (has_record,) = await found.fetchone() or (False,)
    if not has_record:
        return set()
    table = sql.Identifier(store_url.schema, "schema_migrations")
    names = await connection.execute(sql.SQL("SELECT name FROM {}").format(table))
    return {name for (name,) in await names.fetchall()}


def _pending(applied: set[str], store_url: StoreUrl) -> set[str]:
    unknown = applied - shipped()
    if unknown:
        raise StoreRefused(
            f"the schema {store_url.schema} in {store_url.name} is newer than this Milepost:"
            f" its migrations include {', '.join(sorted(unknown))}",
            hint="run the newer version; migrations go forward only",
        )
    return shipped() - applied


# --- views of the tables, only for those who may read the tables ------------------------------------------------------

# The catalog shows which views are ours: those that have one of our names and the table's owner, and that select all of
# the table's columns in their order, from no other table.

SHOWN = ("pages", "contacts", "conversations", "contact_interaction_events", "runs")
SHOWN_BEFORE = ("checkpoints", "dead_letters")  # earlier versions showed these, too
ONLY_IF_FREE = {"pages"}  # shown since 0.2: before that, an installation may have used the name for something else
DEFAULT_SCHEMA = "public"  # the only one in earlier versions

# Each relation with one of these names, whether it is our view, whether it checks the privileges of its reader, and
# whether it has as many columns as its table.
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
    'security_invoker=true' = ANY (coalesce(reloptions, '{}')),
    relnatts = (SELECT count(*) FROM pg_attribute WHERE attrelid = shown.oid AND attnum > 0 AND NOT attisdropped)
FROM pg_class CROSS JOIN LATERAL (SELECT to_regclass(format('%%I.%%I', %(schema)s::text, relname))::oid AS oid) AS shown
WHERE relnamespace = to_regnamespace(%(view_schema)s) AND relname = ANY (%(names)s)
"""


class _View(NamedTuple):
    is_ours: bool
    is_safe: bool
    is_whole: bool


NO_VIEW = _View(is_ours=True, is_safe=False, is_whole=False)


async def _show_views(connection: Connection, store_url: StoreUrl) -> None:
    """Create the views in the schema `store.views`, and drop our unwanted views there and in `public`.

    The caller begins the transaction and ends it. Raises StoreRefused if something else has the name of a view, except
    for names that earlier versions left free.
    """
    for schema in {store_url.views, DEFAULT_SCHEMA} - {"", store_url.schema}:
        parameters = {"schema": store_url.schema, "view_schema": schema, "names": [*SHOWN, *SHOWN_BEFORE]}
        found = await connection.execute(FOUND, parameters)
        there = {name: _View(*map(bool, columns)) for name, *columns in await found.fetchall()}
        shown = SHOWN if schema == store_url.views else ()
        for name, view in there.items():
            if view.is_ours and name not in shown:
                await _drop_view(connection, schema, name)
        for name in shown:
            view = there.get(name, NO_VIEW)
            if not view.is_ours and name in ONLY_IF_FREE:
                log = structlog.get_logger("milepost")
                hint = f"read {store_url.schema}.{name}; or rename what has its name, and restart"
                log.warning("view is not shown, its name is taken", view=f"{schema}.{name}", hint=hint)
                continue
            if not view.is_ours:
                raise StoreRefused(
                    f"{schema}.{name} in {store_url.name} is not Milepost's, and so cannot be shown as a view",
                    hint="rename it, or name another schema in store.views",
                )
            if not (view.is_safe and view.is_whole):  # otherwise a start would wait for those who read it
                await _create_view(connection, store_url, name, is_new=not view.is_safe)


async def _create_view(connection: Connection, store_url: StoreUrl, name: str, *, is_new: bool) -> None:
    """Create or replace a view, as its table may have new columns. The grants of a safe view stay."""
    statement = sql.SQL("CREATE OR REPLACE VIEW {} WITH (security_invoker = true) AS SELECT * FROM {}").format(
        sql.Identifier(store_url.views, name), sql.Identifier(store_url.schema, name)
    )
    await connection.execute(statement)
    if is_new:
        await make_private(connection, store_url.views, name)


async def _drop_view(connection: Connection, schema: str, name: str) -> None:
    """Drop a view or, if others depend on it, close it to those who may not read the table."""
    view = sql.Identifier(schema, name)
    try:
        async with connection.transaction():
            await connection.execute(sql.SQL("DROP VIEW {}").format(view))
    except psycopg.errors.DependentObjectsStillExist:
        await connection.execute(sql.SQL("ALTER VIEW {} SET (security_invoker = true)").format(view))
        await make_private(connection, schema, name)
        log = structlog.get_logger("milepost")
        log.warning("view is no longer shown, but others depend on it", view=f"{schema}.{name}", hint="drop both")
