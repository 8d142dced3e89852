"""The source that a database works for: recorded before the first commit that brings something; others are refused.

Not at the start: a mistyped address brings nothing, and can be corrected.
"""

from typing import Protocol

from milepost.core.errors import StoreRefused
from milepost.core.events import BatchStored, SweepCompleted
from milepost.core.model import Changes, DataSource
from milepost.core.ports import Commit

NOTHING = Changes()


class SourceRecord(Protocol):
    """The part of a store that remembers its source."""

    async def source(self) -> DataSource | None:
        """Return where the rows come from; None until that is on record."""
        ...

    async def record_source(self, source: DataSource) -> None:
        """Record where the rows come from, unless that is on record."""
        ...


class Provenance:
    """Records the source of the store with this name. `unrecorded` is the source that is still to be recorded."""

    def __init__(self, store: SourceRecord, name: object) -> None:
        self._store = store
        self._name = name
        self.unrecorded: DataSource | None = None

    async def before(self, commit: Commit) -> None:
        """Record the source before a commit that brings something. Raises StoreRefused if another one was first."""
        if self.unrecorded is not None and _brings_something(commit):
            await self.record(self.unrecorded)
            self.unrecorded = None

    async def record(self, source: DataSource) -> None:
        """Record the source. Raises StoreRefused if another one is on record, say of a worker that came first."""
        await self._store.record_source(source)
        recorded = await self._store.source()
        if recorded is not None:
            demand_same(self._name, recorded, source)


def demand_same(name: object, recorded: DataSource, wanted: DataSource) -> None:
    """Raise StoreRefused if the database of this name works for another source than the wanted one."""
    if recorded != wanted:
        raise StoreRefused(
            f"the database {name} works for another source: it holds what came from {recorded},"
            f" and the configuration names {wanted}",
            hint="give store.url another database; or keep this one: remove what is not to stay with"
            " `milepost streams remove`, then let it change over with `milepost store adopt`",
        )


def _brings_something(commit: Commit) -> bool:
    """Return whether it holds rows or moves a checkpoint: a sweep of an empty inbox sets a watermark, too."""
    moves = any(isinstance(entry.event, BatchStored | SweepCompleted) for entry in commit.entries)
    return moves or commit.changes != NOTHING
