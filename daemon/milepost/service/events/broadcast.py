"""Sends the events of the journal to any number of readers, at little more than the cost of writing to each.

One task encodes what was committed, for all readers; a reader is no more than a position among those events. While
there are no readers, nothing is encoded or read. Readers wake up a few times a second at most, so that a sync at full
speed costs each of them a few writes, not hundreds.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import assert_never

from milepost.core.errors import MilepostError, StoreAway
from milepost.core.model import Stream
from milepost.engine.bulkhead import bulkhead
from milepost.engine.feed import Notice, Recorded, SlotWaited, StoreRetried, UnchangedRead, UsageReported
from milepost.service.events.buffer import EventQuery, EventReader, RecentEvents
from milepost.service.events.messages import EncodedEvent, encoded, live_message
from milepost.stores.reader import JournalReader

BEAT_SECONDS = 0.2
DIGEST_SECONDS = 3.0  # between two digests
HEARTBEAT_SECONDS = 15.0
MAX_READERS = 500
RETRY_MILLISECONDS = 3_000


class Unavailable(MilepostError):
    """No reader is accepted now: there are too many, or the daemon is shutting down."""


class Beat:
    """A moment at which readers look for new events. `live` are events without an entry, for those who are waiting."""

    def __init__(self) -> None:
        self.live: Sequence[EncodedEvent] = ()
        self._struck = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether it has been struck."""
        return self._struck.is_set()

    async def wait(self) -> None:
        """Wait until it is struck."""
        await self._struck.wait()

    def strike(self, live: Sequence[EncodedEvent]) -> None:
        """Wake everyone who waits for it."""
        self.live = live
        self._struck.set()


class Broadcast:
    """A reader of the feed, and what the readers of the event stream follow."""

    def __init__(self, journal_reader: JournalReader, now: Callable[[], datetime]) -> None:
        self._journal_reader = journal_reader
        self._now = now
        self._readers = 0
        self._recent: RecentEvents | None = None  # while there are readers
        self._beginning, self._rereading = asyncio.Lock(), asyncio.Lock()
        self._unrecorded: dict[Stream, UnchangedRead | StoreRetried] = {}  # each stream's latest since the last beat
        self._has_news = asyncio.Event()
        self._beat = Beat()
        self._ending = asyncio.Event()
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
        """Broadcast during the block; at its end, readers get what is left, and end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bulkhead("events", self._run()), name="events")
            try:
                yield
            finally:
                self._ending.set()
                self._has_news.set()

    async def _run(self) -> None:
        try:
            is_last = False
            while not is_last:
                await self._has_news.wait()
                self._has_news.clear()
                is_last = self._ending.is_set()
                await self._encode_news()
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_SECONDS):
                        await self._ending.wait()
        finally:
            self._is_over = True  # only after the rest was encoded, or readers would miss it
            self._strike(())

    async def _encode_news(self) -> None:
        recent, unrecorded, self._unrecorded = self._recent, self._unrecorded, {}
        if recent is None or not recent.has_begun:
            return
        try:
            while await recent.advance():
                self._strike(())
                await asyncio.sleep(0)  # encoding from memory never waits, and must not hold up the work
        except StoreAway:  # tried again at the next beat
            self._has_news.set()
        self._strike([encoded(live_message(notice, self._now())) for notice in unrecorded.values()])

    def _strike(self, live: Sequence[EncodedEvent]) -> None:
        beat, self._beat = self._beat, Beat()
        beat.strike(live)

    # --- a reader's side ---

    async def follow(self, query: EventQuery) -> AsyncGenerator[bytes, None]:
        """Yield what is sent to a reader, until the daemon ends.

        The first piece says how to reconnect, so that a browser knows its position even before the first event. Raises
        Unavailable before it yields anything, and a MilepostError any time where the database is unavailable.
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
                        await self._rest()
                if chunk := reader.matching(live):
                    yield chunk
                if self._is_over:
                    return
                is_late = beat.is_over  # events without an entry are for those who keep up
                try:
                    async with asyncio.timeout_at(due_at):
                        await beat.wait()
                    live = () if is_late else beat.live
                except TimeoutError:
                    # With the seq, so that a reader who wants little reconnects where it was, not at its last event.
                    yield b": alive\nid: %d\n\n" % reader.seq
                    due_at, live = self._next_heartbeat_at(), ()

    async def _rest(self) -> None:
        """Wait until another digest is due, or the daemon ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DIGEST_SECONDS):
                await self._ending.wait()

    def _next_heartbeat_at(self) -> float:
        return asyncio.get_running_loop().time() + HEARTBEAT_SECONDS

    @asynccontextmanager
    async def _recent_events(self) -> AsyncIterator[RecentEvents]:
        """Keep the newest events for as long as there is any reader."""
        if self._is_over:
            raise Unavailable("the event stream has ended: the daemon is shutting down, or its log says what happened")
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
