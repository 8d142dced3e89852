"""TCP ports for servers that have to be told theirs, or that have to come back on the same one."""

from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from socket import AF_INET, SOCK_STREAM, socket

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000


def unused_port() -> int:
    """Give a port of the loopback interface on which nobody listens.

    The kernel would give one out of those from which connections are made: while the server is down, any connection
    might take it, and one to the very port would be answered by itself.
    """
    end = int(EPHEMERAL.read_text().split()[0]) if EPHEMERAL.exists() else 32_768
    draw = SystemRandom()
    while True:
        port = draw.randrange(LOWEST, max(end, LOWEST + 1_000))
        with socket(AF_INET, SOCK_STREAM) as trial, suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
