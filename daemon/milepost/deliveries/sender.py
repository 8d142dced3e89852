"""Sends changes to one receiver, and describes the result without quoting the response body."""

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from hashlib import sha256
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import ResolveResult
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook
from yarl import URL

from milepost import __version__
from milepost.core.changes import MAX_WAIT_SECONDS, Answer, Change, DeliveryResult
from milepost.core.journal import instant_text
from milepost.facebook.network import Resolver, trusted
from milepost.facebook.responses import retry_after_seconds
from milepost.settings.model import DeliverySettings
from milepost.settings.types import is_local_name

REQUEST_SECONDS = 15.0  # Standard Webhooks, "Deliverability": 15 to 30 seconds
TYPE = "milepost.changes"
MAX_BODY_BYTES = 900_000  # nginx takes up to 1 MiB by default; a single change may be larger


class Sender:
    """Sends changes to the receiver of a destination. Made by `sending_to`."""

    def __init__(self, destination: DeliverySettings, session: aiohttp.ClientSession) -> None:
        self._destination = destination
        self._session = session
        self._url = URL(destination.url)

    async def send(self, changes: Sequence[Change], now: datetime, replays: int = 0) -> Answer:
        """Send changes once. Failures of the receiver or the network are returned as an Answer, never raised."""
        message = message_of(f"{self._destination.name} {replays}", changes, self._destination.secret, now)
        try:
            async with (
                asyncio.timeout(REQUEST_SECONDS),
                # A redirect is not followed, because it could lead anywhere. The body is not read, because the receiver
                # controls its size.
                self._session.post(
                    self._url, data=message.body, headers=message.headers, allow_redirects=False
                ) as response,
            ):
                return answer_of(response.status, response.headers)
        except TimeoutError:
            return Answer(DeliveryResult.TIMED_OUT, f"no answer within {REQUEST_SECONDS:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return _unreached(error)


@asynccontextmanager
async def sending_to(destination: DeliverySettings) -> AsyncIterator[Sender]:
    """Open a sender, with connections of its own, and close it at the end. Raises BadConfiguration as `trusted`."""
    url = URL(destination.url)
    context = trusted(os.environ) if url.scheme == "https" else None
    connector = aiohttp.TCPConnector(
        resolver=GuardedResolver(may_be_private=is_local_name(url.host or "")),
        ssl=context or True,
        use_dns_cache=False,
        limit=1,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"milepost/{__version__}"},
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    ) as session:
        yield Sender(destination, session)


def answer_of(status: int, headers: Mapping[str, str]) -> Answer:
    """Return the Answer for a response with this status and these headers."""
    if 200 <= status < 300:
        return Answer(DeliveryResult.DELIVERED)
    asked = min(retry_after_seconds(headers), MAX_WAIT_SECONDS) or None
    redirects = ": redirects are not followed" if 300 <= status < 400 else ""
    return Answer(DeliveryResult.REFUSED, f"HTTP {status}{redirects}", asked)


def _unreached(error: Exception) -> Answer:
    """Return why there was no response. The error's own text is left out: it may quote the URL, which may be secret."""
    match error:
        case aiohttp.ClientConnectorDNSError(os_error=ForbiddenAddress()):
            what = "its name leads to a private address; write that address itself in `url` if it is meant"
            return Answer(DeliveryResult.FORBIDDEN_ADDRESS, what)
        case aiohttp.ClientConnectorDNSError():
            reason = "its name has no address"
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as invalid):
            reason = f"its certificate is not accepted: {invalid.verify_message}"
        case aiohttp.ClientSSLError():
            reason = "TLS failed"
        case OSError(errno=int(number)) if number > 0:
            reason = os.strerror(number).lower()
        case aiohttp.ClientResponseError():
            reason = "the answer is not HTTP"
        case _:
            reason = "the connection was lost"
    return Answer(DeliveryResult.UNREACHABLE, reason)


# --- the request: a Standard Webhooks message (standardwebhooks.com) --------------------------------------------------


class Message(msgspec.Struct, frozen=True):
    """A body, and the headers that sign it. Equal changes have equal ids, so that a receiver recognises a repeat."""

    body: bytes
    headers: Mapping[str, str]


def fitting(changes: Sequence[Change]) -> Sequence[Change]:
    """Return as many of the first changes as fit in a body, but at least one."""
    left = MAX_BODY_BYTES
    for count, change in enumerate(changes):
        left -= len(msgspec.json.encode(change)) + 1
        if left < 0 and count > 0:
            return changes[:count]
    return changes


def message_of(sent_for: str, changes: Sequence[Change], secrets: Sequence[SecretStr], now: datetime) -> Message:
    """Return the message with these changes, signed with each of the secrets.

    Its id depends on the changes and on `sent_for`, which names the destination and the number of its replay.
    """
    content = msgspec.json.encode(changes)
    message_id = f"msg_{sha256(sent_for.encode() + b' ' + content).hexdigest()[:32]}"
    data: dict[str, Any] = {"type": TYPE, "timestamp": instant_text(now), "data": {"changes": msgspec.Raw(content)}}
    body = msgspec.json.encode(data)
    signed = (Webhook(secret.get_secret_value()).sign(message_id, now, body.decode()) for secret in secrets)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signed),
    }
    return Message(body, headers)


# --- where a receiver's name may lead ---------------------------------------------------------------------------------

# Not into our own network, unless the configuration itself names a host there. Whoever runs a name's DNS can point it
# at another address at any moment: at a database on this machine, or at a cloud's credentials at 169.254.169.254. So
# the addresses are checked for every connection, and only the ones that passed are connected to.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class ForbiddenAddress(OSError):
    """A name leads into a private network."""


def is_public(address: str) -> bool:
    """Return whether an address belongs to a host on the Internet; an IPv4 address inside an IPv6 one counts too."""
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


class GuardedResolver(Resolver):
    """Lets only addresses on the Internet pass.

    With `may_be_private` every address passes: the configuration names the host as one of our own network. A host that
    is an address is never looked up.
    """

    def __init__(self, *, may_be_private: bool) -> None:
        self._may_be_private = may_be_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises ForbiddenAddress if none of them is public, OSError if it has none."""
        found = await super().resolve(host, port, family)
        allowed = [each for each in found if self._may_be_private or is_public(each["host"])]
        if found and not allowed:
            raise ForbiddenAddress(f"{host} leads to a private address")
        return allowed
