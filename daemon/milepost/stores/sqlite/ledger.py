"""A SQLite journal and its projections, for the audit."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator

from milepost.core.events import Entry
from milepost.core.journal import Codec
from milepost.stores import audit, rows
from milepost.stores.audit import Audit, Row, Table
from milepost.stores.sqlite.connection import transaction


class SqliteLedger:
    """A Ledger (see stores/audit.py). The caller begins the transaction and ends it."""

    def __init__(self, sql: dict[str, str], codec: Codec, connection: sqlite3.Connection) -> None:
        self._sql = sql
        self._codec = codec
        self._connection = connection

    def entries(self) -> Iterator[Entry]:
        """Give the whole journal, in the order of seq."""
        return (rows.entry(columns, self._codec) for columns in self._connection.execute(self._sql["journal"]))

    def removals(self) -> dict[str, int]:
        """Return the version of each stream's latest removal."""
        return dict(self._connection.execute(self._sql["removals"]).fetchall())

    def shaped(self, row: Row) -> Row:
        """Give a row as it is kept."""
        return row

    def stored(self, table: Table, keys: Collection[str]) -> Iterable[Row]:
        """Give the rows that a projection holds under these keys."""
        return self._connection.execute(self._sql[f"stored_{table}s"], (rows.json_list(keys),))

    def count(self, table: Table) -> int:
        """Count the rows of a projection."""
        (count,) = self._connection.execute(self._sql[f"count_{table}s"]).fetchone()
        return int(count)

    def clear(self, table: Table) -> None:
        """Drop the rows of a projection."""
        self._connection.execute(self._sql[f"clear_{table}s"])

    def write(self, table: Table, projected: list[Row]) -> None:
        """Write rows into a projection."""
        self._connection.executemany(self._sql[f"upsert_{table}"], projected)


def verify(sql: dict[str, str], codec: Codec, connection: sqlite3.Connection) -> Audit:
    """Verify one moment of the journal, while a daemon goes on writing. Raises JournalDamaged."""
    connection.execute("BEGIN")
    try:
        return audit.verify(SqliteLedger(sql, codec, connection))
    finally:
        connection.execute("ROLLBACK")


def rebuild(sql: dict[str, str], codec: Codec, connection: sqlite3.Connection) -> Audit:
    """Make the projections again, in one transaction. Raises JournalDamaged, nothing changed."""
    with transaction(connection):
        return audit.rebuild(SqliteLedger(sql, codec, connection))
