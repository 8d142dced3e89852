"""Looks names up in threads that end with the process: a DNS server that does not answer must not hold up its end.

A thread of a pool would: Python waits for those at its end, and a lookup may take a minute.
"""

import asyncio
import socket
import threading
from contextlib import suppress

from aiohttp.abc import AbstractResolver, ResolveResult


class Resolver(AbstractResolver):
    """Looks each name up in a thread of its own."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises OSError if it has none, UnicodeError if it cannot be one."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(found: list[ResolveResult] | Exception) -> None:
            if future.done():  # nobody waits any more
                return
            if isinstance(found, Exception):
                future.set_exception(found)
            else:
                future.set_result(found)

        def work() -> None:
            found: list[ResolveResult] | Exception
            try:
                found = _look_up(host, port, family)
            except (OSError, UnicodeError) as error:
                found = error
            with suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=work, name=f"lookup of {host}", daemon=True).start()
        return await future

    async def close(self) -> None:
        """Close nothing: a thread ends with its lookup."""


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
