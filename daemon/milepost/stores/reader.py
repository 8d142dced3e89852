"""The journal as it is read from beside the daemon, and by its service: follow it, list what it holds, check it."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.events import Entry
from milepost.core.journal import RunOf
from milepost.core.model import Stream
from milepost.stores.audit import Audit
from milepost.stores.removal import StreamRows


class DeadLetterState(StrEnum):
    """Which dead letters are meant."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


class StoredEntry(Struct, frozen=True):
    """An entry and its seq: its place in the journal as a whole."""

    seq: int
    entry: Entry


class JournalReader(Protocol):
    """The journal and its projections, for reading. Its methods raise StoreAway and StoreRefused as a Store's do."""

    async def checkpoints(self) -> list[Checkpoint]:
        """Give where every stream stands, ordered by stream."""
        ...

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Give up to `limit` entries with a seq greater than `after`, oldest first."""
        ...

    async def latest(self, *, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Give the newest `limit` entries, oldest first."""
        ...

    async def within_runs(self, versions: Mapping[str, int]) -> dict[str, Checkpoint]:
        """Give where each stream stood before an entry, by its version, as far as the latest run until then tells."""
        ...

    async def completed_with_errors(self, run_ids: Iterable[str]) -> frozenset[str]:
        """Give those of these runs that completed a sweep with dead letters on the way."""
        ...

    async def seq_before(self, instant: datetime) -> int:
        """Give the seq of the last entry that was recorded before an instant; 0 where there is none."""
        ...

    async def runs(self, *, before: str | None = None, limit: int, stream: str | None = None) -> list[RunOf]:
        """Give up to `limit` runs, the newest first, from the one that precedes the run `before`."""
        ...

    async def dead_letters(
        self, state: DeadLetterState, *, stream: str | None = None, after: str | None = None, limit: int
    ) -> list[DeadLetter]:
        """Give up to `limit` dead letters, the oldest first, from the one that follows the letter `after`."""
        ...

    async def dead_letter(self, dead_letter_id: str) -> tuple[DeadLetter, str | None] | None:
        """Give a dead letter and its payload, which is gone once it is closed or the person it is about was erased."""
        ...

    async def count_rows(self, stream: Stream) -> StreamRows:
        """Count what is stored of a stream."""
        ...

    async def verify(self) -> Audit:
        """Check every hash chain, and that every projection equals its fold. Raises JournalDamaged."""
        ...

    async def rebuild(self) -> Audit:
        """Drop the projections and make them again from the journal, in one transaction. Raises JournalDamaged."""
        ...
