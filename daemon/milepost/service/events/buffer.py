"""The newest events, kept for all readers, and each reader's position on its way to them, or a digest of them."""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from msgspec import Struct

from milepost.engine.feed import Recorded
from milepost.service.events.messages import EncodedEvent, EntryEncoder, Status
from milepost.stores.reader import JournalReader, StoredEntry

MAX_KEPT = 1_000  # half a megabyte
MAX_HELD = 1_000  # commits that are not encoded yet; the journal has the rest
PAGE = 200


class RecentEvents:
    """The events after the seq `begins_after`, up to `end`.

    They come from the commits that the feed announces. The journal is read only where one of those is missing, because
    another worker wrote it or the feed lost it.
    """

    def __init__(self, journal_reader: JournalReader) -> None:
        self._journal_reader = journal_reader
        self._encoder = EntryEncoder(journal_reader)
        self._events: list[EncodedEvent] = []
        self._commits: dict[int, Recorded] = {}  # by first seq: announced and not encoded yet
        self._newest = 0  # the highest seq that was announced
        self.has_begun = False
        self.begins_after = 0
        self.end = 0

    async def begin(self) -> None:
        """Read the newest events. Raises a MilepostError where the database is unavailable."""
        stored = await self._journal_reader.latest(limit=MAX_KEPT)
        if stored:
            self.begins_after = stored[0].seq - 1
            await self._append(stored)
        self.has_begun = True

    def announce(self, commit: Recorded) -> None:
        """Hold a commit until `advance` encodes it."""
        first_seq = commit.committed.first_seq
        self._newest = max(self._newest, first_seq + len(commit.entries) - 1)
        if len(self._commits) < MAX_HELD:
            self._commits[first_seq] = commit

    async def advance(self) -> bool:
        """Encode up to a page of what was announced; return whether there is more. Raises as `begin` does."""
        began_at = self.end
        while self.end < began_at + PAGE and (commit := self._commits.get(self.end + 1)) is not None:
            stored = [StoredEntry(seq, entry) for seq, entry in enumerate(commit.entries, start=self.end + 1)]
            await self._append(stored)
        if self.end == began_at < self._newest:
            stored = await self._journal_reader.entries(after=self.end, limit=PAGE)
            await self._append(stored)
            if not stored:
                self._newest = self.end
        self._commits = {seq: commit for seq, commit in self._commits.items() if seq > self.end}
        return self.end < self._newest

    def after(self, seq: int) -> list[EncodedEvent]:
        """Return a page of the events after a seq that is not below `begins_after`."""
        start = bisect_right(self._events, seq, key=attrgetter("seq"))
        return self._events[start : start + PAGE]

    async def _append(self, stored: list[StoredEntry]) -> None:
        self._events += await self._encoder.encode(stored)
        if stored:
            self.end = stored[-1].seq
        if len(self._events) >= 2 * MAX_KEPT:  # seldom, as it moves them all
            del self._events[:-MAX_KEPT]
            self.begins_after = self._events[0].seq - 1


class EventQuery(Struct, frozen=True):
    """Which events a reader wants: of these streams, with these statuses; where none is named, of all.

    It begins after the seq `after`; where that is None, with the newest `last` entries of its streams. A reader of a
    `digest` gets the last of similar events instead of each, and none older than those that are kept for all.
    """

    streams: tuple[str, ...] = ()
    statuses: frozenset[Status] = frozenset()
    after: int | None = None
    last: int = 0
    is_digest: bool = False


class EventReader:
    """One reader's way through the events.

    What is older than what is kept for all is read from the journal, by one reader at a time: each holds `rereading`
    meanwhile, so that they slow down nobody else.
    """

    def __init__(
        self, journal_reader: JournalReader, recent: RecentEvents, query: EventQuery, rereading: asyncio.Lock
    ) -> None:
        self._journal_reader = journal_reader
        self._recent = recent
        self._query = query
        self._rereading = rereading
        self._encoder: EntryEncoder | None = None
        self.seq = 0  # of the last entry that the reader has had, or did not want

    async def begin(self) -> None:
        """Find where to begin. Raises a MilepostError where the database is unavailable, as all methods here do."""
        query = self._query
        if query.after is not None:
            # A reader that is beyond the end knows a longer journal: this one was restored from a backup.
            newest = max((each.seq for each in await self._journal_reader.latest(limit=1)), default=0)
            self.seq = min(query.after, newest)
        elif query.last:
            pages = [
                await self._journal_reader.latest(limit=query.last, stream=each) for each in query.streams or (None,)
            ]
            newest_of_all = sorted(each.seq for page in pages for each in page)[-query.last :]
            self.seq = newest_of_all[0] - 1 if newest_of_all else self._recent.end
        else:
            self.seq = self._recent.end

    async def next_chunk(self) -> bytes | None:
        """Move on, and return the next bytes to send; None where there are no more events."""
        if self._query.is_digest:
            return self._next_digest()
        while self.seq < self._recent.end:
            if self.seq < self._recent.begins_after:
                page = await self._reread()
            else:
                self._encoder = None  # it would miss what comes from memory
                page = self._recent.after(self.seq)
                self.seq = page[-1].seq
            if chunk := self.matching(page):
                return chunk
        return None

    def matching(self, page: Iterable[EncodedEvent]) -> bytes:
        """Return those of the events that the reader wants, as they are sent."""
        return b"".join(event.wire for event in self._wanted(page))

    def _next_digest(self) -> bytes | None:
        """Move to the end of what there is, and return its digest."""
        events = list[EncodedEvent]()
        self.seq = max(self.seq, self._recent.begins_after)
        while page := self._recent.after(self.seq):
            self.seq = page[-1].seq
            events += self._wanted(page)
        return digest_of(events) or None

    def _wanted(self, page: Iterable[EncodedEvent]) -> Iterator[EncodedEvent]:
        streams, statuses = self._query.streams, self._query.statuses
        for event in page:
            if (not streams or event.stream in streams) and (not statuses or event.status in statuses):
                yield event

    async def _reread(self) -> list[EncodedEvent]:
        self._encoder = self._encoder or EntryEncoder(self._journal_reader)
        async with self._rereading:
            stored, self.seq = await self._next_entries()
            return await self._encoder.encode(stored)

    async def _next_entries(self) -> tuple[list[StoredEntry], int]:
        """Return entries of the wanted streams, and the seq up to which they are complete."""
        until = self._recent.end  # taken first: what is committed while the streams are read comes with the next page
        pages = [
            await self._journal_reader.entries(after=self.seq, limit=PAGE, stream=stream)
            for stream in self._query.streams or (None,)
        ]
        until = min((page[-1].seq for page in pages if len(page) == PAGE), default=until)
        return sorted((each for page in pages for each in page if each.seq <= until), key=lambda each: each.seq), until


# --- digests ----------------------------------------------------------------------------------------------------------

MAX_EVENTS = 12  # of a digest, before those of all streams become one; there are some thirty statuses with types


def digest_of(events: Sequence[EncodedEvent]) -> bytes:
    """Return a digest of consecutive events as it is sent; its last event is the newest.

    A thousand events a second are no news to anybody, and megabytes a minute to a browser. Of the events of a stream
    with the same status and type the last one stands for all; where even those are many, that of all streams does. So a
    digest's size depends on how often it is sent and not on what happens; and as each event says how many it stands
    for, nothing is left out in silence.
    """
    groups = _grouped(events, lambda event: (event.stream, event.status, event.type))
    if len(groups) > MAX_EVENTS:
        groups = _grouped(events, lambda event: (event.status, event.type))
    groups.sort(key=lambda group: group[-1].seq)
    return b"".join(map(_in_one, groups))


def _grouped(
    events: Sequence[EncodedEvent], key_of: Callable[[EncodedEvent], tuple[str, ...]]
) -> list[list[EncodedEvent]]:
    groups: dict[tuple[str, ...], list[EncodedEvent]] = {}
    for event in events:
        groups.setdefault(key_of(event), []).append(event)
    return list(groups.values())


def _in_one(group: Sequence[EncodedEvent]) -> bytes:
    """Return the last event of a group as it is sent, with how many it stands for."""
    wire, streams = group[-1].wire, len({event.stream for event in group})
    if len(group) > 1:
        wire = wire.replace(b"data: {", b'data: {"times":%d,"streams":%d,' % (len(group), streams), 1)
    return wire
