"""Limits on requests, so that what one client uses up is not missing to the others, or to the sync.

The numbers are far above what a status page on each of 200 desks needs, and far below what hurts the sync.
"""

import ipaddress
import math
import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

MAX_CLIENTS = 4_096
MAX_REQUESTS, IN_SECONDS = 2_000, 10.0
NEVER_LIMITED = frozenset({"/healthz"})
_TOLERANCE_SECONDS = 1e-6  # for sums of floats


class Allowance:
    """A rate limit for each client: `most` at once, then one every `seconds / most` (generic cell rate algorithm).

    It keeps one number a client, and of MAX_CLIENTS at most: the one that has been quiet for longest is forgotten.
    `clock` is monotonic, in seconds.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._step = seconds / most
        self._clock = clock
        self._full_until: dict[str, float] = {}  # when a client's allowance is whole again; quiet for longest first

    def take(self, client: str) -> float:
        """Count one more of a client; return 0, or the seconds until there is room if there is none."""
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
    """Return the address that a request comes from; for IPv6 its /64 network, all of which belongs to one client.

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

    So a client without access takes nothing from those who have it, nor from others who want to log in.
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
