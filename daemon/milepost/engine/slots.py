"""The turns of streams: so many at once, given out in the order in which they were asked for."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from milepost.core.model import Stream


class Slots:
    """`concurrency` streams are at work at once. One that waits gives its turn back: it must not hold up others."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._surplus = 0  # turns that are not to be taken any more
        self._free = asyncio.Semaphore(concurrency)
        self._held_since: dict[Stream, float] = {}  # by the event loop's clock, which stands still with the process

    def held_seconds(self) -> Mapping[Stream, float]:
        """Return who has a turn, and for how long without a break."""
        now = asyncio.get_running_loop().time()
        return {stream: now - held_since for stream, held_since in self._held_since.items()}

    @property
    def all_taken(self) -> bool:
        """Whether whoever asks for a turn has to wait."""
        return self._free.locked() or self._surplus > 0

    def resize(self, concurrency: int) -> None:
        """Let so many be at work from now on. Where more are, nobody gets a turn until that many have ended theirs."""
        self._surplus += self._concurrency - concurrency
        self._concurrency = concurrency
        while self._surplus < 0:
            self._surplus += 1
            self._free.release()

    @asynccontextmanager
    async def taken(self, stream: Stream) -> AsyncIterator[None]:
        """Have a turn during the block."""
        await self._take()
        try:
            self._held_since[stream] = asyncio.get_running_loop().time()
            yield
        finally:
            self._held_since.pop(stream, None)
            self._free.release()

    @asynccontextmanager
    async def released(self, stream: Stream) -> AsyncIterator[None]:
        """Inside a turn: let others have it during the block."""
        del self._held_since[stream]
        self._free.release()
        try:
            yield
        finally:
            await self._take()
            self._held_since[stream] = asyncio.get_running_loop().time()

    async def _take(self) -> None:
        await self._free.acquire()
        while self._surplus > 0:  # this one is not to be taken: wait for another
            self._surplus -= 1
            await self._free.acquire()
