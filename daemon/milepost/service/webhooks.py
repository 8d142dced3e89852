"""The listener for webhooks: an address of its own, on which nothing else is served.

Every client is a stranger until its signature is verified. So everything before that is bounded: the size of a body,
the time to receive it, and the memory of all bodies together. A request gets its 200 only once its events are stored.
But the sender unsubscribes an app that fails for an hour, so only events that would be lost may keep a request from
its 200.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import NoReturn
from urllib.parse import parse_qs

import structlog
from aiohttp import web
from msgspec import Struct
from yarl import URL

from milepost.core.errors import MilepostError
from milepost.core.webhooks import WebhookEvent, WebhookInbox
from milepost.engine.interrupt import bulkhead
from milepost.facebook.webhooks import (
    SIGNATURE_HEADER,
    Malformed,
    Route,
    UnknownAccount,
    Update,
    UpdateResult,
    challenge_of,
    signed_request_of,
    signing_secret,
    unknown_accounts,
    updates_in,
)
from milepost.service.http import Strangers, add_headers, headers_of, listening, runner_of
from milepost.service.limits import Allowance, too_many
from milepost.service.metrics.traffic import WRONG_SIGNATURE, WebhookCounter
from milepost.stores.store import GroupCommit

MAX_BODY_BYTES = 4 * 2**20  # Meta names no limit for these; 3 MB are documented for WhatsApp's
MAX_BYTES_AT_ONCE = 64 * 2**20
# The sender waits 5 seconds for an answer (Meta, "Messenger webhooks").
MAX_BODY_SECONDS = 2.0
MAX_STORE_SECONDS = 2.5
MAX_REQUESTS, IN_SECONDS = 40_000, 10.0
# How long the rest of a refused body is read and dropped: resetting the connection would lose the answer, too.
MAX_LINGER_SECONDS = 1.0
# The media type of the callbacks about people who logged in to the app.
FORM = "application/x-www-form-urlencoded"
MAX_FIELDS = 10
CODE_PARAMETER, CODE_CHARACTERS = "c", 16
CODE = re.compile(rf"[0-9a-f]{{{CODE_CHARACTERS}}}")
HANDSHAKE_HINT = "if it came from Meta, the verify token there is not webhooks.verify_token; anybody may send one"
NOTHING_STORED = (
    "Nothing is stored here about people who log in to this app, so nothing had to be deleted. "
    "Whoever wrote to a page can ask that page to delete the conversation.\n"
)

log = structlog.get_logger("milepost")


class WebhookCredentials(Struct, frozen=True):
    """What the sender must know: the handshake's token, and one of the signing secrets. Its repr shows none of them."""

    verify_token: str
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return "WebhookCredentials()"


Receive = Callable[[bytes], Awaitable[None]]
"""Stores the events of a body. Raises Malformed, or MilepostError if they cannot be stored now."""


class WebhookRequests:
    """Answers the requests of one path. `count` is called with the result of each request without events."""

    def __init__(
        self, path: str, credentials: Callable[[], WebhookCredentials], receive: Receive, count: Callable[[str], None]
    ) -> None:
        self._path = path
        self._credentials = credentials
        self._receive = receive
        self._count = count
        self._allowance = Allowance(MAX_REQUESTS, IN_SECONDS)
        self._bytes = 0
        self._signed_by: int | None = None

    async def answer(self, request: web.Request, strangers: Strangers) -> web.Response:
        """Answer a request. Raises aiohttp's HTTP errors."""
        if request.path != self._path:
            raise web.HTTPNotFound(text="")
        match request.method:
            case "GET" if CODE.fullmatch(request.query.get(CODE_PARAMETER, "")):
                return web.Response(text=NOTHING_STORED)
            case "GET":
                return self._shake_hands(request)
            case "POST":
                return await self._take(request, strangers)
            case method:
                raise web.HTTPMethodNotAllowed(method, ["GET", "POST"], text="")

    def _shake_hands(self, request: web.Request) -> web.Response:
        challenge = challenge_of(request.query, self._credentials().verify_token)
        self._count("handshake_refused" if challenge is None else "handshake")
        if challenge is None:
            log.warning("webhook handshake refused", hint=HANDSHAKE_HINT)
            raise web.HTTPForbidden(text="")
        log.info("webhook handshake")
        return web.Response(text=challenge)

    async def _take(self, request: web.Request, strangers: Strangers) -> web.Response:
        wait_seconds = self._allowance.take("")
        if wait_seconds:
            self._count("too_many")
            raise too_many("too many requests", wait_seconds)
        most = self._most_bytes(request)
        with self._buffer() as buffer:
            body = await self._read(request, buffer, most)
            if request.content_type == FORM:
                return self._answer_deletion(request, body)
            signature, secrets = request.headers.get(SIGNATURE_HEADER, ""), self._credentials().secrets
            signed_by = signing_secret(body, signature, secrets)
            if signed_by is None:
                self._refuse_signature(signature)
            strangers.admit(request.protocol)
            self._log_secret(signed_by)
            await self._store(body)
        return web.Response(text="stored\n")

    def _answer_deletion(self, request: web.Request, body: bytes) -> web.Response:
        """Answer Meta's data deletion or deauthorize callback: nothing is stored about the person.

        The callback is about somebody who logged in to the app, not a contact of a page. The id occurs nowhere else.
        """
        try:
            fields = parse_qs(body.decode("ascii", "replace"), max_num_fields=MAX_FIELDS)
            host = URL(f"https://{request.host}").origin()
        except ValueError as error:
            self._count("malformed")
            raise web.HTTPBadRequest(text="") from error
        signed_request = fields.get("signed_request", [""])[0]
        if signed_request_of(signed_request, self._credentials().secrets) is None:
            self._refuse_signature(signed_request)
        self._count("deletion_request")
        log.info("data deletion requested", hint=NOTHING_STORED.strip())  # without the id: logs are stored, too
        code = hashlib.sha256(body).hexdigest()[:CODE_CHARACTERS]
        url = host.with_path(self._path).with_query({CODE_PARAMETER: code})
        return web.json_response({"url": str(url), "confirmation_code": code})

    def _most_bytes(self, request: web.Request) -> int:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            self._count("too_large")  # its real size is unknown
            raise web.HTTPUnsupportedMediaType(text="send the body as it is, not compressed")
        length = request.content_length
        if length is not None and length > MAX_BODY_BYTES:
            self._count("too_large")
            raise web.HTTPRequestEntityTooLarge(MAX_BODY_BYTES, length, text="")
        return MAX_BODY_BYTES if length is None else length

    @contextmanager
    def _buffer(self) -> Iterator[bytearray]:
        """Yield a buffer for a body. It counts towards the memory of all bodies until the end of the block."""
        buffer = bytearray()
        try:
            yield buffer
        finally:
            self._bytes -= len(buffer)

    async def _read(self, request: web.Request, buffer: bytearray, most: int) -> bytes:
        """Read a body. The bytes received count, not Content-Length: a stranger can announce any size for free."""
        try:
            async with asyncio.timeout(MAX_BODY_SECONDS):
                async for chunk in request.content.iter_any():
                    buffer += chunk
                    self._bytes += len(chunk)
                    if len(buffer) > most:
                        self._count("too_large")
                        raise web.HTTPRequestEntityTooLarge(most, len(buffer), text="")
                    if self._bytes > MAX_BYTES_AT_ONCE:
                        self._count("too_many")
                        raise too_many("too many requests at once", 1.0)
        except TimeoutError as error:
            self._count("too_slow")
            raise web.HTTPRequestTimeout(text="") from error
        return bytes(buffer)

    def _refuse_signature(self, signature: str) -> NoReturn:
        self._count(WRONG_SIGNATURE if signature else "unsigned")  # Meta signs everything
        raise web.HTTPForbidden(text="")

    def _log_secret(self, index: int) -> None:
        """Log which secret signs, once and whenever that changes: for Instagram Login it is not documented."""
        if index != self._signed_by:
            self._signed_by = index
            name = "source.app_secret" if index == 0 else f"webhooks.secrets[{index - 1}]"
            log.info("webhook signature verified", secret=name)

    async def _store(self, body: bytes) -> None:
        try:
            async with asyncio.timeout(MAX_STORE_SECONDS):
                await self._receive(body)
        except Malformed as error:
            self._count("malformed")
            raise web.HTTPBadRequest(text=str(error)) from error
        except (MilepostError, TimeoutError) as error:
            self._count("store_away")
            raise web.HTTPServiceUnavailable(text="", headers={"Retry-After": "5"}) from error


@asynccontextmanager
async def serving_webhooks(host: str, port: int, requests: WebhookRequests) -> AsyncIterator[str]:
    """Serve webhooks during the block, and yield the URL of the listener.

    Raises BadConfiguration if the address cannot be listened on; MilepostError if that may pass.
    """
    strangers = Strangers()
    hear, _ = strangers.middlewares(lambda _: False)

    async def answer(request: web.Request) -> web.StreamResponse:
        async def attempt() -> web.StreamResponse:
            try:
                return await requests.answer(request, strangers)
            except web.HTTPException as error:
                return web.Response(status=error.status, text=error.text, headers=headers_of(error))
            except (web.RequestPayloadError, ConnectionResetError):  # raised where the body is read
                return web.Response(status=400)

        response = await bulkhead("webhooks", attempt())
        return web.Response(status=500) if isinstance(response, Exception) else response

    application = web.Application(middlewares=[hear])
    application.router.add_route("*", "/{path:.*}", answer)
    application.on_response_prepare.append(add_headers)
    runner = runner_of(
        application,
        auto_decompress=False,  # aiohttp would decompress even a body that is dropped unread
        lingering_time=MAX_LINGER_SECONDS,
        shutdown_timeout=MAX_STORE_SECONDS,
    )
    async with listening(runner, (host, port), strangers, key="webhooks.listen") as url:
        yield url


# --- storing events ---------------------------------------------------------------------------------------------------

MAX_GROUP = 200  # requests whose events share a transaction

Events = tuple[WebhookEvent, ...]


class WebhookIntake:
    """Stores the events of requests durably, several requests at a time, and counts the result of each update.

    `find` looks for the stream of an unknown Instagram account, and returns whether `route` knows it now. `arrived` is
    called when there is something new; `latest_at` is when the latest body was stored.
    """

    def __init__(
        self,
        inbox: WebhookInbox,
        route: Route,
        counter: WebhookCounter,
        now: Callable[[], datetime],
        arrived: Callable[[], None],
        find: Callable[[UnknownAccount], Awaitable[bool]],
    ) -> None:
        self._inbox = inbox
        self._route = route
        self._find = find
        self._counter = counter
        self._now = now
        self._arrived = arrived
        self.latest_at: datetime | None = None
        self._group_commit = GroupCommit[Events, frozenset[str]](self._write, MAX_GROUP)

    async def receive(self, body: bytes) -> None:
        """Store the events of a body. Raises Malformed, or MilepostError if they cannot be stored now."""
        updates = list(updates_in(body, self._route, self._now()))
        if any(update.result is UpdateResult.UNKNOWN_PAGE for update in updates):
            found = [await self._find(account) for account in unknown_accounts(body, self._route)]
            updates = list(updates_in(body, self._route, self._now())) if any(found) else updates
        events = tuple(event for update in updates for event in update.events)
        new = await self._group_commit.commit(events) if events else frozenset[str]()
        self.latest_at = self._now()
        for update in updates:
            self._counter.count(update.field, _result(update, new).value)
        if new:
            self._arrived()

    async def _write(self, group: list[Events]) -> Sequence[frozenset[str]]:
        """Store the events of several requests. An event that occurs in several of them is new in the first."""
        new = await self._inbox.add([event for events in group for event in events], self._now())
        found = []
        for events in group:
            keys = frozenset(event.key for event in events) & new
            found.append(keys)
            new -= keys
        return found


def _result(update: Update, new: frozenset[str]) -> UpdateResult:
    if update.result is not None:
        return update.result
    is_new = any(event.key in new for event in update.events)
    return UpdateResult.STORED if is_new else UpdateResult.DUPLICATE
