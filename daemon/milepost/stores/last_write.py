"""Whether a database takes writes: known from its latest commit or, some time later, found out by a small one.

A database that answers reads may take no writes: its disk is full, or it is a replica.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from milepost.core.errors import MilepostError, StoreAway, StoreRefused

T = TypeVar("T")

TRUSTED_SECONDS = 30.0  # after a write that succeeded, none is made to find out
# After one that failed, unless another one has succeeded: a small one may still fit where a batch does not. Longer
# than the longest wait between two attempts, by default.
DISTRUSTED_SECONDS = 60.0


class LastWrite:
    """Remembers how the latest write ended. `probe` makes a small one; `steady` is a monotonic clock in seconds."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        steady: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:
        self._probe = probe
        self._steady = steady
        self._succeeded_at = float("-inf")
        self._failure: MilepostError | None = None
        self._failed_at = float("-inf")

    async def watch(self, writing: Awaitable[T]) -> T:
        """Wait for a write, and remember how it ended."""
        try:
            result = await writing
        except (StoreAway, StoreRefused) as error:
            self._failure, self._failed_at = error, self._steady()
            raise
        self._failure, self._succeeded_at = None, self._steady()
        return result

    async def demand(self) -> None:
        """Raise StoreAway or StoreRefused if the database takes no writes."""
        now = self._steady()
        if self._failure is not None and now - self._failed_at < DISTRUSTED_SECONDS:
            raise type(self._failure)(self._failure.message, hint=self._failure.hint)
        if self._failure is not None or now - self._succeeded_at >= TRUSTED_SECONDS:
            await self._probe()
            self._failure, self._succeeded_at = None, now
