"""Rate limits per client, so that none of them uses up what the others need."""

import ipaddress
import math
import time
from collections.abc import Callable

from aiohttp import web

MAX_CLIENTS = 4_096
_TOLERANCE_SECONDS = 1e-6  # of the sums of floats


class Allowance:
    """A limit for each client: `most` at once, then one every `seconds / most` (the generic cell rate algorithm).

    It keeps one number per client, for MAX_CLIENTS at most: the one that has been quiet for longest is forgotten.
    `clock` gives seconds that only grow.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._step = seconds / most
        self._clock = clock
        self._full_until: dict[str, float] = {}  # when all of it is there again; the one that was quiet longest first

    def take(self, client: str) -> float:
        """Count one more of a client and return 0, or, where there is no room, the seconds until there is."""
        now = self._clock()
        full_until = max(self._full_until.pop(client, now), now)
        wait_seconds = full_until + self._step - self._seconds - now
        is_refused = wait_seconds > _TOLERANCE_SECONDS
        self._full_until[client] = full_until if is_refused else full_until + self._step
        if len(self._full_until) > MAX_CLIENTS:
            del self._full_until[next(iter(self._full_until))]
        return wait_seconds if is_refused else 0.0


def too_many(what: str, wait_seconds: float) -> web.HTTPTooManyRequests:
    """Return the error for one request too many; it says when to come back."""
    seconds = max(1, math.ceil(wait_seconds - _TOLERANCE_SECONDS))
    return web.HTTPTooManyRequests(text=f"{what}: try again in {seconds} s", headers={"Retry-After": str(seconds)})


def client_of(request: web.Request) -> str:
    """Return the address that a request comes from; for IPv6 its /64 network, all of which one client usually has.

    `X-Forwarded-For` is not trusted, because anybody can write it: behind a proxy, all clients are one.
    """
    try:
        address = ipaddress.ip_address((request.remote or "").partition("%")[0])
    except ValueError:
        return request.remote or "nowhere"
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return str(address)
    return str(address.ipv4_mapped or ipaddress.IPv6Network((address, 64), strict=False))
