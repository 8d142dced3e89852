"""Brings a PostgreSQL schema to this program's: forward only, each migration and its record in one transaction."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import structlog
from psycopg import sql
from psycopg.rows import TupleRow

from milepost.core.errors import StoreRefused
from milepost.stores.place import Place
from milepost.stores.postgresql.address import Address, address_of
from milepost.stores.postgresql.failures import errors_of
from milepost.stores.postgresql.rights import kept_private
from milepost.stores.postgresql.views import show_views

MIGRATIONS = Path(__file__).parents[2] / "migrations" / "postgresql"
OLDEST_MAJOR = 15

Connection = psycopg.AsyncConnection[TupleRow]

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s || ' migrations', 0))"
SETTINGS = "SELECT set_config('search_path', %s, true), set_config('lock_timeout', '60s', true)"
HAS_RECORD = "SELECT to_regclass(%s) IS NOT NULL"
RECORD = "SELECT to_regclass(%s) IS NOT NULL"
VIEW = """
SELECT
    to_regclass(%(view)s) IS NULL,
    (SELECT definition FROM pg_views WHERE schemaname = 'public' AND viewname = %(table)s)
"""
RECORD = """
CREATE TABLE IF NOT EXISTS schema_migrations (name text COLLATE "C" PRIMARY KEY, applied_at timestamptz(3) NOT NULL)
"""


@asynccontextmanager
async def _connection(address: Address) -> AsyncIterator[Connection]:
    with errors_of(address.name):
        async with await psycopg.AsyncConnection.connect(address.conninfo, **address.connect_kwargs()) as connection:
            # Whatever the default is: who waited for another one's migration has to see it.
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            yield connection


def shipped() -> set[str]:
    """Name the migrations that this program knows."""
    return {path.stem for path in MIGRATIONS.glob("*.sql")}


async def has_schema(place: Place) -> bool:
    """Whether there is a Milepost's schema. Raises StoreRefused or StoreAway where that cannot be told."""
    address = address_of(place)
    async with _connection(address) as connection:
        return bool(await _applied(connection, address))


async def demand_current(address: Address) -> None:
    """Raise StoreRefused unless there is a schema, and it is this program's."""
    async with _connection(address) as connection:
        applied = await _applied(connection, address)
    if not applied:
        raise StoreRefused(
            f"there is no schema {address.schema} of Milepost in {address.name}",
            hint="`milepost run` or `milepost sync` makes it",
        )
    if _pending(applied, address):
        raise StoreRefused(
            f"the schema {address.schema} in {address.name} is of an older Milepost",
            hint="`milepost run` or `milepost sync` brings it up to date",
        )


async def migrate(address: Address) -> set[str]:
    """Apply what is pending, in the order of the names, and name it. Who comes at the same time waits, and has it done.

    Raises StoreAway or StoreRefused; what had been applied before stays applied.
    """
    done: set[str] = set()
    async with _connection(address) as connection:
        await _demand_fit(connection, address)
        pending = _pending(await _applied(connection, address), address)
        await connection.commit()
        for name in sorted(pending):
            if await _apply(connection, address, name):
                done.add(name)
        async with connection.transaction():
            await connection.execute(LOCK, (address.schema,))
            await show_views(connection, address)
    if done:
        log = structlog.get_logger("milepost")
        log.info("database migrated", schema=address.schema, applied=", ".join(sorted(done)))
    return done


async def _demand_fit(connection: Connection, address: Address) -> None:
    """Raise StoreRefused for a server that is too old, or a database that cannot hold every text."""
    major = connection.info.server_version // 10_000
    if major < OLDEST_MAJOR:
        raise StoreRefused(
            f"the server of {address.name} is PostgreSQL {major}", hint=f"PostgreSQL {OLDEST_MAJOR} or newer is needed"
        )
    (encoding,) = await (await connection.execute("SHOW server_encoding")).fetchone() or ("",)
    if encoding != "UTF8":
        raise StoreRefused(
            f"the database {address.name} is encoded in {encoding}, which cannot hold what people write",
            hint="make one in UTF-8: createdb --encoding=UTF8 --template=template0",
        )


async def _apply(connection: Connection, address: Address, name: str) -> bool:
    """Apply one migration, unless somebody else has meanwhile."""
    script = (MIGRATIONS / f"{name}.sql").read_text(encoding="utf-8")
    async with connection.transaction():
        await connection.execute(LOCK, (address.schema,))
        async with kept_private(connection, address.schema):
            await _make_schema(connection, address)
            await connection.execute(SETTINGS, (address.schema,))
            await connection.execute(RECORD)
            found = await connection.execute("SELECT 1 FROM schema_migrations WHERE name = %s", (name,))
            if await found.fetchone() is not None:
                return False
            await connection.execute(script)
            await connection.execute("INSERT INTO schema_migrations VALUES (%s, now())", (name,))
    return True


async def _make_schema(connection: Connection, address: Address) -> None:
    found = await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (address.schema,))
    if await found.fetchone() is None:  # where it is there, no right to make one is needed
        await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(address.schema)))


async def _applied(connection: Connection, address: Address) -> set[str]:
    found = await connection.execute(HAS_RECORD, (f"{address.schema}.schema_migrations",))
    (has_record,) = await found.fetchone() or (False,)
    if not has_record:
        return set()
    table = sql.Identifier(address.schema, "schema_migrations")
    names = await connection.execute(sql.SQL("SELECT name FROM {}").format(table))
    return {name for (name,) in await names.fetchall()}


def _pending(applied: set[str], address: Address) -> set[str]:
    unknown = applied - shipped()
    if unknown:
        raise StoreRefused(
            f"the schema {address.schema} in {address.name} is newer than this Milepost:"
            f" it has had {', '.join(sorted(unknown))}",
            hint="run the newer version; migrations go forward only",
        )
    return shipped() - applied
