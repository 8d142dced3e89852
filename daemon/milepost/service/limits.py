"""Limits on requests, so that no client can use up what the others or the sync need.

The numbers are far above what a status page on each of 200 desks needs, and far below what hurts the sync.
"""

import asyncio
import ipaddress
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from milepost.engine.interrupt import running

MAX_CLIENTS = 4_096
MAX_REQUESTS, IN_SECONDS = 2_000, 10.0
NEVER_LIMITED = frozenset({"/healthz"})
_TOLERANCE_SECONDS = 1e-6  # for sums of floats


class Allowance:
    """A rate limit for each client: `most` at once, then one every `seconds / most` (generic cell rate algorithm).

    It keeps one number for each client, and at most MAX_CLIENTS of them: the client that has been quiet for longest is
    forgotten. `clock` is monotonic, in seconds.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._step = seconds / most
        self._clock = clock
        self._full_until: dict[str, float] = {}  # when a client's allowance is full again; the longest quiet first

    def take(self, client: str) -> float:
        """Count a request of a client; return 0 if it is allowed, or the seconds to wait if it is not."""
        now = self._clock()
        full_until = max(self._full_until.pop(client, now), now)
        wait_seconds = full_until + self._step - self._seconds - now
        is_refused = wait_seconds > _TOLERANCE_SECONDS
        self._full_until[client] = full_until if is_refused else full_until + self._step
        if len(self._full_until) > MAX_CLIENTS:
            del self._full_until[next(iter(self._full_until))]
        return wait_seconds if is_refused else 0.0


def too_many(what: str, wait_seconds: float) -> web.HTTPTooManyRequests:
    """Return a 429 with the time after which to retry."""
    seconds = max(1, math.ceil(wait_seconds - _TOLERANCE_SECONDS))
    return web.HTTPTooManyRequests(text=f"{what}: try again in {seconds} s", headers={"Retry-After": str(seconds)})


def client_of(request: web.Request) -> str:
    """Return the address that a request comes from; for IPv6 its /64 network, which usually belongs to one client.

    `X-Forwarded-For` is not trusted, because anybody can write it: behind a proxy all clients count as one.
    """
    try:
        address = ipaddress.ip_address((request.remote or "").partition("%")[0])
    except ValueError:
        return request.remote or "nowhere"
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Network((address, 64), strict=False))


def limit_requests(is_admitted: Callable[[web.Request], bool]) -> Middleware:
    """Limit the rate of requests: of all admitted clients together, and of each other client by itself.

    So a client without access can slow down neither the admitted ones nor others who want to log in.
    """
    admitted, others = Allowance(MAX_REQUESTS, IN_SECONDS), Allowance(MAX_REQUESTS, IN_SECONDS)

    @web.middleware
    async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in NEVER_LIMITED:
            wait_seconds = admitted.take("") if is_admitted(request) else others.take(client_of(request))
            if wait_seconds:  # refused at once: a queue would only hold connections
                raise too_many("too many requests", wait_seconds)
        return await handler(request)

    return limit


# --- wrong tokens -----------------------------------------------------------------------------------------------------

MAX_TRIES, TRIES_IN_SECONDS = 10, 60.0
LOG_SECONDS = 60.0  # between two log lines about one client
CHECK_SECONDS = 1.0  # between two checks for lines that are due


class _Client:
    """A client's wrong tokens that are not logged yet."""

    def __init__(self, now: float) -> None:
        self.log_at = now
        self.tries = 0


class WrongTokens(Collector):
    """Limits, counts and logs wrong tokens. `clock` is monotonic, in seconds.

    The right token is always accepted, however many wrong ones came from the same address: behind a proxy all clients
    share one address, and an attacker must not lock out the owner, a scrape or a command. So not this limit protects
    the token from being guessed, but its length: the settings require at least 16 characters.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allowance = Allowance(MAX_TRIES, TRIES_IN_SECONDS, clock)
        self._clients: dict[str, _Client] = {}
        self._total = 0

    def count(self, client: str) -> float:
        """Count a wrong token of a client; return 0, or the seconds to wait if it was one too many.

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
        """Log the clients that have sent more since their last line, and forget the others."""
        now = self._clock()
        for client, known in [each for each in self._clients.items() if each[1].log_at <= now]:
            if known.tries:
                self._log(client, known)
            else:
                del self._clients[client]

    @asynccontextmanager
    async def logging(self) -> AsyncIterator[None]:
        """Log what is due during the block, and the rest at its end."""
        try:
            async with running("wrong tokens", self._check()):
                yield
        finally:
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
