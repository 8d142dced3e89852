"""Wrong tokens: limited per client, counted, and logged.

The right token is always accepted, whatever wrong ones came from the same address: behind a proxy everybody has that
address, and whoever guesses must not lock out the owner, a scrape or a command. So what keeps a token from being
guessed is not the limit but its length, at least 16 characters, which the settings demand.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import structlog
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from milepost.service.allowance import MAX_CLIENTS, Allowance

MAX_TRIES, IN_SECONDS = 10, 60.0
TELL_SECONDS = 60.0  # between two lines about one client
LOOK_SECONDS = 1.0  # between two looks at what there is to tell


class _Client:
    """The tries of a client that are not logged yet, and when the next line about it may be."""

    def __init__(self, now: float) -> None:
        self.tell_at = now
        self.tries = 0


class WrongTokens(Collector):
    """Hears of every wrong token. `clock` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allowance = Allowance(MAX_TRIES, IN_SECONDS, clock)
        self._clients: dict[str, _Client] = {}
        self._total = 0

    def count(self, client: str) -> float:
        """Count a wrong token of a client; return 0, or the seconds to wait where it is one too many.

        The first is logged at once. Where there are too many clients, the oldest is logged and forgotten.
        """
        self._total += 1
        if client not in self._clients and len(self._clients) >= MAX_CLIENTS:
            oldest = next(iter(self._clients))
            self._tell(oldest, self._clients.pop(oldest))
        known = self._clients.setdefault(client, _Client(self._clock()))
        known.tries += 1
        if known.tell_at <= self._clock():
            self._tell(client, known)
        return self._allowance.take(client)

    def tell_due(self) -> None:
        """Log the clients that went on since their last line, and forget those that did not."""
        now = self._clock()
        for client, known in [each for each in self._clients.items() if each[1].tell_at <= now]:
            if known.tries:
                self._tell(client, known)
            else:
                del self._clients[client]

    @asynccontextmanager
    async def told_in_time(self) -> AsyncIterator[None]:
        """Log what is due during the block, and the rest at its end."""
        looking = asyncio.create_task(self._look(), name="wrong tokens")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait({looking})
            for client, known in self._clients.items():
                self._tell(client, known)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Give the metric."""
        yield CounterMetricFamily(
            "milepost_wrong_tokens", "Requests and logins that came with a wrong token.", self._total
        )

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.tell_due()

    def _tell(self, client: str, known: _Client) -> None:
        if known.tries:
            structlog.get_logger("milepost").warning(
                "wrong token",
                client=client,
                tries=known.tries,
                hint="if you do not know who that is, keep them out before the daemon: docs/http-api.md",
            )
        known.tries, known.tell_at = 0, self._clock() + TELL_SECONDS
