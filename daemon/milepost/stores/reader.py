"""Reading the journal, in the daemon's service or beside the daemon: follow it, list what it holds, check it."""

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from milepost.core.changes import ChangeReader
from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.events import Entry
from milepost.core.journal import RunOf
from milepost.core.model import Stream
from milepost.stores.audit import Audit
from milepost.stores.erasure import StreamRows

PAGE = 1_000  # dead letters that are read at a time


class DeadLetterState(StrEnum):
    """Which dead letters to list."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"

    def parameters(self) -> dict[str, bool]:
        """Return the parameters of the statements that list them."""
        return {"open": self is not DeadLetterState.CLOSED, "closed": self is not DeadLetterState.OPEN}


class StoredEntry(Struct, frozen=True):
    """An entry and its seq, its position in the journal as a whole."""

    seq: int
    entry: Entry


class Thread(Struct, frozen=True):
    """Who a stored conversation is with, and its `link` as the API has it; each None if that is unknown."""

    contact_name: str | None
    link: str | None


class JournalReader(ChangeReader, Protocol):
    """The journal, its projections and the change feed, for reading.

    Its methods raise StoreAway and StoreRefused as a Store's do.
    """

    async def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoint of every stream, ordered by stream."""
        ...

    async def page_names(self) -> dict[str, str]:
        """Return the names of pages by id, as far as they are known."""
        ...

    async def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Return up to `limit` entries with a seq greater than `after`, oldest first."""
        ...

    async def latest(self, *, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Return the newest `limit` entries, oldest first."""
        ...

    async def within_runs(self, versions: Mapping[Stream, int]) -> dict[Stream, Checkpoint]:
        """Return each stream's checkpoint just before the given version, folded from its latest run until then."""
        ...

    async def seq_before(self, instant: datetime) -> int:
        """Return the seq of the last entry that was recorded before an instant; 0 if there is none."""
        ...

    async def runs(self, *, before: str | None = None, limit: int, stream: str | None = None) -> list[RunOf]:
        """Return up to `limit` runs, newest first, starting with the one that precedes the run `before`."""
        ...

    async def dead_letters(
        self, state: DeadLetterState, *, stream: str | None = None, after: str | None = None, limit: int
    ) -> list[DeadLetter]:
        """Return up to `limit` dead letters, oldest first, starting with the one that follows `after`."""
        ...

    async def dead_letter(self, dead_letter_id: str) -> tuple[DeadLetter, str | None] | None:
        """Return a dead letter and its payload, which goes when it is closed or the person it is about is erased."""
        ...

    async def threads(self, conversation_ids: Iterable[str]) -> dict[str, Thread]:
        """Return who those of these conversations are with that are stored, and where Meta shows them."""
        ...

    async def count_rows(self, stream: Stream) -> StreamRows:
        """Count what is stored of a stream."""
        ...

    async def verify(self) -> Audit:
        """Check every hash chain, and that every projection equals its fold. Raises JournalDamaged."""
        ...

    async def rebuild(self) -> Audit:
        """Rebuild the projections from the journal, in one transaction. Raises JournalDamaged."""
        ...


async def all_dead_letters(
    journal_reader: JournalReader, state: DeadLetterState, *, stream: str | None = None, after: str | None = None
) -> AsyncIterator[DeadLetter]:
    """Yield all dead letters in a state, oldest first, starting with the one that follows `after`."""
    while True:
        page = await journal_reader.dead_letters(state, stream=stream, after=after, limit=PAGE)
        for each in page:
            yield each
        if len(page) < PAGE:
            return
        after = page[-1].dead_letter_id
