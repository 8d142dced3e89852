"""Brings a SQLite database to this program's schema: forward only, each migration in a transaction of its own.

yoyo applies the files and keeps the record. Its lock is a row that a killed process leaves behind for ever, so it is
not used: whoever migrates holds the store's own lock, which dies with the process (see `exclusive`).
"""

import glob
import logging
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from milepost.core.errors import StoreRefused
from milepost.stores.database import errors_of

MIGRATIONS = Path(__file__).parent.parent / "migrations" / "sqlite"


def shipped() -> set[str]:
    """Name the migrations that this program knows."""
    return {path.stem for path in MIGRATIONS.glob("*.sql")}


def applied(path: Path) -> set[str]:
    """Name the migrations that the database at `path` has had; none where there is no database yet."""
    if not path.exists():
        return set()
    with errors_of(path):
        connection = sqlite3.connect(path, timeout=5.0)
        try:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE name = '_yoyo_migration'").fetchall()
            if not tables:
                return set()
            return {name for (name,) in connection.execute("SELECT migration_id FROM _yoyo_migration")}
        finally:
            connection.close()


def pending(path: Path) -> set[str]:
    """Name the migrations that the database lacks. Raises StoreRefused if it is newer than this program."""
    has = applied(path)
    unknown = has - shipped()
    if unknown:
        raise StoreRefused(
            f"the database {path} is newer than this Milepost: it has had {', '.join(sorted(unknown))}",
            hint="run the newer version; migrations go forward only",
        )
    return shipped() - has


def migrate(path: Path) -> set[str]:
    """Apply what is pending and name it. The caller holds the store's lock."""
    names = pending(path)
    if names:
        import yoyo  # noqa: PLC0415  (heavy, and needed at the first start and after upgrades only)

        # yoyo notes who migrates, and fails for a user without a name, as containers have.
        os.environ.setdefault("LOGNAME", f"uid {os.getuid()}")
        logging.getLogger("yoyo.migrations").setLevel(logging.WARNING)  # it tells of every statement
        with errors_of(path):
            backend = yoyo.get_backend(f"sqlite:///{quote(str(path.resolve()))}")
            try:
                backend.break_lock()  # of a start that was killed; that nobody else migrates, the store's lock says
                backend.apply_migrations(backend.to_apply(yoyo.read_migrations(glob.escape(str(MIGRATIONS)))))
            finally:
                backend.connection.close()
    return names
