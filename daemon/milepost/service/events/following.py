"""A reader's place in the journal: what it wants, and its way from there to the newest events."""

import asyncio
from collections.abc import Iterable

from msgspec import Struct

from milepost.service.events.chronicle import JournalFollower, Told
from milepost.service.events.messages import Status
from milepost.service.events.recent import PAGE, Recent
from milepost.stores.reader import JournalReader, StoredEntry


class Wanted(Struct, frozen=True):
    """What a reader wants to hear: of these streams, with these statuses; where none is named, of all.

    It begins after the seq `after`; where that is None, with the newest `last` entries of its streams.
    """

    streams: tuple[str, ...] = ()
    statuses: frozenset[Status] = frozenset()
    after: int | None = None
    last: int = 0


class Following:
    """A reader on its way. `turn` is given to one of them at a time: reading again what is old may hold up nobody."""

    def __init__(self, journal_reader: JournalReader, recent: Recent, wanted: Wanted, turn: asyncio.Lock) -> None:
        self._journal_reader = journal_reader
        self._recent = recent
        self._wanted = wanted
        self._turn = turn
        self._follower: JournalFollower | None = None
        self.place = 0  # the seq of the last entry that the reader has had, or did not want

    async def begin(self) -> None:
        """Find the place. Raises a MilepostError where the database does not answer, as all here does."""
        wanted = self._wanted
        if wanted.after is not None:
            # Beyond the end is who knows a longer journal: this one was restored from a backup.
            self.place = min(
                wanted.after, max((each.seq for each in await self._journal_reader.latest(limit=1)), default=0)
            )
        elif wanted.last:
            pages = [
                await self._journal_reader.latest(limit=wanted.last, stream=each) for each in wanted.streams or (None,)
            ]
            newest = sorted(each.seq for page in pages for each in page)[-wanted.last :]
            self.place = newest[0] - 1 if newest else self._recent.end
        else:
            self.place = self._recent.end

    async def news(self) -> bytes | None:
        """Move on, and give the next piece of what is wanted; None where there is no more."""
        while self.place < self._recent.end:
            if self.place < self._recent.begins_after:
                told = await self._reread()
            else:
                self._follower = None  # it would leave out what is read here
                told = self._recent.after(self.place)
                self.place = told[-1].seq
            if chosen := self.chosen(told):
                return chosen
        return None

    def chosen(self, events: Iterable[Told]) -> bytes:
        """Give those of the events that are wanted, as they are sent."""
        streams, statuses = self._wanted.streams, self._wanted.statuses
        return b"".join(
            event.wire
            for event in events
            if (not streams or event.stream in streams) and (not statuses or event.status in statuses)
        )

    async def _reread(self) -> list[Told]:
        """Read in the journal what is older than what is kept for all."""
        self._follower = self._follower or JournalFollower(self._journal_reader)
        async with self._turn:
            placed, self.place = await self._page()
            return await self._follower.tell(placed)

    async def _page(self) -> tuple[list[StoredEntry], int]:
        """Give entries of the streams that are wanted, and up to which seq these are all of them."""
        until = self._recent.end  # taken first: what is recorded while the streams are read comes with the next page
        pages = [
            await self._journal_reader.entries(after=self.place, limit=PAGE, stream=stream)
            for stream in self._wanted.streams or (None,)
        ]
        until = min((page[-1].seq for page in pages if len(page) == PAGE), default=until)
        return sorted((each for page in pages for each in page if each.seq <= until), key=lambda each: each.seq), until
