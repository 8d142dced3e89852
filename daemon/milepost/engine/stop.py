"""What cuts waits and fetches short, and no commit: a change of plan, not a cancellation."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Bell:
    """While it rings, everything under `cut_short` ends at once."""

    def __init__(self) -> None:
        self._rings = asyncio.Event()
        self._scopes: set[asyncio.Timeout] = set()

    @property
    def rings(self) -> bool:
        """Whether it was rung and not silenced since."""
        return self._rings.is_set()

    def ring(self) -> None:
        """Begin to ring. Ringing again changes nothing."""
        if self._rings.is_set():
            return
        self._rings.set()
        for scope in self._scopes:
            scope.reschedule(asyncio.get_running_loop().time())

    def silence(self) -> None:
        """Stop ringing: what begins from now on runs its course."""
        self._rings.clear()

    async def wait(self) -> None:
        """Wait until it rings."""
        await self._rings.wait()

    @asynccontextmanager
    async def cut_short(self) -> AsyncIterator[None]:
        """Run the block until it ends or the bell rings, whichever comes first."""
        scope = asyncio.timeout(0 if self.rings else None)
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


class Stop(Bell):
    """The stop that is asked for, once and for all."""

    @property
    def is_requested(self) -> bool:
        """Whether the stop was asked for."""
        return self.rings

    def request(self) -> None:
        """Ask for the stop. Asking again changes nothing."""
        self.ring()
