"""Migrates a PostgreSQL schema to this program's: forward only, each migration and its record in one transaction."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import structlog
from psycopg import sql

from milepost.core.errors import StoreRefused
from milepost.stores.postgresql.connection import Connection
from milepost.stores.postgresql.dsn import Dsn, dsn_of
from milepost.stores.postgresql.errors import errors_of
from milepost.stores.postgresql.liveness import while_answering
from milepost.stores.postgresql.rights import demand_all_rows, kept_private
from milepost.stores.postgresql.views import show_views
from milepost.stores.url import StoreUrl

MIGRATIONS = Path(__file__).parents[2] / "migrations" / "postgresql"
OLDEST_MAJOR = 15

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s || ' migrations', 0))"
SETTINGS = "SELECT set_config('search_path', %s, true), set_config('lock_timeout', '60s', true)"
HAS_RECORD = "SELECT to_regclass(%s) IS NOT NULL"
RECORD = """
CREATE TABLE IF NOT EXISTS schema_migrations (name text COLLATE "C" PRIMARY KEY, applied_at timestamptz(3) NOT NULL)
"""


@asynccontextmanager
async def _connection(dsn: Dsn) -> AsyncIterator[Connection]:
    with errors_of(dsn.name):
        connection = await psycopg.AsyncConnection.connect(dsn.conninfo, **dsn.connect_kwargs())
        async with while_answering(dsn, connection), connection:
            # Whatever the default is: whoever waited for another one's migration must see it.
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            yield connection


def shipped() -> set[str]:
    """Return the names of the migrations that this program knows."""
    return {path.stem for path in MIGRATIONS.glob("*.sql")}


async def has_schema(store_url: StoreUrl) -> bool:
    """Return whether there is a schema of Milepost. Raises StoreRefused or StoreAway if that cannot be determined."""
    dsn = dsn_of(store_url)
    async with _connection(dsn) as connection:
        return bool(await _applied(connection, dsn))


async def demand_current(dsn: Dsn) -> None:
    """Raise StoreRefused unless there is a schema, and it is this program's."""
    async with _connection(dsn) as connection:
        applied = await _applied(connection, dsn)
        await demand_all_rows(connection, dsn)
    if not applied:
        raise StoreRefused(
            f"there is no schema {dsn.schema} of Milepost in {dsn.name}",
            hint="`milepost run` or `milepost sync` creates it",
        )
    if _pending(applied, dsn):
        raise StoreRefused(
            f"the schema {dsn.schema} in {dsn.name} is of an older Milepost",
            hint="`milepost run` or `milepost sync` brings it up to date",
        )


async def migrate(dsn: Dsn) -> set[str]:
    """Apply what is pending, in the order of the names, and return the names. Whoever starts at the same time waits.

    Raises StoreAway or StoreRefused; what had been applied before stays applied.
    """
    done: set[str] = set()
    async with _connection(dsn) as connection:
        await _demand_fit(connection, dsn)
        pending = _pending(await _applied(connection, dsn), dsn)
        await connection.commit()
        for name in sorted(pending):
            if await _apply(connection, dsn, name):
                done.add(name)
        async with connection.transaction():
            await connection.execute(LOCK, (dsn.schema,))
            await demand_all_rows(connection, dsn)
            await show_views(connection, dsn)
    if done:
        log = structlog.get_logger("milepost")
        log.info("database migrated", schema=dsn.schema, applied=", ".join(sorted(done)))
    return done


async def _demand_fit(connection: Connection, dsn: Dsn) -> None:
    """Raise StoreRefused for a server that is too old, or a database that cannot hold every text."""
    major = connection.info.server_version // 10_000
    if major < OLDEST_MAJOR:
        raise StoreRefused(
            f"the server of {dsn.name} is PostgreSQL {major}", hint=f"PostgreSQL {OLDEST_MAJOR} or newer is needed"
        )
    (encoding,) = await (await connection.execute("SHOW server_encoding")).fetchone() or ("",)
    if encoding != "UTF8":
        raise StoreRefused(
            f"the database {dsn.name} is encoded in {encoding}, which cannot hold what people write",
            hint="create one in UTF-8: createdb --encoding=UTF8 --template=template0",
        )


async def _apply(connection: Connection, dsn: Dsn, name: str) -> bool:
    """Apply one migration, unless somebody else has meanwhile; return whether it was applied."""
    script = (MIGRATIONS / f"{name}.sql").read_text(encoding="utf-8")
    async with connection.transaction():
        await connection.execute(LOCK, (dsn.schema,))
        async with kept_private(connection, dsn.schema):
            await _make_schema(connection, dsn)
            await connection.execute(SETTINGS, (dsn.schema,))
            await connection.execute(RECORD)
            found = await connection.execute("SELECT 1 FROM schema_migrations WHERE name = %s", (name,))
            if await found.fetchone() is not None:
                return False
            await connection.execute(script)
            await connection.execute("INSERT INTO schema_migrations VALUES (%s, now())", (name,))
    return True


async def _make_schema(connection: Connection, dsn: Dsn) -> None:
    found = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (dsn.schema,))
    if await found.fetchone() is None:  # if it exists, no privilege to create one is needed
        await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(dsn.schema)))


async def _applied(connection: Connection, dsn: Dsn) -> set[str]:
    found = await connection.execute(HAS_RECORD, (f"{dsn.schema}.schema_migrations",))
    (has_record,) = await found.fetchone() or (False,)
    if not has_record:
        return set()
    table = sql.Identifier(dsn.schema, "schema_migrations")
    names = await connection.execute(sql.SQL("SELECT name FROM {}").format(table))
    return {name for (name,) in await names.fetchall()}


def _pending(applied: set[str], dsn: Dsn) -> set[str]:
    unknown = applied - shipped()
    if unknown:
        raise StoreRefused(
            f"the schema {dsn.schema} in {dsn.name} is newer than this Milepost:"
            f" its migrations include {', '.join(sorted(unknown))}",
            hint="run the newer version; migrations go forward only",
        )
    return shipped() - applied
