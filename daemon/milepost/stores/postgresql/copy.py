"""PostgreSQL schemas as the two sides of a copy: see stores/copy.py."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import TupleRow

from milepost.core.errors import RowsRejected, StoreBusy, StoreRefused
from milepost.stores import audit
from milepost.stores.copy import CHUNK_ROWS, NUL, Row, Table, UnfinishedCopy, require_empty
from milepost.stores.postgresql.connection import NO_TIMEOUT, settings
from milepost.stores.postgresql.errors import REFUSALS, errors_of, reason_of
from milepost.stores.postgresql.liveness import hang_up, while_answering_a_thread
from milepost.stores.postgresql.migrate import demand_current, has_schema, migrate
from milepost.stores.postgresql.reader import ALIVE_SECONDS, PostgresqlLedger
from milepost.stores.reader import Audit, load_statements
from milepost.stores.url import StoreUrl

Connection = psycopg.Connection[TupleRow]


@contextmanager
def open_postgresql_source(store_url: StoreUrl) -> Iterator["PostgresqlCopySource"]:
    """Open the database, which no worker may be using. Raises StoreBusy, StoreRefused or StoreAway.

    Called in a thread without an event loop.
    """
    asyncio.run(demand_current(store_url))
    with _connect(store_url) as connection:
        connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
        source = PostgresqlCopySource(store_url, connection)
        source.require_idle()
        mark = source.mark()
        if mark is not None:
            raise mark.refusal(store_url.name)
        source.refresh()
        yield source


@contextmanager
def open_postgresql_target(store_url: StoreUrl) -> Iterator["PostgresqlCopyTarget"]:
    """Create the schema if there is none, and begin the one transaction that fills the database.

    Called in a thread without an event loop. Raises BadConfiguration, StoreBusy, StoreRefused or StoreAway.
    """
    is_made = asyncio.run(has_schema(store_url))
    with _connect(store_url) as connection:
        # Overrides the database's default: once the lock is held, everything that others committed must be visible.
        connection.isolation_level = IsolationLevel.READ_COMMITTED
        target = PostgresqlCopyTarget(store_url, connection)
        if target.may_be_migrated(is_made=is_made):
            asyncio.run(migrate(store_url))
        asyncio.run(demand_current(store_url))
        target.begin()
        yield target


@contextmanager
def _connect(store_url: StoreUrl) -> Iterator[Connection]:
    """Open a connection; at the end, anything uncommitted is rolled back."""
    with errors_of(store_url.name):
        connection = psycopg.connect(store_url.url, **store_url.connect_kwargs())
    with closing(connection), while_answering_a_thread(store_url, connection):
        yield connection


class _Side:
    """What both sides of a copy share. Their transaction lasts as long as the copy."""

    def __init__(self, store_url: StoreUrl, connection: Connection) -> None:
        self._name, self._schema = store_url.name, store_url.schema
        self._connection = connection
        self._sql = load_statements("postgresql", "statements", "queue", "copy")
        self._settings = settings(store_url.schema, NO_TIMEOUT)

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        with errors_of(self._name):
            return dict(self._connection.execute(self._sql["counts"]).fetchall())

    def read(self, table: Table) -> Iterator[Row]:
        """Yield the rows of a table in the order of its key."""
        with errors_of(self._name), self._connection.cursor(name=f"copy_{table.name}") as cursor:
            cursor.itersize = CHUNK_ROWS
            yield from cursor.execute(self._sql[f"read_{table.name}"])

    def require_idle(self) -> None:
        """Raise StoreBusy if a worker is alive."""
        with errors_of(self._name):
            self._begin()
            if self._ask("has_queue_schema") == (True,) and self._ask("workers_at_work", (ALIVE_SECONDS,)) != (0,):
                raise StoreBusy(
                    f"a Milepost is using the database {self._name}",
                    hint="stop it first, and leave it stopped until the copy is made",
                )

    def mark(self) -> UnfinishedCopy | None:
        """Return the mark of an unfinished copy into this database, if there is one."""
        found = self._ask("unfinished_copy")
        return UnfinishedCopy(*found) if found else None

    def interrupt(self) -> None:
        """Break the connection, so that a thread waiting for the server gets an error. Called from another thread."""
        hang_up(self._connection)

    def _begin(self) -> None:
        self._connection.execute(self._sql["settings"], self._settings)
        self._connection.execute(self._sql["begin_copy"])

    def _ask(self, statement: str, parameters: tuple[object, ...] = ()) -> TupleRow | None:
        return self._connection.execute(self._sql[statement], parameters).fetchone()


class PostgresqlCopySource(_Side):
    """A CopySource. Made by `open_postgresql_source`."""

    def refresh(self) -> None:
        """Replace the snapshot by a new one."""
        with errors_of(self._name):
            self._connection.rollback()
            self._begin()


class PostgresqlCopyTarget(_Side):
    """A CopyTarget. Made by `open_postgresql_target`."""

    def may_be_migrated(self, *, is_made: bool) -> bool:
        """Return whether the schema is new or empty. Raises StoreRefused if it belongs to another program."""
        with errors_of(self._name):
            self._begin()
            self._require_alone()
            if not is_made and self._ask("has_relations", (self._schema,)):
                what = f"the schema {self._schema} in {self._name} is not empty, and not Milepost's"
                raise StoreRefused(what, hint="copy into another schema or database")
            is_empty = not is_made or not self._ask("answers")
            self._connection.rollback()
            return is_empty

    def begin(self) -> None:
        """Hide the tables from everybody else and empty them. Raises StoreBusy or StoreRefused if they are in use."""
        self.require_idle()
        with errors_of(self._name):
            self._require_alone()
            self._connection.execute(self._sql["hide_target"])
            (forced,) = self._ask("forced") or (None,)
            if forced is not None:
                what = f"row-level security is forced on Milepost itself in {self._name}, which COPY refuses: {forced}"
                raise StoreRefused(what, hint="ALTER TABLE … NO FORCE ROW LEVEL SECURITY until the copy is done")
            if self.mark() is None:
                require_empty(self._name, (table for table, count in self.counts().items() if count))
            self._connection.execute(self._sql["empty_target"])

    def add(self, table: Table, rows: list[Row]) -> None:
        """Add rows, all or none. Raises RowsRejected if one is not accepted."""
        try:
            with (
                errors_of(self._name),
                self._connection.transaction(),  # a savepoint
                self._connection.cursor() as cursor,
                cursor.copy(self._sql[f"add_{table.name}"]) as copy,
            ):
                for row in rows:
                    copy.write_row(row)
        except REFUSALS as error:
            raise _rejected(error, rows) from None

    def rebuild(self) -> Audit:
        """Build the projections from the journal. Raises JournalDamaged."""
        with errors_of(self._name):
            return audit.rebuild(self._ledger())

    def verify(self) -> Audit:
        """Check every hash chain, and that every projection equals its fold. Raises JournalDamaged."""
        with errors_of(self._name):
            return audit.verify(self._ledger())

    def publish(self) -> None:
        """Commit."""
        with errors_of(self._name):
            self._ask("continue_numbers", self._ask("last_change") or ())
            self._connection.commit()

    def _require_alone(self) -> None:
        if self._ask("lock_target", (self._schema,)) != (True,):
            raise StoreBusy(f"another copy into {self._name} is under way", hint="wait until it ends")

    def _ledger(self) -> PostgresqlLedger:
        return PostgresqlLedger(self._sql, self._connection, self._schema)


def _rejected(error: Exception, rows: list[Row]) -> RowsRejected:
    if any(NUL in value for row in rows for value in row if isinstance(value, str)):
        what = "a text in it holds a NUL character, which PostgreSQL does not accept"
        return RowsRejected(what, hint="--replace-nul writes U+FFFD in its place")
    return RowsRejected(reason_of(error), hint="fix that row in the source, and run the copy again")
