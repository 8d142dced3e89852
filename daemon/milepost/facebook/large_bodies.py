"""Large response bodies: few in memory at a time, none with more values than any batch has, and decoded in a thread.

A body of 16 MiB may hold 8,000,000 items, which take 2 GB and a minute to decode: its length says little.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")

# A batch of 200 threads with 20 messages each has about 4 MiB and 150,000 values.
MAX_VALUES = 500_000
LEAST_VALUE_BYTES = 2  # a digit and its comma, or a pair of brackets
LARGE_BYTES = 4 * 2**20  # from here on, a body waits for room
MAX_LARGE_BODIES = 2
IN_THREAD_BYTES = 2**18  # below, decoding takes the event loop a few milliseconds
MAX_THREADS = 2  # so that an odd body, which takes seconds, holds up no other

STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def has_too_many_values(body: bytes) -> bool:
    """Return whether a body holds more than MAX_VALUES values, without decoding it: each follows a `,`, `[` or `{`.

    To count those takes a quarter of the time of decoding, so a body that is too short for so many is not looked at.
    """
    if len(body) <= LEAST_VALUE_BYTES * MAX_VALUES or _marks(body, 0, len(body)) <= MAX_VALUES:
        return False
    count, end = 0, 0
    for string in STRING.finditer(body):  # a text may hold as many commas as it likes
        count += _marks(body, end, string.start())
        if count > MAX_VALUES:
            return True
        end = string.end()
    return count + _marks(body, end, len(body)) > MAX_VALUES


def _marks(body: bytes, start: int, end: int) -> int:
    return body.count(b",", start, end) + body.count(b"[", start, end) + body.count(b"{", start, end)


class Room:
    """The share of one body in the room for large ones."""

    def __init__(self, slots: asyncio.Semaphore, held: AsyncExitStack, threads: ThreadPoolExecutor) -> None:
        self._slots = slots
        self._held = held
        self._threads = threads
        self._is_large = False

    async def grow(self, size: int, deadline: asyncio.Timeout) -> None:
        """Wait for room once the body is large. The wait does not count towards the deadline of its request."""
        if self._is_large or size <= LARGE_BYTES:
            return
        self._is_large = True
        loop, ends_at = asyncio.get_running_loop(), deadline.when()
        began = loop.time()
        deadline.reschedule(None)
        await self._held.enter_async_context(self._slots)
        deadline.reschedule(None if ends_at is None else ends_at + loop.time() - began)

    async def work(self, size: int, function: Callable[[], T]) -> T:
        """Call a function that works on the body, in a thread unless the body is small."""
        if size < IN_THREAD_BYTES:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


class LargeBodies:
    """The room for large bodies of one client.

    There are MAX_THREADS. A body whose caller was cancelled keeps its thread until it is decoded.
    """

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_LARGE_BODIES)
        self._threads = ThreadPoolExecutor(max_workers=MAX_THREADS, thread_name_prefix="decoding")

    @asynccontextmanager
    async def room(self) -> AsyncIterator[Room]:
        """Yield the room of one body, which lasts to the end of the block."""
        async with AsyncExitStack() as held:
            yield Room(self._slots, held, self._threads)

    def close(self) -> None:
        """Take no more work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
