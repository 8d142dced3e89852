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

Table = Literal["checkpoint", "run", "dead_letter"]
TABLES: tuple[Table, ...] = ("checkpoint", "run", "dead_letter")
MAX_ROWS_HELD = 1_000


class Audit(Struct, frozen=True):
    """What a verification or a rebuild went through."""

    entries: int
    streams: int
    runs: int
    dead_letters: int
    last_recorded_at: datetime | None


def verify(sql: dict[str, str], codec: Codec, connection: sqlite3.Connection) -> Audit:
    """Check every hash chain and compare every projected row. Raises JournalDamaged at the first difference."""
    connection.execute("BEGIN")  # one snapshot, while a daemon goes on writing
    try:

        def compare(table: Table, expected: tuple[Any, ...]) -> None:
            stored = connection.execute(sql[f"stored_{table}"], expected[:1]).fetchone()
            if stored != expected:
                raise JournalDamaged(
                    f"the {table} {expected[0]} is not what the journal says", hint="run `milepost journal rebuild`"
                )

        audit, counts = _audit(_entries(sql, codec, connection), compare)
        for table in TABLES:
            (stored,) = connection.execute(sql[f"count_{table}s"]).fetchone()
            if stored != counts[table]:
                raise JournalDamaged(
                    f"{table}s holds {stored} rows, the journal accounts for {counts[table]}",
                    hint="run `milepost journal rebuild`",
                )
        return audit
    finally:
        connection.execute("ROLLBACK")


def rebuild(sql: dict[str, str], codec: Codec, connection: sqlite3.Connection) -> Audit:
    """Drop all projected rows and make them again, in one transaction. Raises JournalDamaged, nothing changed."""
    held: dict[Table, list[tuple[Any, ...]]] = {table: [] for table in TABLES}

    def flush(table: Table) -> None:
        connection.executemany(sql[f"upsert_{table}"], held[table])
        held[table].clear()

    def hold(table: Table, row: tuple[Any, ...]) -> None:
        held[table].append(row)
        if len(held[table]) >= MAX_ROWS_HELD:
            flush(table)

    connection.execute("BEGIN IMMEDIATE")
    try:
        for table in TABLES:
            connection.execute(sql[f"clear_{table}s"])
        audit, _ = _audit(_entries(sql, codec, connection), hold)
        for table in TABLES:
            flush(table)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return audit


def _entries(sql: dict[str, str], codec: Codec, connection: sqlite3.Connection) -> Iterator[Entry]:
    for columns in connection.execute(sql["journal"]):
        yield rows.entry(columns, codec)


def _audit(entries: Iterator[Entry], take: Callable[[Table, tuple[Any, ...]], None]) -> tuple[Audit, Counter[Table]]:
    """Project the journal and hand every row to `take`, table and columns."""
    counts: Counter[Table] = Counter()
    read, last_recorded_at = 0, None

    def counted() -> Iterator[Entry]:
        nonlocal read, last_recorded_at
        for entry in entries:
            yield entry
            read += 1
            last_recorded_at = entry.recorded_at

    for item in project(counted()):
        table, row = _row(item)
        take(table, row)
        counts[table] += 1
    return Audit(read, counts["checkpoint"], counts["run"], counts["dead_letter"], last_recorded_at), counts


def _row(item: Projected) -> tuple[Table, tuple[Any, ...]]:
    match item:
        case Checkpoint():
            return "checkpoint", rows.checkpoint_tuple(item)
        case RunOf(stream=stream, run=run):
            return "run", rows.run_tuple(stream, run)
        case DeadLetter():
            return "dead_letter", rows.dead_letter_tuple(item)
