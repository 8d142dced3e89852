"""Sends the events of the journal to any number of readers, at little more than the cost of writing to each.

One task encodes each committed entry once for all readers; a reader is only a position among those events. While there
are no readers, nothing is encoded or read. Readers wake up a few times a second at most, so that a sync at full speed
costs each of them a few writes, not hundreds.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from operator import attrgetter
from typing import assert_never

from msgspec import Struct

from milepost.core.errors import MilepostError, StoreAway
from milepost.core.model import Stream
from milepost.engine.feed import Notice, Recorded, SlotWaited, StoreRetried, UnchangedRead, UsageReported
from milepost.engine.interrupt import RESTART_SECONDS, Interrupt, bulkhead
from milepost.service.events.messages import (
    EncodedEvent,
    EntryEncoder,
    Status,
    digest_of,
    encoded,
    live_message,
)
from milepost.stores.reader import JournalReader, StoredEntry

BEAT_SECONDS = 0.2
DIGEST_SECONDS = 3.0  # between two digests
HEARTBEAT_SECONDS = 15.0
MAX_READERS = 500
RETRY_MILLISECONDS = 3_000


class Unavailable(MilepostError):
    """No new reader is accepted: there are too many, or the daemon is shutting down."""


class Beat:
    """A moment at which readers look for new events. `live` has events without an entry, for the waiting readers."""

    def __init__(self) -> None:
        self.live: Sequence[EncodedEvent] = ()
        self.struck = asyncio.Event()


class Broadcast:
    """Reads the feed of the engine, and serves the readers of the event stream."""

    def __init__(self, journal_reader: JournalReader, now: Callable[[], datetime]) -> None:
        self._journal_reader = journal_reader
        self._now = now
        self._readers = 0
        self._recent: RecentEvents | None = None  # while there are readers
        self._beginning, self._rereading = asyncio.Lock(), asyncio.Lock()
        self._unrecorded: dict[Stream, UnchangedRead | StoreRetried] = {}  # each stream's latest since the last beat
        self._has_news = asyncio.Event()
        self._beat = Beat()
        self._ending = Interrupt()
        self._is_over = False

    # --- the daemon's side ---

    def read(self, notice: Notice) -> None:
        """Take a notice for the next beat."""
        if self._recent is None:
            return
        match notice:
            case Recorded(checkpoint=checkpoint):  # its entries say more than a notice without one
                self._unrecorded.pop(checkpoint.stream, None)
                self._recent.announce(notice)
            case UnchangedRead(checkpoint=checkpoint):
                self._unrecorded[checkpoint.stream] = notice
            case StoreRetried(stream=stream):
                self._unrecorded[stream] = notice
            case UsageReported() | SlotWaited():
                return
            case unknown:
                assert_never(unknown)
        self._has_news.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Broadcast during the block. At its end, readers get the remaining events and are disconnected."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_up(), name="events")
            try:
                yield
            finally:
                self._ending.set()
                self._has_news.set()

    async def _keep_up(self) -> None:
        """Run until the end. After an error, which disconnects all readers, begin again a minute later."""
        while await bulkhead("events", self._run()) is not None and not self._ending.is_set:
            self._recent = None  # so that its readers end, however late they notice
            async with self._ending.interruptible():
                await asyncio.sleep(RESTART_SECONDS)

    async def _run(self) -> None:
        self._is_over = False
        try:
            is_last = False
            while not is_last:
                await self._has_news.wait()
                self._has_news.clear()
                is_last = self._ending.is_set
                await self._encode_news()
                async with self._ending.interruptible():
                    await asyncio.sleep(BEAT_SECONDS)
        finally:
            self._is_over = True  # only after the remaining events are encoded, or readers would miss them
            self._strike(())

    async def _encode_news(self) -> None:
        recent, unrecorded, self._unrecorded = self._recent, self._unrecorded, {}
        if recent is None or not recent.has_begun:
            return
        if recent.lost_after is not None:  # its readers resume in the journal as it is now
            self._recent = None
            self._strike(())
            return
        try:
            while await recent.advance():
                self._strike(())
                await asyncio.sleep(0)  # encoding from memory never awaits, and must not block the event loop
        except StoreAway:  # tried again at the next beat
            self._has_news.set()
        self._strike([encoded(live_message(notice, self._now())) for notice in unrecorded.values()])

    def _strike(self, live: Sequence[EncodedEvent]) -> None:
        beat, self._beat = self._beat, Beat()
        beat.live = live
        beat.struck.set()

    # --- a reader's side ---

    async def follow(self, query: "EventQuery") -> AsyncGenerator[bytes, None]:
        """Yield what is sent to a reader, until the daemon ends.

        The first piece says how to reconnect, so that a browser knows its position even before the first event. Raises
        Unavailable before it yields anything, and a MilepostError at any time if the database is unavailable.
        """
        async with self._recent_events() as recent:
            reader = EventReader(self._journal_reader, recent, query, self._rereading)
            await reader.begin()
            yield b"retry: %d\nid: %d\n\n" % (RETRY_MILLISECONDS, reader.seq)
            due_at = self._next_heartbeat_at()
            live: Sequence[EncodedEvent] = ()
            while True:
                beat = self._beat
                while (chunk := await reader.next_chunk()) is not None:
                    yield chunk
                    if query.is_digest:
                        async with self._ending.interruptible():
                            await asyncio.sleep(DIGEST_SECONDS)
                if chunk := reader.matching(live):
                    yield chunk
                if self._is_over or self._recent is not recent:
                    if recent.lost_after is not None:
                        yield b"id: %d\n\n" % min(reader.seq, recent.lost_after)
                    return
                is_late = beat.struck.is_set()  # only readers that keep up get events without an entry
                try:
                    async with asyncio.timeout_at(due_at):
                        await beat.struck.wait()
                    live = () if is_late else beat.live
                except TimeoutError:
                    # With the seq, so that a reader that filters resumes where it was, not at its last event.
                    yield b": alive\nid: %d\n\n" % reader.seq
                    due_at, live = self._next_heartbeat_at(), ()

    def _next_heartbeat_at(self) -> float:
        return asyncio.get_running_loop().time() + HEARTBEAT_SECONDS

    @asynccontextmanager
    async def _recent_events(self) -> AsyncIterator["RecentEvents"]:
        """Keep the newest events as long as there is a reader."""
        if self._is_over:
            raise Unavailable("no events now: the daemon is shutting down, or its log says what happened")
        if self._readers >= MAX_READERS:
            raise Unavailable(f"{MAX_READERS} readers are connected already: try again in a minute")
        self._readers += 1
        self._recent = recent = self._recent or RecentEvents(self._journal_reader)
        try:
            async with self._beginning:
                if not recent.has_begun:
                    await recent.begin()
                    self._has_news.set()  # for what was committed meanwhile
            yield recent
        finally:
            self._readers -= 1
            if not self._readers:
                self._recent = None
                self._unrecorded.clear()


# --- a reader's way through the events --------------------------------------------------------------------------------


class EventQuery(Struct, frozen=True):
    """Which events a reader wants: those of these streams and with these statuses; an empty set stands for all.

    It begins after the seq `after`, or if that is None, with the newest `last` entries of its streams. With `digest`,
    a reader gets only the last of similar events, and none older than those kept in memory.
    """

    streams: tuple[str, ...] = ()
    statuses: frozenset[Status] = frozenset()
    after: int | None = None
    last: int = 0
    is_digest: bool = False


class EventReader:
    """One reader's position in the events, and the way on from there.

    Events older than those kept in memory are read from the journal. Only the reader that holds the lock `rereading`
    does that, so that rereading slows down nothing else.
    """

    def __init__(
        self, journal_reader: JournalReader, recent: "RecentEvents", query: EventQuery, rereading: asyncio.Lock
    ) -> None:
        self._journal_reader = journal_reader
        self._recent = recent
        self._query = query
        self._rereading = rereading
        self._encoder: EntryEncoder | None = None
        self.seq = 0  # of the last entry that was sent to the reader, or that it did not want

    async def begin(self) -> None:
        """Find where to begin. Raises a MilepostError if the database is unavailable, as all methods here do."""
        query = self._query
        if query.after is not None:
            # A reader beyond the end has read a longer journal: this one was restored from a backup.
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
        """Move on, and return the next bytes to send; None if there are no more events."""
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
        """Return the encoded events that the reader wants."""
        return b"".join(event.wire for event in self._wanted(page))

    def _next_digest(self) -> bytes | None:
        """Move to the end of the events, and return a digest of those passed."""
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
        until = self._recent.end  # taken first: entries committed during the reading come with the next page
        pages = [
            await self._journal_reader.entries(after=self.seq, limit=PAGE, stream=stream)
            for stream in self._query.streams or (None,)
        ]
        until = min((page[-1].seq for page in pages if len(page) == PAGE), default=until)
        return sorted((each for page in pages for each in page if each.seq <= until), key=lambda each: each.seq), until


# --- the newest events, kept for all readers --------------------------------------------------------------------------

MAX_KEPT = 1_000  # less than a megabyte
MAX_HELD = 1_000  # commits that are not encoded yet; the journal has the rest
PAGE = 200


class RecentEvents:
    """The events after the seq `begins_after`, up to `end`.

    They come from the commits that the feed announces. The journal is read only if a commit is missing, because another
    worker wrote it or the feed dropped it.

    A commit with seqs of other events says that the journal lost what came after `lost_after`, as after a failover to a
    replica that had not received it. Then these events are of no more use.
    """

    def __init__(self, journal_reader: JournalReader) -> None:
        self._journal_reader = journal_reader
        self._encoder = EntryEncoder(journal_reader)
        self._events: list[EncodedEvent] = []
        self._hashes: dict[int, str] = {}  # of their entries, by seq
        self._commits: dict[int, Recorded] = {}  # by first seq: announced and not encoded yet
        self._newest = 0  # the highest seq that was announced
        self.has_begun = False
        self.begins_after = 0
        self.end = 0
        self.lost_after: int | None = None

    async def begin(self) -> None:
        """Read the newest events. Raises a MilepostError if the database is unavailable."""
        stored = await self._journal_reader.latest(limit=MAX_KEPT)
        if stored:
            self.begins_after = stored[0].seq - 1
            await self._append(stored)
        self.has_begun = True

    def announce(self, commit: Recorded) -> None:
        """Hold a commit until `advance` encodes it."""
        first_seq, first = commit.committed.first_seq, commit.entries[0]
        if self.lost_after is None and self._hashes.get(first_seq, first.hash) != first.hash:
            self.lost_after = first_seq - 1
        self._newest = max(self._newest, first_seq + len(commit.entries) - 1)
        if len(self._commits) < MAX_HELD:
            self._commits[first_seq] = commit

    async def advance(self) -> bool:
        """Encode up to a page of the announced commits; return whether there is more. Raises as `begin` does."""
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
        self._hashes |= {each.seq: each.entry.hash for each in stored}
        if stored:
            self.end = stored[-1].seq
        if len(self._events) >= 2 * MAX_KEPT:  # seldom, because it moves all of them
            del self._events[:-MAX_KEPT]
            self.begins_after = self._events[0].seq - 1
            self._hashes = {event.seq: self._hashes[event.seq] for event in self._events}
