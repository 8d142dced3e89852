"""The newest events, read from the journal once and kept for all readers, a bounded number of them."""

from bisect import bisect_right
from operator import attrgetter

from milepost.service.events.chronicle import JournalFollower, Told
from milepost.stores.reader import JournalReader

MAX_KEPT = 1_000  # half a megabyte
PAGE = 200


class Recent:
    """The events after the seq `begins_after`, up to `end`. It begins at the end of the journal: see `begin`."""

    def __init__(self, journal_reader: JournalReader) -> None:
        self._journal_reader = journal_reader
        self._follower = JournalFollower(journal_reader)
        self._events: list[Told] = []
        self.begins_after = 0
        self.end = 0

    async def begin(self) -> None:
        """Read the newest events there are. Raises a MilepostError where the database does not answer."""
        placed = await self._journal_reader.latest(limit=MAX_KEPT)
        if placed:
            self.begins_after = placed[0].seq - 1
            self._keep(await self._follower.tell(placed))

    async def read_on(self) -> bool:
        """Read a page of what has come since; tell whether there may be more. Raises as `begin` does."""
        placed = await self._journal_reader.entries(after=self.end, limit=PAGE)
        self._keep(await self._follower.tell(placed))
        return len(placed) == PAGE

    def after(self, seq: int) -> list[Told]:
        """Give a page of the events that follow one that is not older than `begins_after`."""
        start = bisect_right(self._events, seq, key=attrgetter("seq"))
        return self._events[start : start + PAGE]

    def _keep(self, events: list[Told]) -> None:
        self._events += events
        if events:
            self.end = events[-1].seq
        if len(self._events) >= 2 * MAX_KEPT:  # seldom, as it moves them all
            del self._events[:-MAX_KEPT]
            self.begins_after = self._events[0].seq - 1
