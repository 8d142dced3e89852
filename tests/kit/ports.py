"""TCP ports for servers that need a fixed one, or the same one after a restart."""

from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from socket import AF_INET, AF_UNIX, SOCK_STREAM, socket

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000
_CLAIMS: list[socket] = []  # held until this process ends, so that no other process of the tests gets the same port


def unused_port() -> int:
    """Return a loopback port on which nothing listens.

    The kernel would pick one from the range for outgoing connections: while the server is down, any connection might
    take it, and one to that very port would connect to itself. The tests' other processes are kept from it by a claim,
    whose name only one of them can have: until the server is up, and while it is down, the port itself is free.
    """
    end = int(EPHEMERAL.read_text().split()[0]) if EPHEMERAL.exists() else 32_768
    draw = SystemRandom()
    while True:
        port = draw.randrange(LOWEST, max(end, LOWEST + 1_000))
        claim = socket(AF_UNIX, SOCK_STREAM)
        with socket(AF_INET, SOCK_STREAM) as trial, suppress(OSError):
            claim.bind(f"\0milepost/tests/{port}")
            trial.bind(("127.0.0.1", port))
            _CLAIMS.append(claim)
            return port
        claim.close()
