"""What a daemon says of itself, asked without aiohttp: to load that takes as long as all of `milepost status`."""

import asyncio
import ipaddress

import msgspec

from milepost.reporting.health import DaemonStatus
from milepost.settings import HttpSettings

TIMEOUT_SECONDS = 5.0


async def fetch_status(http: HttpSettings) -> DaemonStatus | None:
    """Return the status of the daemon as a whole; None if it does not answer, or not to us."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            answer = await _get(http, "/api/daemon")
    except (OSError, TimeoutError):
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(maxsplit=2)[1:2] != [b"200"]:
        return None
    try:
        return msgspec.json.decode(body, type=DaemonStatus)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def _get(http: HttpSettings, path: str) -> bytes:
    """Return a whole answer, head and body. With HTTP/1.0 it comes in one piece, and the connection ends with it."""
    host, token = reached_at(http.host), http.token.get_secret_value()
    lines = [f"GET {path} HTTP/1.0", f"Host: {authority(host, http.port)}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    reader, writer = await asyncio.open_connection(host, http.port)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return await reader.read()
    finally:
        writer.close()


def reached_at(host: str) -> str:
    """Return where a server is reached that listens on a host; for all addresses, on this machine's loopback."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1"
    return host


def authority(host: str, port: int) -> str:
    """Return host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
