"""Follows the journal, whoever writes it: every entry in the order of seq, folded into checkpoints."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby

from milepost.core.checkpoint import Checkpoint
from milepost.core.evolve import evolve
from milepost.core.model import Stream
from milepost.core.ports import Committed
from milepost.engine.feed import Recorded
from milepost.stores.reader import JournalReader, StoredEntry

ENTRIES_AT_ONCE = 500


class JournalFollower:
    """Follows the journal from its end at the start of this worker."""

    def __init__(self, journal_reader: JournalReader) -> None:
        self._journal_reader = journal_reader
        self._seq = 0
        self._checkpoints: dict[Stream, Checkpoint] = {}
        self._reading = asyncio.Lock()

    @property
    def checkpoints(self) -> Mapping[Stream, Checkpoint]:
        """The checkpoint of every stream as of the last entry read."""
        return self._checkpoints

    async def begin(self) -> None:
        """Load the checkpoints of all streams."""
        self._seq = max((each.seq for each in await self._journal_reader.latest(limit=1)), default=0)
        # Loaded after the seq, so that nothing in between is missed; an entry that is read twice changes nothing.
        self._checkpoints = {each.stream: each for each in await self._journal_reader.checkpoints()}

    async def catch_up(self, on_commit: Callable[[Recorded], None]) -> None:
        """Read all new entries and report them as commits. Raises StoreAway or StoreRefused."""
        async with self._reading:
            while stored := await self._journal_reader.entries(after=self._seq, limit=ENTRIES_AT_ONCE):
                for notice in self._commits(stored):
                    on_commit(notice)
                self._seq = stored[-1].seq

    def _commits(self, stored: Iterable[StoredEntry]) -> Iterator[Recorded]:
        """Yield consecutive entries of one stream as one commit."""
        for stream, group in groupby(stored, key=lambda each: each.entry.stream):
            together = list(group)
            checkpoint = self._checkpoints.get(stream) or Checkpoint(stream)
            for each in together:
                if each.entry.version > checkpoint.version:
                    checkpoint = evolve(checkpoint, each.entry)
            self._checkpoints[stream] = checkpoint
            committed = Committed(together[0].seq, 0.0, 0.0)
            yield Recorded(tuple(each.entry for each in together), committed, checkpoint, 0.0, None)
