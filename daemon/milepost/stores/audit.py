"""Folds a journal in constant memory, to compare its projections with the result or to rebuild them."""

import sqlite3
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Generic, Literal

import msgspec

from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.errors import JournalDamaged, MilepostError
from milepost.core.events import Entry
from milepost.core.journal import GapOf, Open, Projected, RunOf, project
from milepost.core.model import Stream
from milepost.stores import rows
from milepost.stores.reader import Audit, Parameters

Table = Literal["checkpoint", "run", "dead_letter", "gap"]
TABLES: tuple[Table, ...] = ("checkpoint", "run", "dead_letter", "gap")
MAX_ROWS_HELD = 1_000
TEMPORARY = "make room in the directory for temporary files, or name another in SQLITE_TMPDIR"

Row = tuple[Any, ...]
"""A projected row, as `rows` writes it; its first column is its key."""


class Ledger(ABC):
    """A journal and its projections, read in one transaction and so as of one moment."""

    @abstractmethod
    def ask(self, statement: str, parameters: Parameters = ()) -> Iterable[Any]:
        """Run a named statement and return its rows."""

    @abstractmethod
    def stored(self, table: Table, keys: Collection[str]) -> Iterable[Row]:
        """Return the rows of a projection with these keys."""

    @abstractmethod
    def write(self, table: Table, projected: list[Row]) -> None:
        """Write rows into a projection."""

    def entries(self) -> Iterator[Entry]:
        """Yield the whole journal, in the order of seq."""
        return (rows.entry(columns) for columns in self.ask("journal"))

    def removals(self) -> dict[Stream, int]:
        """Return the version of each stream's latest removal."""
        return {Stream.parse(stream): version for stream, version in self.ask("removals")}

    def shaped(self, row: Row) -> Row:
        """Return a projected row in the form in which this database stores it."""
        return row

    def count(self, table: Table) -> int:
        """Count the rows of a projection."""
        ((count,),) = self.ask(f"count_{table}s")
        return int(count)

    def clear(self, table: Table) -> None:
        """Delete the rows of a projection."""
        self.ask(f"clear_{table}s")


def verify(ledger: Ledger) -> Audit:
    """Check every hash chain and compare every projected row. Raises JournalDamaged at the first difference."""

    def compare(table: Table, expected: list[Row]) -> None:
        stored = {row[0]: row for row in ledger.stored(table, [row[0] for row in expected])}
        for row in expected:
            if stored.get(row[0]) != row:
                raise _differs(f"the {table} {row[0]} is not what the journal says")

    audit = _audit(ledger, compare)
    expected: dict[Table, int] = {
        "checkpoint": audit.streams,
        "run": audit.runs,
        "dead_letter": audit.dead_letters,
        "gap": audit.gaps,
    }
    for table in TABLES:
        stored = ledger.count(table)
        if stored != expected[table]:
            raise _differs(f"{table}s holds {stored} rows, the journal accounts for {expected[table]}")
    return audit


def rebuild(ledger: Ledger) -> Audit:
    """Delete all projected rows and write them again. Raises JournalDamaged: then the caller must roll back."""
    for table in TABLES:
        ledger.clear(table)
    return _audit(ledger, ledger.write)


def _differs(what: str) -> JournalDamaged:
    return JournalDamaged(what, hint="run `milepost journal rebuild`")


def _audit(ledger: Ledger, process: Callable[[Table, list[Row]], None]) -> Audit:
    """Project the journal and pass the rows of each table to `process` in batches."""
    held: dict[Table, list[Row]] = {table: [] for table in TABLES}
    counts: Counter[Table] = Counter()
    read, last_recorded_at = 0, None

    def flush(table: Table) -> None:
        process(table, held[table])
        counts[table] += len(held[table])
        held[table].clear()

    with closing(HeldOnDisk(DeadLetter)) as dead_letters, closing(HeldOnDisk(GapOf)) as gaps:
        for item in project(ledger.entries(), ledger.removals(), dead_letters, gaps):
            if isinstance(item, Checkpoint):  # one at the end of each stream; entries have no gaps
                read += item.version
                last_recorded_at = max(filter(None, (last_recorded_at, item.updated_at)), default=None)
            table, row = _row(item)
            held[table].append(ledger.shaped(row))
            if len(held[table]) == MAX_ROWS_HELD:
                flush(table)
    for table in TABLES:
        flush(table)
    return Audit(read, counts["checkpoint"], counts["run"], counts["dead_letter"], last_recorded_at, counts["gap"])


class HeldOnDisk(Generic[Open]):
    """What an audit has Held, in a temporary database; SQLite puts it on the disk once it is large.

    Raises MilepostError if its file cannot be written or read.
    """

    def __init__(self, kind: type[Open]) -> None:
        self._decoder: msgspec.json.Decoder[Open] = rows.decoder(kind)
        self.connection = sqlite3.connect("", isolation_level=None)
        self._ask("PRAGMA journal_mode = OFF")
        self._ask("CREATE TABLE held (key TEXT PRIMARY KEY, item BLOB) STRICT, WITHOUT ROWID")

    def get(self, key: str) -> Open | None:
        """Return what is held under an id."""
        found = self._ask("SELECT item FROM held WHERE key = ?", (key,)).fetchone()
        return None if found is None else self._decoder.decode(found[0])

    def __setitem__(self, key: str, item: Open) -> None:
        """Hold something, in place of an earlier state of it."""
        row = key, rows.encode(item)
        self._ask("INSERT INTO held VALUES (?, ?) ON CONFLICT DO UPDATE SET item = excluded.item", row)

    def pop(self, key: str, default: None) -> None:
        """Drop something, if it is held."""
        self._ask("DELETE FROM held WHERE key = ?", (key,))

    def values(self) -> Iterator[Open]:
        """Yield all that is held, in the order of the ids."""
        with _temporary_file_errors():
            for (item,) in self.connection.execute("SELECT item FROM held ORDER BY key"):
                yield self._decoder.decode(item)

    def close(self) -> None:
        """Delete them."""
        self.connection.close()

    def _ask(self, statement: str, parameters: tuple[str | bytes, ...] = ()) -> sqlite3.Cursor:
        with _temporary_file_errors():
            return self.connection.execute(statement, parameters)


@contextmanager
def _temporary_file_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise MilepostError(f"a temporary file cannot be used: {error}", hint=TEMPORARY) from error


def _row(item: Projected) -> tuple[Table, Row]:
    match item:
        case Checkpoint():
            return "checkpoint", rows.checkpoint_tuple(item)
        case RunOf(stream=stream, run=run):
            return "run", rows.run_tuple(stream, run)
        case DeadLetter():
            return "dead_letter", rows.dead_letter_tuple(item)
        case GapOf(stream=stream, gap=gap):
            return "gap", rows.gap_tuple(stream, gap)
