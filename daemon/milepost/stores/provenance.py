"""Which source a database works for: recorded before the first commit that brings something, and refused to others.

Not at the start: nothing comes from an address that is mistyped, and it can be mended.
"""

from typing import Protocol

from milepost.core.errors import StoreRefused
from milepost.core.events import BatchStored, SweepCompleted
from milepost.core.model import Changes, DataSource
from milepost.core.ports import Commit

NOTHING = Changes()


class Remembering(Protocol):
    """A store, as far as it remembers its source."""

    async def source(self) -> DataSource | None:
        """Return where the rows come from; None where that is not on record yet."""
        ...

    async def record_source(self, source: DataSource) -> None:
        """Record where the rows come from, unless that is on record."""
        ...


class Provenance:
    """Records the source of a store, which the name is of. `unrecorded` is the one that is still to be recorded."""

    def __init__(self, store: Remembering, name: object) -> None:
        self._store = store
        self._name = name
        self.unrecorded: DataSource | None = None

    async def before(self, commit: Commit) -> None:
        """Record the source ahead of a commit that brings something. Raises StoreRefused if another one was first."""
        if self.unrecorded is not None and _brings_something(commit):
            await self.record(self.unrecorded)
            self.unrecorded = None

    async def record(self, source: DataSource) -> None:
        """Record the source. Raises StoreRefused if another one is on record, as of a worker that came first."""
        await self._store.record_source(source)
        recorded = await self._store.source()
        if recorded is not None:
            demand_same(self._name, recorded, source)


def demand_same(name: object, recorded: DataSource, wanted: DataSource) -> None:
    """Raise StoreRefused if the database of this name works for another source than the one that is wanted."""
    if recorded != wanted:
        raise StoreRefused(
            f"the database {name} works for another source: it holds what came from {recorded},"
            f" and the configuration names {wanted}",
            hint="give store.url another database; or keep this one: remove what is not to stay with"
            " `milepost streams remove`, then let it change over with `milepost store adopt`",
        )


def _brings_something(commit: Commit) -> bool:
    """Whether it holds rows, or moves a place: a sweep of an empty inbox sets a watermark, too."""
    moves = any(isinstance(entry.event, BatchStored | SweepCompleted) for entry in commit.entries)
    return moves or commit.changes != NOTHING
