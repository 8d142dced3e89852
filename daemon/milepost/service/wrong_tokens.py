"""Wrong tokens: limited for each client, counted, and logged.

The right token is always accepted, whatever wrong ones came from the same address: behind a proxy that address is
everybody's, and whoever guesses must not lock out the owner, a scrape or a command. So it is not this limit that keeps
a token from being guessed, but its length: the settings demand 16 characters or more.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import structlog
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from milepost.service.limits import MAX_CLIENTS, Allowance

MAX_TRIES, IN_SECONDS = 10, 60.0
LOG_SECONDS = 60.0  # between two lines about one client
CHECK_SECONDS = 1.0  # between two checks for lines that are due


class _Client:
    """The tries of a client that are not logged yet."""

    def __init__(self, now: float) -> None:
        self.log_at = now
        self.tries = 0


class WrongTokens(Collector):
    """Limits, counts and logs wrong tokens. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allowance = Allowance(MAX_TRIES, IN_SECONDS, clock)
        self._clients: dict[str, _Client] = {}
        self._total = 0

    def count(self, client: str) -> float:
        """Count a wrong token of a client; return 0, or the seconds until there is room if it is one too many.

        The first is logged at once. With too many clients, the oldest is logged and forgotten.
        """
        self._total += 1
        if client not in self._clients and len(self._clients) >= MAX_CLIENTS:
            oldest = next(iter(self._clients))
            self._log(oldest, self._clients.pop(oldest))
        known = self._clients.setdefault(client, _Client(self._clock()))
        known.tries += 1
        if known.log_at <= self._clock():
            self._log(client, known)
        return self._allowance.take(client)

    def log_due(self) -> None:
        """Log the clients that have gone on since their last line, and forget those that have not."""
        now = self._clock()
        for client, known in [each for each in self._clients.items() if each[1].log_at <= now]:
            if known.tries:
                self._log(client, known)
            else:
                del self._clients[client]

    @asynccontextmanager
    async def logging(self) -> AsyncIterator[None]:
        """Log what is due during the block, and the rest at its end."""
        checking = asyncio.create_task(self._check(), name="wrong tokens")
        try:
            yield
        finally:
            checking.cancel()
            await asyncio.wait({checking})
            for client, known in self._clients.items():
                self._log(client, known)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the metric."""
        yield CounterMetricFamily("milepost_wrong_tokens", "Requests and logins with a wrong token.", self._total)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.log_due()

    def _log(self, client: str, known: _Client) -> None:
        if known.tries:
            structlog.get_logger("milepost").warning(
                "wrong token",
                client=client,
                tries=known.tries,
                hint="if you do not know this client, block it in front of the daemon: docs/http-api.md",
            )
        known.tries, known.log_at = 0, self._clock() + LOG_SECONDS
