"""Migrates a SQLite database to this program's schema: forward only, all pending migrations in one transaction.

With a transaction for each migration, the first start would wait for the disk several dozen times. A library was tried
first (yoyo 9): it applies a migration on one connection and records it on another, and leaves its lock behind when it
is killed, so the next start cannot repair one that was killed in between.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, nullcontext
from pathlib import Path

from milepost.core.errors import StoreRefused
from milepost.stores.copy import UnfinishedCopy
from milepost.stores.reader import load_statements
from milepost.stores.sqlite.connection import Database, connect, lock_database, real_path
from milepost.stores.sqlite.errors import errors_of, exists
from milepost.stores.sqlite.files import OpenFiles

MIGRATIONS = Path(__file__).parents[2] / "migrations" / "sqlite"

RECORD = """
CREATE TABLE IF NOT EXISTS schema_migrations (name TEXT PRIMARY KEY, applied_at TEXT NOT NULL) STRICT;
INSERT INTO schema_migrations VALUES ('{name}', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
"""


def shipped() -> set[str]:
    """Return the names of the migrations that this program knows."""
    return {path.stem for path in MIGRATIONS.glob("*.sql")}


def applied(path: Path) -> set[str]:
    """Return the names of the migrations applied to the database at `path`; none if there is no database yet."""
    if not exists(path):
        return set()
    with errors_of(path), closing(sqlite3.connect(path, timeout=5.0)) as connection:
        has_record = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchone()
        return {name for (name,) in connection.execute("SELECT name FROM schema_migrations")} if has_record else set()


def demand_own(path: Path) -> None:
    """Raise StoreRefused if the database at `path` is another program's: there are tables, but none of Milepost's.

    SQLite's own tables do not count, nor those that Litestream may add before the first start.
    """
    if not exists(path) or applied(path):
        return
    with errors_of(path), closing(sqlite3.connect(path, timeout=5.0)) as connection:
        found = connection.execute(
            "SELECT name FROM sqlite_master WHERE name NOT GLOB 'sqlite_*' AND name NOT GLOB '_litestream_*'"
        ).fetchone()
    if found:
        raise StoreRefused(
            f"the file {path} is the database of another program: it has {found[0]}", hint="set store.url to a new file"
        )


def pending(path: Path) -> set[str]:
    """Return the names of the pending migrations.

    Raises StoreRefused if the database is newer than this program, or another program's.
    """
    demand_own(path)
    has = applied(path)
    unknown = has - shipped()
    if unknown:
        raise StoreRefused(
            f"the database {path} is newer than this Milepost: its migrations include {', '.join(sorted(unknown))}",
            hint="run the newer version; migrations go forward only",
        )
    return shipped() - has


def mark_in(path: Path) -> UnfinishedCopy | None:
    """Return the mark of an unfinished copy into the database at `path`, if there is one."""
    if "0005_unfinished_copy" not in applied(path):
        return None
    with errors_of(path), closing(sqlite3.connect(path, timeout=5.0)) as connection:
        found = connection.execute("SELECT source, since FROM unfinished_copy").fetchone()
        return UnfinishedCopy(*found) if found else None


def demand_finished(path: Path) -> None:
    """Raise StoreRefused if a copy into the database at `path` is not finished."""
    mark = mark_in(path)
    if mark is not None:
        raise mark.refusal(path)


def demand_current(path: Path) -> None:
    """Raise StoreRefused unless the database at `path` exists, has this program's schema and is not half copied."""
    if not exists(path):
        raise StoreRefused(f"there is no database at {path}", hint="`milepost run` or `milepost sync` creates it")
    if pending(path):
        raise StoreRefused(
            f"the database {path} was made by an older Milepost",
            hint="`milepost run` or `milepost sync` brings it up to date",
        )
    demand_finished(path)


@asynccontextmanager
async def open_current(
    path: Path, *parts: str, pragmas: dict[str, str | int], is_alone: bool = False, timeout_seconds: float = 5.0
) -> AsyncIterator[Database]:
    """Open a database with this program's schema, and load the statements of these files besides the common ones.

    Raises as `demand_current` does, StoreAway if it does not answer, and StoreBusy if it `is_alone` and a daemon holds
    it.
    """
    path = real_path(path)
    await asyncio.to_thread(demand_current, path)
    sql = load_statements("sqlite", "statements", *parts)
    with lock_database(path) if is_alone else nullcontext() as lock:
        files = OpenFiles(path, lock)
        async with connect(path, sql, pragmas, files=files, timeout_seconds=timeout_seconds) as database:
            yield database


def migrate(path: Path) -> set[str]:
    """Apply the pending migrations in the order of their names, and return the names. The caller holds the lock.

    Raises StoreAway or StoreRefused; then nothing is applied.
    """
    names = pending(path)
    if names:
        scripts = "".join(map(_script, sorted(names)))
        with errors_of(path), closing(sqlite3.connect(path, isolation_level=None, timeout=5.0)) as connection:
            # One script from BEGIN to COMMIT. If it fails, closing the connection rolls it back.
            connection.executescript(f"BEGIN IMMEDIATE;{scripts}COMMIT;")
    return names


def _script(name: str) -> str:
    return (MIGRATIONS / f"{name}.sql").read_text(encoding="utf-8") + RECORD.format(name=name)
