"""A stop that is asked for: a change of plan, not a cancellation. It cuts waits and fetches short, and no commit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Stop:
    """Asked for once; from then on everything under `cut_short` ends at once."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._scopes: set[asyncio.Timeout] = set()

    @property
    def is_requested(self) -> bool:
        """Whether the stop was asked for."""
        return self._requested.is_set()

    def request(self) -> None:
        """Ask for the stop. Asking again changes nothing."""
        if self._requested.is_set():
            return
        self._requested.set()
        for scope in self._scopes:
            scope.reschedule(asyncio.get_running_loop().time())

    async def wait(self) -> None:
        """Wait until the stop is asked for."""
        await self._requested.wait()

    @asynccontextmanager
    async def cut_short(self) -> AsyncIterator[None]:
        """Run the block until it ends or the stop is asked for, whichever comes first."""
        scope = asyncio.timeout(0 if self.is_requested else None)
        try:
            async with scope:
                self._scopes.add(scope)
                try:
                    yield
                finally:
                    self._scopes.discard(scope)
        except TimeoutError:
            if not scope.expired():  # the block's own
                raise
