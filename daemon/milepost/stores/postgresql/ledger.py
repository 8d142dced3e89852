"""A PostgreSQL journal and its projections, for the audit: over a connection of its own, in a thread of its own."""

from collections.abc import Collection, Iterable, Iterator, Mapping

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import TupleRow

from milepost.core.events import Entry
from milepost.core.journal import Codec
from milepost.stores import audit, rows
from milepost.stores.audit import Audit, Row, Table
from milepost.stores.postgresql.connection import NO_TIMEOUT
from milepost.stores.postgresql.encoding import storable

ENTRIES_AT_ONCE = 2_000

Connection = psycopg.Connection[TupleRow]


class PostgresqlLedger:
    """A Ledger (see stores/audit.py). The caller begins the transaction and ends it."""

    def __init__(self, sql: Mapping[str, str], codec: Codec, connection: Connection) -> None:
        self._sql = sql
        self._codec = codec
        self._connection = connection

    def entries(self) -> Iterator[Entry]:
        """Give the whole journal, in the order of seq."""
        with self._connection.cursor(name="journal") as cursor:
            cursor.itersize = ENTRIES_AT_ONCE
            for columns in cursor.execute(self._sql["journal"]):
                yield rows.entry(columns, self._codec)

    def removals(self) -> dict[str, int]:
        """Return the version of each stream's latest removal."""
        return dict(self._connection.execute(self._sql["removals"]).fetchall())

    def shaped(self, row: Row) -> Row:
        """Give a row as it is kept: its texts without NUL."""
        return tuple(storable(value) if isinstance(value, str) else value for value in row)

    def stored(self, table: Table, keys: Collection[str]) -> Iterable[Row]:
        """Give the rows that a projection holds under these keys."""
        return self._connection.execute(self._sql[f"stored_{table}s"], (list(keys),)).fetchall()

    def count(self, table: Table) -> int:
        """Count the rows of a projection."""
        (count,) = self._connection.execute(self._sql[f"count_{table}s"]).fetchone() or (0,)
        return int(count)

    def clear(self, table: Table) -> None:
        """Drop the rows of a projection."""
        self._connection.execute(self._sql[f"clear_{table}s"])

    def write(self, table: Table, projected: list[Row]) -> None:
        """Write rows into a projection."""
        with self._connection.cursor() as cursor:
            cursor.executemany(self._sql[f"upsert_{table}"], projected)


def verify(sql: Mapping[str, str], codec: Codec, connection: Connection, schema: str) -> Audit:
    """Verify one moment of the journal, while workers go on writing. Raises JournalDamaged."""
    connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
    connection.execute(sql["settings"], {"schema": schema, "statement_timeout": NO_TIMEOUT})
    return audit.verify(PostgresqlLedger(sql, codec, connection))


def rebuild(sql: Mapping[str, str], codec: Codec, connection: Connection, schema: str) -> Audit:
    """Make the projections again, in one transaction; workers wait meanwhile. Raises JournalDamaged."""
    connection.execute(sql["settings"], {"schema": schema, "statement_timeout": NO_TIMEOUT})
    connection.execute(sql["lock_commits"])
    return audit.rebuild(PostgresqlLedger(sql, codec, connection))
