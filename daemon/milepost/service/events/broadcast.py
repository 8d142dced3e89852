"""Hands the events of the journal to any number of readers, at little more than the cost of writing to each.

The feed only pokes: what there is, and in which order, comes from the journal. One task reads it, for all; a reader is
no more than a place in it. While nobody listens, nothing is read. Readers are woken a few times a second at the most,
so that a sync at full speed costs each of them a few writes, not hundreds.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import assert_never

from milepost.core.errors import MilepostError, StoreAway
from milepost.engine.bulkhead import bulkhead
from milepost.engine.feed import Notice, Recorded, StoreRetried, UnchangedRead, UsageReported
from milepost.service.events.chronicle import Told, told
from milepost.service.events.following import Following, Wanted
from milepost.service.events.narration import narrate_live
from milepost.service.events.recent import Recent
from milepost.stores.reader import JournalReader

BEAT_SECONDS = 0.2
HEARTBEAT_SECONDS = 15.0
MAX_READERS = 500
RETRY_MILLISECONDS = 3_000


class Unavailable(MilepostError):
    """Nobody can listen now: there are too many readers, or the daemon stops."""


class Beat:
    """A moment at which readers look what is new. `live` is what they hear then that has no entry."""

    def __init__(self) -> None:
        self.live: Sequence[Told] = ()
        self._came = asyncio.Event()

    @property
    def has_come(self) -> bool:
        """Whether it is over."""
        return self._came.is_set()

    async def wait(self) -> None:
        """Wait for it."""
        await self._came.wait()

    def come(self, live: Sequence[Told]) -> None:
        """Wake all who wait for it."""
        self.live = live
        self._came.set()


class Broadcast:
    """A reader of the feed, and what the readers of the event stream follow."""

    def __init__(
        self,
        journal_reader: JournalReader,
        now: Callable[[], datetime],
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        max_readers: int = MAX_READERS,
    ) -> None:
        self._journal_reader = journal_reader
        self._now = now
        self._heartbeat_seconds = heartbeat_seconds
        self._max_readers = max_readers
        self._readers = 0
        self._recent: Recent | None = None  # while somebody listens
        self._beginning, self._rereading = asyncio.Lock(), asyncio.Lock()
        self._heard: dict[str, UnchangedRead | StoreRetried] = {}  # the latest of each stream, since the last beat
        self._poked = asyncio.Event()
        self._beat = Beat()
        self._ending = asyncio.Event()
        self._is_over = False

    # --- what the daemon does ---

    def read(self, notice: Notice) -> None:
        """Hear that there is something new."""
        if not self._readers:
            return
        match notice:
            case Recorded(checkpoint=checkpoint):  # its entries tell more than what was heard without one
                self._heard.pop(checkpoint.stream, None)
            case UnchangedRead(checkpoint=checkpoint):
                self._heard[checkpoint.stream] = notice
            case StoreRetried(stream=stream):
                self._heard[stream] = notice
            case UsageReported():
                return
            case unknown:
                assert_never(unknown)
        self._poked.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tell what happens during the block; at its end, readers hear what is left of it, and end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(bulkhead("events", self._tell()), name="events")
            try:
                yield
            finally:
                self._ending.set()
                self._poked.set()

    async def _tell(self) -> None:
        try:
            is_last = False
            while not is_last:
                await self._poked.wait()
                self._poked.clear()
                is_last = self._ending.is_set()
                await self._read_on()
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_SECONDS):
                        await self._ending.wait()
        finally:
            self._is_over = True  # not before the rest was read, or readers would not hear it
            self._strike(())

    async def _read_on(self) -> None:
        recent, heard, self._heard = self._recent, self._heard, {}
        if recent is None:
            return
        try:
            while await recent.read_on():
                self._strike(())
        except StoreAway:  # asked again at the next beat
            self._poked.set()
        self._strike([told(narrate_live(notice, self._now())) for notice in heard.values()])

    def _strike(self, live: Sequence[Told]) -> None:
        beat, self._beat = self._beat, Beat()
        beat.come(live)

    # --- what a reader does ---

    async def follow(self, wanted: Wanted) -> AsyncGenerator[bytes, None]:
        """Give what is written to a reader, until the daemon ends.

        It begins with how to come back, so that a browser knows its place even before the first event. Raises
        Unavailable before it gives anything, and a MilepostError any time where the database does not answer.
        """
        async with self._attended() as recent:
            following = Following(self._journal_reader, recent, wanted, self._rereading)
            await following.begin()
            yield b"retry: %d\nid: %d\n\n" % (RETRY_MILLISECONDS, following.place)
            due_at = self._next_heartbeat_at()
            live: Sequence[Told] = ()
            while True:
                beat = self._beat
                while (news := await following.news()) is not None:
                    yield news
                if chosen := following.chosen(live):
                    yield chosen
                if self._is_over:
                    return
                is_late = beat.has_come  # what has no entry is for those who keep up
                try:
                    async with asyncio.timeout_at(due_at):
                        await beat.wait()
                    live = () if is_late else beat.live
                except TimeoutError:
                    # With its place: who wants little comes back to where it was, not to the last that it wanted.
                    yield b": alive\nid: %d\n\n" % following.place
                    due_at, live = self._next_heartbeat_at(), ()

    def _next_heartbeat_at(self) -> float:
        return asyncio.get_running_loop().time() + self._heartbeat_seconds

    @asynccontextmanager
    async def _attended(self) -> AsyncIterator[Recent]:
        """Keep the newest events for as long as there is anybody who listens."""
        if self._is_over:
            raise Unavailable("events are not told any more: the daemon stops, or its log says what happened")
        if self._readers >= self._max_readers:
            raise Unavailable(f"{self._max_readers} readers listen already: try again in a minute")
        self._readers += 1
        try:
            yield await self._kept()
        finally:
            self._readers -= 1
            if not self._readers:
                self._recent = None
                self._heard.clear()

    async def _kept(self) -> Recent:
        async with self._beginning:
            if self._recent is None:
                recent = Recent(self._journal_reader)
                await recent.begin()
                self._recent = recent
                self._poked.set()  # for what was recorded meanwhile
            return self._recent
