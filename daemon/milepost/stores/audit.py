"""Holds the projections of a SQLite journal against their fold, or makes them again from it, in constant memory."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.codec import Codec
from milepost.core.errors import JournalDamaged
from milepost.core.events import Entry
from milepost.core.project import Projected, RunOf, project
from milepost.stores import rows
from milepost.stores.database import transaction

Table = Literal["checkpoint", "run", "dead_letter"]
TABLES: tuple[Table, ...] = ("checkpoint", "run", "dead_letter")
MAX_ROWS_HELD = 1_000

Row = tuple[Any, ...]
"""A projected row; its first column is its key."""


class Audit(Struct, frozen=True):
    """What a verification or a rebuild went through."""

    entries: int
    streams: int
    runs: int
    dead_letters: int
    last_recorded_at: datetime | None


def verify(sql: dict[str, str], codec: Codec, connection: sqlite3.Connection) -> Audit:
    """Check every hash chain and compare every projected row. Raises JournalDamaged at the first difference."""

    def compare(table: Table, expected: list[Row]) -> None:
        found = connection.execute(sql[f"stored_{table}s"], (rows.json_list(row[0] for row in expected),))
        stored = {row[0]: row for row in found}
        for row in expected:
            if stored.get(row[0]) != row:
                raise _differs(f"the {table} {row[0]} is not what the journal says")

    connection.execute("BEGIN")  # one snapshot, while a daemon goes on writing
    try:
        audit = _audit(_entries(sql, codec, connection), compare)
        accounted: dict[Table, int] = {
            "checkpoint": audit.streams,
            "run": audit.runs,
            "dead_letter": audit.dead_letters,
        }
        for table in TABLES:
            (stored,) = connection.execute(sql[f"count_{table}s"]).fetchone()
            if stored != accounted[table]:
                raise _differs(f"{table}s holds {stored} rows, the journal accounts for {accounted[table]}")
        return audit
    finally:
        connection.execute("ROLLBACK")


def rebuild(sql: dict[str, str], codec: Codec, connection: sqlite3.Connection) -> Audit:
    """Drop all projected rows and make them again, in one transaction. Raises JournalDamaged, nothing changed."""

    def write(table: Table, projected: list[Row]) -> None:
        connection.executemany(sql[f"upsert_{table}"], projected)

    with transaction(connection):
        for table in TABLES:
            connection.execute(sql[f"clear_{table}s"])
        return _audit(_entries(sql, codec, connection), write)


def _entries(sql: dict[str, str], codec: Codec, connection: sqlite3.Connection) -> Iterator[Entry]:
    return (rows.entry(columns, codec) for columns in connection.execute(sql["journal"]))


def _differs(what: str) -> JournalDamaged:
    return JournalDamaged(what, hint="run `milepost journal rebuild`")


def _audit(entries: Iterator[Entry], take: Callable[[Table, list[Row]], None]) -> Audit:
    """Project the journal and hand all rows to `take`, a table's many at a time."""
    held: dict[Table, list[Row]] = {table: [] for table in TABLES}
    counts: Counter[Table] = Counter()
    read, last_recorded_at = 0, None

    def hand_over(table: Table) -> None:
        take(table, held[table])
        counts[table] += len(held[table])
        held[table].clear()

    for item in project(entries):
        if isinstance(item, Checkpoint):  # one at the end of each stream, whose entries are numbered without a gap
            read += item.version
            last_recorded_at = max(filter(None, (last_recorded_at, item.updated_at)), default=None)
        table, row = _row(item)
        held[table].append(row)
        if len(held[table]) == MAX_ROWS_HELD:
            hand_over(table)
    for table in TABLES:
        hand_over(table)
    return Audit(read, counts["checkpoint"], counts["run"], counts["dead_letter"], last_recorded_at)


def _row(item: Projected) -> tuple[Table, Row]:
    match item:
        case Checkpoint():
            return "checkpoint", rows.checkpoint_tuple(item)
        case RunOf(stream=stream, run=run):
            return "run", rows.run_tuple(stream, run)
        case DeadLetter():
            return "dead_letter", rows.dead_letter_tuple(item)
