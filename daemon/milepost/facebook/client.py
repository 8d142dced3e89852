"""The HTTP client of the Graph API: bodies are bounded, failures are values, and results contain no token."""

import asyncio
import hmac
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Literal, Self, TypeVar

import aiohttp
import structlog
from msgspec import Struct
from yarl import URL

from milepost import __version__
from milepost.core.checkpoint import TOLERATED_SECONDS
from milepost.core.ports import Refused
from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.decoding import HeadRoom
from milepost.facebook.network import Proxy, Resolver, route_to
from milepost.facebook.redaction import KnownTokens, without_token
from milepost.facebook.responses import asked_by_server

T = TypeVar("T")
Method = Literal["GET", "POST"]

MAX_BODY_BYTES = 32 * 2**20  # a batch of 200 threads with 20 messages each has about 4 MiB
MAX_CONNECTIONS = 1000  # as many as the streams that one daemon is expected to run at once
MAX_HEADER_BYTES = 64 * 2**10  # X-Business-Use-Case-Usage has up to 32 ids with several entries each
MAX_HOST_CHARACTERS = 253  # RFC 1035
# A batch of 200 threads with 20 messages each has about 4 MiB and 150,000 values.
MAX_VALUES = 500_000
LEAST_VALUE_BYTES = 2  # a digit and its comma, or a pair of brackets
LARGE_BYTES = 4 * 2**20  # a larger body waits for room
MAX_LARGE_BODIES = 2
IN_THREAD_BYTES = 2**18  # decoding a smaller body blocks the event loop for only a few milliseconds
MAX_THREADS = 2  # so that an odd body, which takes seconds, does not delay the others

# The closing quote is optional, or the search for one that is missing would begin anew at each escaped quote.
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*("?)', re.DOTALL)

log = structlog.get_logger()


# --- large bodies -----------------------------------------------------------------------------------------------------

# Only a few are in memory at a time, their number of values is limited, and they are decoded in a thread. The length of
# a body alone says little: one of 16 MiB may hold 8,000,000 items, which take 2 GB and a minute to decode.


def has_too_many_values(body: bytes) -> bool:
    """Return whether a body holds more than MAX_VALUES values, without decoding it: each follows a `,`, `[` or `{`.

    Counting them takes a quarter of the time of decoding, so a body too short for that many values is not scanned.
    """
    if len(body) <= LEAST_VALUE_BYTES * MAX_VALUES or _marks(body, 0, len(body)) <= MAX_VALUES:
        return False
    count, end = 0, 0
    for string in STRING.finditer(body):  # a text may hold as many commas as it likes
        count += _marks(body, end, string.start())
        if count > MAX_VALUES:
            return True
        end = string.end() if string[1] else string.start()  # one that never ends is not trusted
    return count + _marks(body, end, len(body)) > MAX_VALUES


def _marks(body: bytes, start: int, end: int) -> int:
    return body.count(b",", start, end) + body.count(b"[", start, end) + body.count(b"{", start, end)


class Room:
    """The memory for one body. Large bodies share `slots`, and are decoded in `threads`.

    If its caller is cancelled, a body keeps its thread until it is decoded.
    """

    def __init__(self, slots: asyncio.Semaphore, threads: ThreadPoolExecutor) -> None:
        self._slots = slots
        self._threads = threads
        self._is_large = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_large:
            self._slots.release()

    async def grow(self, size: int, deadline: asyncio.Timeout) -> None:
        """Wait for a slot once the body is large. The wait does not count towards the deadline of its request."""
        if self._is_large or size <= LARGE_BYTES:
            return
        loop, ends_at = asyncio.get_running_loop(), deadline.when()
        began = loop.time()
        deadline.reschedule(None)
        await self._slots.acquire()
        self._is_large = True
        deadline.reschedule(None if ends_at is None else ends_at + loop.time() - began)

    async def work(self, size: int, function: Callable[[], T]) -> T:
        """Call a function on the body, in a thread unless the body is small."""
        if size < IN_THREAD_BYTES:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


# --- the client -------------------------------------------------------------------------------------------------------


class ConnectionLost(aiohttp.ClientError):
    """A connection was lost before the response. Unlike aiohttp's own errors, it does not make aiohttp retry."""


class GraphResponse(Struct, frozen=True):
    """An HTTP response of any status. The token of the request is redacted from the body.

    `asked_at` is the time of the request, or a little earlier: by our clock or the server's, whichever is behind.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    asked_at: datetime
    took_seconds: float


class GraphClient:
    """Makes requests to the Graph API at `base_url`, version `version` (`v26.0`). An async context manager.

    With an app secret each call is signed (`appsecret_proof`; Meta, "Secure Graph API calls"). The server's Date can
    only make a time earlier than `clock`, never later; `ahead_seconds` is how far `clock` was ahead of it in the latest
    response. `request_timeout_seconds` may be changed at any time. The environment may name a `proxy` and certificate
    authorities (see facebook/network.py). Raises BadConfiguration if those cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        version: str,
        *,
        clock: Callable[[], datetime],
        app_secret: str = "",
        request_timeout_seconds: float = 30.0,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.request_timeout_seconds = request_timeout_seconds
        self._root = URL(base_url) / version
        self.proxy, self._trusted = route_to(self._root, os.environ)
        self._version = version
        self._clock = clock
        self.known_tokens = KnownTokens()
        self.head_room = HeadRoom()
        self.rotate_app_secret(app_secret)
        self._max_body_bytes = max_body_bytes
        self._slots = asyncio.Semaphore(MAX_LARGE_BODIES)
        self._threads = ThreadPoolExecutor(max_workers=MAX_THREADS, thread_name_prefix="decoding")
        self._has_warned_of_version = False
        self.ahead_seconds = 0.0
        self.clocks_differ_since: datetime | None = None

    async def __aenter__(self) -> Self:
        if self.proxy is not None:
            log.info("requests go through a proxy", proxy=str(self.proxy))
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=self._trusted or True, resolver=Resolver()),
            proxy=self.proxy.url if self.proxy else None,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"milepost/{__version__}"},
            timeout=aiohttp.ClientTimeout(total=None),
            max_field_size=MAX_HEADER_BYTES,
            middlewares=(_once,),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._session.close()

    def url(self, path: str) -> URL:
        """Return the full URL of a path such as `1234567890/conversations`, which must be quoted already."""
        return self._root.joinpath(path, encoded=True)

    def rotate_app_secret(self, app_secret: str) -> None:
        """Sign with another app secret from the next call on; an empty one turns signing off."""
        self._app_secret = app_secret
        self.known_tokens.learn(app_secret)

    async def get(self, path: str, parameters: Mapping[str, str], access_token: str) -> GraphResponse | Refused:
        """Make one request, without following redirects. Failures of the server or the network become a Refused."""
        return await self.call(path, parameters, access_token, lambda response: response)

    async def call(
        self,
        path: str,
        parameters: Mapping[str, str],
        access_token: str,
        decode: Callable[[GraphResponse], T],
        method: Method = "GET",
    ) -> T | Refused:
        """Make one request, as `get` does, and decode the response, in a thread if it is large."""
        began_at, began = self._clock(), asyncio.get_running_loop().time()
        with Room(self._slots, self._threads) as room:
            signed = self._signed(parameters, access_token)
            received = await self._exchange(method, path, signed, access_token, room)
            took_seconds = asyncio.get_running_loop().time() - began
            if isinstance(received, Problem):
                return Refused(received, took_seconds)
            response, body = received
            asked_at = self._asked_at(response, began_at, took_seconds)

            def decoded() -> T | Refused:
                if has_too_many_values(body):
                    return Refused(_too_many_values(response.status), took_seconds)
                clean = without_token(body, access_token)
                return decode(GraphResponse(response.status, response.headers, clean, asked_at, took_seconds))

            return await room.work(len(body), decoded)

    async def _exchange(
        self, method: Method, path: str, parameters: Mapping[str, str], access_token: str, room: Room
    ) -> tuple[aiohttp.ClientResponse, bytes] | Problem:
        headers = {"Authorization": f"Bearer {access_token}"}
        try:
            async with (
                asyncio.timeout(self.request_timeout_seconds) as deadline,
                self._session.request(
                    method,
                    self.url(path),
                    params=parameters,
                    headers=headers,
                    allow_redirects=False,
                    proxy_headers=self.proxy.headers if self.proxy else None,
                ) as response,
            ):
                body = await self._read(response, room, deadline)
                return body if isinstance(body, Problem) else (response, body)
        except TimeoutError:
            return Problem(ProblemKind.TIMEOUT, f"no response within {self.request_timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return _problem_of(error, self._root.host, self.proxy)

    def _asked_at(self, response: aiohttp.ClientResponse, began_at: datetime, took_seconds: float) -> datetime:
        """Return the time of the request, by our clock or the server's, whichever is behind."""
        self._compare_version(response.headers.get("facebook-api-version"))
        asked_at = began_at.replace(microsecond=0)
        asked_by_its_clock = asked_by_server(response.headers.get("Date"), took_seconds)
        if asked_by_its_clock is None:
            return asked_at
        self._compare_clocks(began_at, asked_by_its_clock, took_seconds)
        return min(asked_at, asked_by_its_clock)

    def _signed(self, parameters: Mapping[str, str], access_token: str) -> Mapping[str, str]:
        if not self._app_secret:
            return parameters
        proof = hmac.digest(self._app_secret.encode(), access_token.encode(), "sha256").hex()
        return {**parameters, "appsecret_proof": proof}

    async def _read(self, response: aiohttp.ClientResponse, room: Room, deadline: asyncio.Timeout) -> bytes | Problem:
        """Read the body piece by piece. A declared length that is too large is refused at once; none is trusted."""
        if 300 <= response.status < 400:
            return _redirect(response)
        pieces, size = [], 0
        if (response.content_length or 0) <= self._max_body_bytes:
            async for piece in response.content.iter_any():
                pieces.append(piece)
                size += len(piece)
                if size > self._max_body_bytes:
                    break
                await room.grow(size, deadline)
            else:
                return b"".join(pieces)
        response.close()
        message = f"the response is larger than {self._max_body_bytes / 2**20:g} MiB"
        return Problem(ProblemKind.OVERSIZE, message, http_status=response.status)

    def _compare_version(self, answered: str | None) -> None:
        differs = answered is not None and answered.isascii() and answered != self._version
        if differs and not self._has_warned_of_version:
            self._has_warned_of_version = True
            log.warning("API version differs", asked=self._version, answered=answered)

    def _compare_clocks(self, began_at: datetime, asked_by_server: datetime, took_seconds: float) -> None:
        """Log once that the clocks differ, and again only after they have agreed."""
        self.ahead_seconds = (began_at - asked_by_server).total_seconds()
        if abs(self.ahead_seconds) <= TOLERATED_SECONDS + took_seconds:
            self.clocks_differ_since = None
        elif self.clocks_differ_since is None:
            self.clocks_differ_since = began_at.replace(microsecond=0)
            behind = "ahead of" if self.ahead_seconds > 0 else "behind"
            log.warning(
                "clocks differ from the API's",
                ours=f"{abs(self.ahead_seconds):.0f} s {behind} the server's Date",
                hint="the earlier one counts: nothing is missed, but more is read again; "
                "check the machine's time synchronization (timedatectl)",
            )


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from retrying: a second call would break the pace, and might violate a rate limit."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise ConnectionLost from error


def _too_many_values(http_status: int) -> Problem:
    message = f"the response holds more than {MAX_VALUES:,} values, which no batch has"
    return Problem(ProblemKind.OVERSIZE, message, http_status=http_status)


def _redirect(response: aiohttp.ClientResponse) -> Problem:
    try:
        host = URL(response.headers.get("Location", "")).raw_host or "the same host"
    except ValueError:
        host = "an unreadable URL"
    message = f"a redirect to {host[:MAX_HOST_CHARACTERS]}; the Graph API never redirects"
    return Problem(ProblemKind.INVALID_RESPONSE, message, http_status=response.status)


def _tls_failure(error: aiohttp.ClientSSLError, host: str | None) -> str:
    """Describe why there is no TLS. The number of such an error is none of the operating system."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=refused):
            why = getattr(refused, "verify_message", "") or "no reason is given"
            return f"the certificate of {host} is not trusted: {why} (SSL_CERT_FILE names private authorities)"
        case aiohttp.ClientConnectorSSLError(os_error=failed):
            return f"no TLS connection to {host}: {getattr(failed, 'reason', None) or type(failed).__name__}"
        case _:
            return f"no TLS connection to {host} ({type(error).__name__})"


def _problem_of(error: aiohttp.ClientError | OSError, host: str | None, proxy: Proxy | None) -> Problem:
    """Describe a failed exchange without its URL, whose query holds the signature."""
    cause = error.__cause__ if isinstance(error, ConnectionLost) else error
    if proxy is not None and isinstance(cause, aiohttp.ClientProxyConnectionError | aiohttp.ClientConnectorDNSError):
        host = f"the proxy {proxy} (HTTPS_PROXY)"  # the proxy itself resolves the API's name
    match cause:
        case aiohttp.ClientHttpProxyError(status=407):
            message = f"the proxy {proxy} asks for a user and password: write them into HTTPS_PROXY"
        case aiohttp.ClientHttpProxyError(status=status):
            message = f"the proxy {proxy} (HTTPS_PROXY) makes no connection to {host}: HTTP {status}"
        case aiohttp.ClientResponseError():
            return Problem(ProblemKind.INVALID_RESPONSE, f"the response of {host} is not HTTP")
        case aiohttp.ClientSSLError():
            message = _tls_failure(cause, host)
        case aiohttp.ClientConnectorDNSError():
            message = f"the name of {host} does not resolve" if proxy else f"the name {host} does not resolve"
        case aiohttp.ClientPayloadError():
            message = f"the response of {host} broke off"
        case aiohttp.ServerDisconnectedError():
            message = f"{host} closed the connection without a response"
        case OSError(errno=int(number)) if number > 0:
            message = f"no connection to {host}: {os.strerror(number)}"
        case _:
            message = f"no connection to {host} ({type(cause).__name__})"
    return Problem(ProblemKind.NETWORK, message)
