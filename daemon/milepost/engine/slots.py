"""The slots of running streams: a resizable semaphore, first come, first served."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from milepost.core.model import Stream


class Slots:
    """`concurrency` streams run at once. A run that waits releases its slot, so that it holds up no other stream."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._surplus = 0  # slots to withdraw as they become free
        self._free = asyncio.Semaphore(concurrency)
        self._held_since: dict[Stream, float] = {}  # by the event loop's clock, which stands still with the process

    def held_seconds(self) -> Mapping[Stream, float]:
        """Return for how long each stream has held its slot without a break."""
        now = asyncio.get_running_loop().time()
        return {stream: now - held_since for stream, held_since in self._held_since.items()}

    @property
    def all_taken(self) -> bool:
        """Whether a stream that asks for a slot has to wait."""
        return self._free.locked() or self._surplus > 0

    def resize(self, concurrency: int) -> None:
        """Change how many streams run at once. Surplus runs go on; their slots are withdrawn when they end."""
        self._surplus += self._concurrency - concurrency
        self._concurrency = concurrency
        while self._surplus < 0:
            self._surplus += 1
            self._free.release()

    @asynccontextmanager
    async def hold(self, stream: Stream) -> AsyncIterator[None]:
        """Hold a slot during the block."""
        await self._acquire()
        try:
            self._held_since[stream] = asyncio.get_running_loop().time()
            yield
        finally:
            self._held_since.pop(stream, None)
            self._free.release()

    @asynccontextmanager
    async def released(self, stream: Stream) -> AsyncIterator[None]:
        """Within `hold`: release the slot during the block."""
        del self._held_since[stream]
        self._free.release()
        try:
            yield
        finally:
            await self._acquire()
            self._held_since[stream] = asyncio.get_running_loop().time()

    async def _acquire(self) -> None:
        await self._free.acquire()
        while self._surplus > 0:  # withdraw this one, and wait for another
            self._surplus -= 1
            await self._free.acquire()
