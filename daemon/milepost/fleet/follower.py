"""What the journal says, whoever wrote it: every entry is heard in the order of seq, and folded."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Entry
from milepost.core.evolve import evolve
from milepost.core.ports import Committed
from milepost.engine.feed import Recorded
from milepost.stores.reader import JournalReader, StoredEntry

ENTRIES_AT_ONCE = 500


class JournalFollower:
    """Follows the journal from where it stood when this worker began."""

    def __init__(self, journal_reader: JournalReader) -> None:
        self._journal_reader = journal_reader
        self._seq = 0
        self._checkpoints: dict[str, Checkpoint] = {}
        self._reading = asyncio.Lock()

    @property
    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """Where every stream stood after the last entry that was heard."""
        return self._checkpoints

    async def begin(self) -> None:
        """Take over where all streams stand."""
        self._seq = max((each.seq for each in await self._journal_reader.latest(limit=1)), default=0)
        # Read after the seq, so that nothing is missed in between; what is read twice is no news then.
        self._checkpoints = {each.stream: each for each in await self._journal_reader.checkpoints()}

    async def read_on(self, hear: Callable[[Recorded], None]) -> None:
        """Have all that is new heard. Raises StoreAway or StoreRefused."""
        async with self._reading:
            while placed := await self._journal_reader.entries(after=self._seq, limit=ENTRIES_AT_ONCE):
                for notice in self._notices(placed):
                    hear(notice)
                self._seq = placed[-1].seq

    def _notices(self, placed: Iterable[StoredEntry]) -> Iterator[Recorded]:
        """Tell entries of one stream that lie together as one commit."""
        for stream, group in groupby(placed, key=lambda each: each.entry.stream):
            together = list(group)
            checkpoint = self._checkpoints.get(stream) or Checkpoint(stream)
            for each in together:
                checkpoint = _after(checkpoint, each.entry)
            self._checkpoints[stream] = checkpoint
            committed = Committed(together[0].seq, 0.0, 0.0)
            yield Recorded(tuple(each.entry for each in together), committed, checkpoint, 0.0, None)


def _after(checkpoint: Checkpoint, entry: Entry) -> Checkpoint:
    return evolve(checkpoint, entry) if entry.version > checkpoint.version else checkpoint
