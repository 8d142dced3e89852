"""Where a receiver's name may lead: not into our own network, unless the configuration itself names a host there.

A name belongs to whoever runs its DNS, and may lead to another address at any moment: to a database on this machine, or
to the credentials of a cloud at 169.254.169.254. So the addresses are looked at whenever a connection is made, and only
those that passed are connected to.
"""

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class ForbiddenAddress(OSError):
    """A name leads into a private network."""


def is_public(address: str) -> bool:
    """Return whether an address belongs to a host on the Internet, also where it wraps another one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.teredo is not None or (inner is not None and not is_public(str(inner))):
            return False
        if inner is not None and ip in _NAT64:
            return True
    return ip.is_global and not ip.is_multicast


class GuardedResolver(AbstractResolver):
    """Looks names up, in a thread of its own: one whose DNS is silent holds up nobody else.

    With `may_be_private`, which is for a host that the configuration names as one of our own network, every address
    passes. Hosts that are addresses are never looked up.
    """

    def __init__(self, *, may_be_private: bool) -> None:
        self._may_be_private = may_be_private
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="delivery-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises ForbiddenAddress if none of them is public, OSError if it has none."""
        found = await asyncio.get_running_loop().run_in_executor(self._thread, _look_up, host, port, family)
        allowed = [each for each in found if self._may_be_private or is_public(each["host"])]
        if found and not allowed:
            raise ForbiddenAddress(f"{host} leads to a private address")
        return allowed

    async def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, protocol, _, address in found
    ]
