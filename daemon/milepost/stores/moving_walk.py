"""The walk over two databases that makes one equal to the other, a table at a time, and the one that proves it."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum

from msgspec import Struct

from milepost.core.errors import MilepostError, RowsRejected, StoreRefused
from milepost.stores.audit import Audit
from milepost.stores.moving import (
    FORGOTTEN,
    JOURNAL,
    SOURCE,
    TABLES,
    Difference,
    Key,
    Origin,
    Row,
    Table,
    Target,
    difference,
)

CHUNK_ROWS = 1_000
NEW_ONE = "copy into a new database, or drop that one"


class Doing(StrEnum):
    """What is done with a table, in words."""

    COPYING = "copying"
    PROJECTING = "making the projections of"
    CHECKING = "checking"
    VERIFYING = "checking the hash chains of"


class Step(Struct, frozen=True):
    """How far it is with a table. `written` are the rows that were added or removed."""

    doing: Doing
    table: str
    rows: int
    of: int
    written: int
    is_done: bool


Tell = Callable[[Step], None]
Shape = Callable[[Row], Row]


class Copied(Struct, frozen=True):
    """A table that is the same in both: its rows, and how many of them had to be written."""

    table: str
    rows: int
    written: int


class Passage(Struct, frozen=True):
    """The two databases of a copy, who hears how it comes along, and how a row of a person's texts is put there."""

    origin: Origin
    target: Target
    tell: Tell
    shape: Shape
    limit: int = CHUNK_ROWS

    async def compare(self, table: Table, after: Key) -> Difference:
        """Compare the stretch that follows a key."""
        async with asyncio.TaskGroup() as both:
            wanted = both.create_task(self.origin.read(table, after, self.limit))
            found = both.create_task(self.target.read(table, after, self.limit))
        shaped = wanted.result() if table.only_grows else list(map(self.shape, wanted.result()))
        return difference(table, shaped, found.result(), self.limit)


async def demand_common_past(passage: Passage) -> None:
    """Raise StoreRefused if the target holds what its origin does not, other than as the rest of an earlier copy."""
    for table in (JOURNAL, FORGOTTEN):
        await _demand_beginning(passage, table)
    if await passage.target.count(JOURNAL) == 0:
        for table in TABLES:  # a source alone is no past: whoever opened the target for work left it there
            if table is not SOURCE and await passage.target.count(table) != 0:
                raise _has_own_past(f"it has rows in {table.name}, and no journal")


async def _demand_beginning(passage: Passage, table: Table) -> None:
    after: Key | None = table.beginning
    while after is not None and await passage.target.read(table, after, 1):
        compared = await passage.compare(table, after)
        _demand_nothing_goes(table, compared)
        after = compared.upto


def _demand_nothing_goes(table: Table, compared: Difference) -> None:
    if table.only_grows and compared.gone:
        hint = "forget them in the database that is copied, too" if table is FORGOTTEN else NEW_ONE
        raise _has_own_past(f"{table.named(compared.gone[0])} is not the same in the database that is copied", hint)


def _has_own_past(how: str, hint: str = NEW_ONE) -> StoreRefused:
    return StoreRefused(f"the target has a past of its own: {how}", hint=hint)


async def copy(passage: Passage, table: Table) -> Copied:
    """Make a table of the target equal to the origin's. Raises MilepostError for a row that it will not take."""
    rows, written, of = 0, 0, await passage.origin.count(table)
    after: Key | None = table.beginning
    while after is not None:
        compared = await passage.compare(table, after)
        _demand_nothing_goes(table, compared)
        differing = compared.keys(table)
        if differing:
            await _write(passage.target, table, compared)
        rows, written = rows + compared.rows, written + len(differing)
        after = compared.upto
        passage.tell(Step(Doing.COPYING, table.name, rows, of, written, after is None))
    return Copied(table.name, rows, written)


async def _write(target: Target, table: Table, what: Difference) -> None:
    """Write a difference; where a row is refused, the halves of it, until that row is found."""
    try:
        await target.write(table, what.gone, what.new)
    except RowsRejected as refused:
        keys = what.keys(table)
        if len(keys) == 1:
            row = table.named(keys[0])
            raise MilepostError(f"the target does not take {row}: {refused.message}", hint=refused.hint) from refused
        for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
            await _write(target, table, what.only(table, set(half)))


async def check(passage: Passage, table: Table) -> None:
    """Raise MilepostError at the first row that is not the same in both."""
    rows, of = 0, await passage.origin.count(table)
    after: Key | None = table.beginning
    while after is not None:
        compared = await passage.compare(table, after)
        differing = compared.keys(table)
        if differing:
            raise _differs(f"{table.named(differing[0])} is not the same in both")
        rows += compared.rows
        after = compared.upto
        passage.tell(Step(Doing.CHECKING, table.name, rows, of, 0, after is None))
    counts = (rows, await passage.origin.count(table), await passage.target.count(table))
    if len(set(counts)) != 1:
        raise _differs(f"{table.name} has {counts[1]} rows, its copy {counts[2]}, of which {counts[0]} were compared")


async def audited(passage: Passage, doing: Doing, audit: Callable[[], Awaitable[Audit]]) -> Audit:
    """Let an audit of the target's journal be made, which takes long and tells nothing meanwhile."""
    entries = await passage.origin.count(JOURNAL)
    passage.tell(Step(doing, JOURNAL.name, 0, entries, 0, is_done=False))
    done = await audit()
    passage.tell(Step(doing, JOURNAL.name, done.entries, entries, 0, is_done=True))
    return done


def _differs(how: str) -> MilepostError:
    hint = "somebody has written into one of them, or the target keeps it otherwise: run it again, which tells"
    return MilepostError(f"the copy is not verified: {how}", hint=hint)
