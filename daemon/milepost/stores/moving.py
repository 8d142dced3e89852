"""Moving house: makes one database equal to another, chunk by chunk in the order of the keys, and proves that it is.

No place is kept: a chunk of both is read and compared, and what differs is written. So a copy that was cut off goes
fast through what is there, and what has changed in between is found. The journal and the list of the forgotten only
grow: a target that holds of them what its origin does not has a past of its own, and is let alone. The projections are
made again from the journal, not copied.
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from milepost.stores.reader import JournalReader
from milepost.stores.unfinished import Mark

Row = tuple[Any, ...]
"""A row as `rows` writes it: instants are text. Its first columns are its key."""
Key = tuple[Any, ...]


class Table(Struct, frozen=True):
    """A table that is copied. `key` are the columns of its key, which are its first; `only_grows` is never taken from.

    No key is empty: all that are text come after an empty one.
    """

    name: str
    key: tuple[str, ...]
    only_grows: bool = False
    is_numbered: bool = False

    @property
    def beginning(self) -> Key:
        """What comes before every key."""
        return (0,) if self.is_numbered else ("",) * len(self.key)

    def key_of(self, row: Row) -> Key:
        """Give the key of a row. Both databases, and Python, have them in the same order: that of their UTF-8 bytes."""
        return row[: len(self.key)]

    def named(self, key: Key) -> str:
        """Name a row for people."""
        return f"{self.name} " + ", ".join(f"{name} {value!r}" for name, value in zip(self.key, key, strict=True))


FORGOTTEN = Table("forgotten", ("platform", "page_id", "kind", "id"), only_grows=True)
JOURNAL = Table("journal", ("seq",), only_grows=True, is_numbered=True)
SOURCE = Table("source", ("place",), is_numbered=True)
# Who is forgotten comes first; the journal before the rows, so that what holds rows has a journal that says whose.
TABLES = (
    FORGOTTEN,
    JOURNAL,
    Table("contacts", ("platform", "page_id", "contact_id")),
    Table("conversations", ("conversation_id",)),
    Table("contact_interaction_events", ("event_id",)),
    Table("dead_letter_payloads", ("dead_letter_id",)),
    Table("missed_conversations", ("stream", "conversation_id")),
    SOURCE,
)


class Origin(Protocol):
    """The database that is copied. Its methods raise StoreAway and StoreRefused as a Store's do."""

    async def read(self, table: Table, after: Key, limit: int) -> list[Row]:
        """Give up to `limit` rows whose keys follow `after`, in the order of their keys."""
        ...

    async def count(self, table: Table) -> int:
        """Count the rows of a table."""
        ...

    async def mark(self) -> Mark | None:
        """Give the mark of an unfinished copy into this database."""
        ...

    async def is_at_work(self) -> bool:
        """Whether a Milepost works on it, though it should not."""
        ...


class Target(Origin, Protocol):
    """The database that becomes equal. Nobody else opens it while it is marked."""

    @property
    def journal_reader(self) -> JournalReader:
        """Its journal and projections, marked or not."""
        ...

    async def write(self, table: Table, gone: Sequence[Key], new: Sequence[Row]) -> None:
        """Remove rows and then add some, in one transaction. Raises RowsRejected if one will not be taken."""
        ...

    async def set_mark(self, mark: Mark | None) -> None:
        """Set the mark, durably; None removes it."""
        ...


# --- what differs -----------------------------------------------------------------------------------------------------


class Difference(Struct, frozen=True):
    """What a stretch of a target needs to be as its origin: the keys that go, then the rows that come.

    A row that changed does both. `upto` is the last key of the stretch, None at the end of the table, and `rows` are
    how many the origin has in it.
    """

    upto: Key | None
    rows: int
    gone: tuple[Key, ...] = ()
    new: tuple[Row, ...] = ()

    def keys(self, table: Table) -> list[Key]:
        """Give the keys of the rows that differ, in their order."""
        return sorted({*self.gone, *map(table.key_of, self.new)})

    def only(self, table: Table, keys: Collection[Key]) -> "Difference":
        """Give what is to be done about these keys."""
        new = tuple(row for row in self.new if table.key_of(row) in keys)
        return replace(self, gone=tuple(key for key in self.gone if key in keys), new=new)


def difference(table: Table, wanted: Sequence[Row], found: Sequence[Row], limit: int) -> Difference:
    """Compare what an origin and a target hold after the same key, up to `limit` rows of each.

    The stretch ends where the shorter reaching of the two ends: beyond it, rows of the other were not read.
    """
    ends = [table.key_of(chunk[-1]) for chunk in (wanted, found) if len(chunk) == limit]
    upto = min(ends, default=None)
    if wanted == found:
        return Difference(upto, len(wanted))
    here = {key: row for row in wanted if (key := table.key_of(row)) and (upto is None or key <= upto)}
    there = {key: row for row in found if (key := table.key_of(row)) and (upto is None or key <= upto)}
    return Difference(
        upto,
        len(here),
        tuple(key for key, row in there.items() if here.get(key) != row),
        tuple(row for key, row in here.items() if there.get(key) != row),
    )
