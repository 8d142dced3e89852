"""Copies a database into an empty one, of either kind, and proves that the two are equal.

The source is read as of one moment. The target gets everything or nothing: PostgreSQL is filled in one transaction,
and a SQLite file gets its name once it is verified. An interrupted copy leaves nothing behind and starts over.
Projections are rebuilt from the journal, not copied.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from enum import StrEnum
from itertools import islice, zip_longest
from typing import Any, Protocol

from msgspec import Struct

from milepost.core.errors import BadConfiguration, JournalDamaged, MilepostError, RowsRejected, StoreBusy, StoreRefused
from milepost.stores.reader import Audit
from milepost.stores.url import StoreUrl

CHUNK_ROWS = 1_000
NUL, REPLACEMENT = "\0", "\N{REPLACEMENT CHARACTER}"

Row = tuple[Any, ...]
"""A row as `stores.rows` writes it: instants are text. Its first columns are its key."""


class Table(Struct, frozen=True):
    """A table to copy. `key` names its first columns. The texts of a `verbatim` table are never changed."""

    name: str
    key: tuple[str, ...]
    is_verbatim: bool = False

    def describe(self, row: Row) -> str:
        """Return the name of a row for messages: its key, which holds no personal data."""
        named = (f"{column} {value!r}" for column, value in zip(self.key, row, strict=False))
        return f"{self.name} {', '.join(named)}"


JOURNAL = Table("journal", ("seq",), is_verbatim=True)
SOURCE = Table("source", ("place",))
# Both databases return the rows of a table in the order of its key, compared by its UTF-8 bytes.
TABLES = (
    Table("forgotten", ("platform", "page_id", "kind", "id"), is_verbatim=True),
    JOURNAL,
    Table("pages", ("platform", "page_id")),
    Table("contacts", ("platform", "page_id", "contact_id")),
    Table("conversations", ("conversation_id",)),
    Table("contact_interaction_events", ("event_id",)),
    Table("deleted_rows", ("change_seq",), is_verbatim=True),
    Table("dead_letter_payloads", ("dead_letter_id",)),
    Table("missed_conversations", ("stream", "conversation_id")),
    Table("page_moves", ("platform", "previous_page_id", "page_id"), is_verbatim=True),
    Table("webhook_events", ("event_key",), is_verbatim=True),
    Table("deliveries", ("destination",), is_verbatim=True),
    SOURCE,
)


class CopySide(Protocol):
    """One of the two databases. Methods raise StoreAway and StoreRefused as those of a Store do."""

    def read(self, table: Table) -> Iterator[Row]:
        """Yield the rows of a table in the order of its key."""
        ...

    def interrupt(self) -> None:
        """Make the operation under way fail soon. Called from another thread."""
        ...


class CopySource(CopySide, Protocol):
    """The database to copy, as of one moment."""

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        ...

    def refresh(self) -> None:
        """Replace the snapshot by a new one."""
        ...


class CopyTarget(CopySide, Protocol):
    """An empty database. Nobody else sees what is written before `publish`; without it, everything is discarded."""

    def add(self, table: Table, rows: list[Row]) -> None:
        """Add rows, all or none. Raises RowsRejected if one is not accepted."""
        ...

    def rebuild(self) -> Audit:
        """Make the projections from the journal. Raises JournalDamaged."""
        ...

    def verify(self) -> Audit:
        """Check every hash chain, and that every projection equals its fold. Raises JournalDamaged."""
        ...

    def publish(self) -> None:
        """Make everything that was written durable and visible to others."""
        ...


class CopyJob(Struct, frozen=True):
    """What to copy where. With `replaces_nul`, U+FFFD replaces each NUL character in texts that people wrote."""

    source: StoreUrl
    target: StoreUrl
    replaces_nul: bool = False


class CopyResult(Struct, frozen=True):
    """A verified copy: the rows of each table, and the audit of its journal."""

    rows: dict[str, int]
    audit: Audit


class Phase(StrEnum):
    """What is being done with a table, in words."""

    COPYING = "copying"
    REBUILDING = "rebuilding the projections of"
    VERIFYING = "checking the hash chains of"
    COMPARING = "comparing"


class Progress(Struct, frozen=True):
    """How many rows of a table are done."""

    phase: Phase
    table: str
    rows: int
    total: int
    is_done: bool


Opening = AbstractContextManager
Report = Callable[[Progress], None]
"""Receives progress in the thread that copies. An exception that it raises ends the copy."""


async def copy_between(
    job: CopyJob, source: Opening[CopySource], target: Opening[CopyTarget], report: Report
) -> CopyResult:
    """Copy between databases that are opened and closed in the thread that copies. Raises as `copy_store` does."""
    _require_two(job)
    copying = _Copying(job, source, target, report)
    task = asyncio.create_task(asyncio.to_thread(copying.run))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        copying.cancel()
        await asyncio.wait([task])
        if task.exception() is None:  # too late: the copy is complete
            return task.result()
        raise


def _require_two(job: CopyJob) -> None:
    source, target = job.source.file, job.target.file
    is_same = (job.source.url, job.source.schema) == (job.target.url, job.target.schema)
    if is_same or (source and target and source.resolve() == target.resolve()):
        raise BadConfiguration(f"{job.target} is the database to be copied", hint="copy it into another one")


class _Copying:
    """One copy, in a thread of its own."""

    def __init__(self, job: CopyJob, source: Opening[CopySource], target: Opening[CopyTarget], report: Report) -> None:
        self._job = job
        self._source = source
        self._target = target
        self._report = report
        self._is_cancelled = threading.Event()
        self._databases: list[CopySide] = []

    def cancel(self) -> None:
        """End the copy soon. Called from another thread."""
        self._is_cancelled.set()
        for database in self._databases:
            database.interrupt()

    def run(self) -> CopyResult:
        """Copy, compare, and only then publish."""
        with ExitStack() as stack:
            source = stack.enter_context(self._source)
            self._databases.append(source)
            target = stack.enter_context(self._target)
            self._databases.append(target)
            counts = source.counts()
            for table in TABLES:
                self._copy(source, target, table, counts[table.name])
            audit = self._audit(target, counts[JOURNAL.name])
            for table in TABLES:
                self._compare(source, target, table, counts[table.name])
            source.refresh()
            if source.counts() != counts:
                raise StoreBusy(f"{self._job.source} was changed while it was copied", hint=_STOP_AND_REPEAT)
            target.publish()
        return CopyResult(counts, audit)

    def _copy(self, source: CopySource, target: CopyTarget, table: Table, total: int) -> None:
        copied, rows = 0, self._read(source, table)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            _add(target, table, chunk)
            copied += len(chunk)
            self._tick(Progress(Phase.COPYING, table.name, copied, total, is_done=False))
        self._tick(Progress(Phase.COPYING, table.name, copied, total, is_done=True))

    def _audit(self, target: CopyTarget, total: int) -> Audit:
        """Rebuild the projections of the copy and verify it."""

        def run(phase: Phase, step: Callable[[], Audit]) -> Audit:
            self._tick(Progress(phase, JOURNAL.name, 0, total, is_done=False))
            audit = step()
            self._tick(Progress(phase, JOURNAL.name, audit.entries, total, is_done=True))
            return audit

        try:
            run(Phase.REBUILDING, target.rebuild)
            return run(Phase.VERIFYING, target.verify)
        except JournalDamaged as error:
            raise MilepostError(
                f"the copy is not sound: {error.message}", hint="check the source with `milepost journal verify`"
            ) from error

    def _compare(self, source: CopySource, target: CopyTarget, table: Table, total: int) -> None:
        """Raise MilepostError at the first row that differs."""
        compared = 0
        for compared, (wanted, found) in enumerate(zip_longest(self._read(source, table), target.read(table)), start=1):
            if wanted != found:
                row = table.describe(wanted or found)
                raise MilepostError(f"the copy is not verified: {row} differs", hint="the target stores it differently")
            if compared % CHUNK_ROWS == 0:
                self._tick(Progress(Phase.COMPARING, table.name, compared, total, is_done=False))
        self._tick(Progress(Phase.COMPARING, table.name, compared, total, is_done=True))

    def _read(self, source: CopySource, table: Table) -> Iterator[Row]:
        """Yield the source's rows, with NUL replaced where the job says so."""
        rows = source.read(table)
        return map(_without_nul, rows) if self._job.replaces_nul and not table.is_verbatim else rows

    def _tick(self, progress: Progress) -> None:
        if self._is_cancelled.is_set():
            raise MilepostError("the copy was cancelled")
        self._report(progress)


_STOP_AND_REPEAT = "stop whatever writes to it, and run the copy again"


def _add(target: CopyTarget, table: Table, rows: list[Row]) -> None:
    """Add rows; if they are rejected, find the one at fault."""
    try:
        target.add(table, rows)
    except RowsRejected:
        for row in rows:
            try:
                target.add(table, [row])
            except RowsRejected as rejected:
                what = f"the target does not accept {table.describe(row)}: {rejected.message}"
                raise MilepostError(what, hint=rejected.hint) from rejected
        raise


def _without_nul(row: Row) -> Row:
    return tuple(value.replace(NUL, REPLACEMENT) if isinstance(value, str) else value for value in row)


class UnfinishedCopy(Struct, frozen=True):
    """The mark that an earlier Milepost left in a target: the source's URL, and since when, as text."""

    source: str
    since: str

    def refusal(self, name: object) -> StoreRefused:
        """Return the error that refuses to open the database of that name."""
        return StoreRefused(
            f"the database {name} is incomplete: a copy of {self.source} into it, begun at {self.since}, was cut off",
            hint="run `milepost store copy` into it again, which starts over; or drop this database",
        )


def require_empty(name: object, tables_with_rows: Iterable[str]) -> None:
    """Raise StoreRefused unless the target is empty, apart from the source that any start records."""
    held = [table for table in tables_with_rows if table != SOURCE.name]
    if held:
        raise StoreRefused(
            f"the target {name} is not empty: it has rows in {', '.join(held)}",
            hint="copy into a new database, or drop that one first",
        )
