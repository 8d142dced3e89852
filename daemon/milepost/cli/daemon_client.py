"""A client of the daemon's HTTP service (docs/http-api.md), for commands that the daemon has to perform.

It imports nothing of the service, which would load an HTTP server as well: half as much again as the client.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar, assert_never
from urllib.parse import quote

import aiohttp
import msgspec

from milepost import __version__
from milepost.core.commands import (
    DeadLetterCommand,
    Discard,
    PauseStream,
    RecordTokenHealth,
    Redrive,
    ResumeStream,
    StreamCommand,
    SyncNow,
)
from milepost.core.errors import BadConfiguration, MilepostError, StoreAway, StoreBusy
from milepost.core.model import Stream
from milepost.reporting.views import ActionResult, closed, refused
from milepost.settings.model import HttpSettings
from milepost.settings.types import authority, reached_at

# The daemon looks the dead letter up and then waits for its redrive; each takes at most half a minute.
TIMEOUT = aiohttp.ClientTimeout(total=65.0, sock_connect=5.0)
STREAMS, OVERVIEW = "/api/streams", "/api/overview"

AnswerT = TypeVar("AnswerT")
Body = Mapping[str, str | bool]


class WorkedStream(msgspec.Struct):
    """A stream as the daemon lists it. `is_configured` says whether the daemon runs it."""

    stream: str
    page_id: str
    page_name: str
    is_configured: bool | None


class _Listing(msgspec.Struct):
    """A page of the listing of streams."""

    streams: tuple[WorkedStream, ...]
    next: str | None


class _SweepChange(msgspec.Struct):
    """The progress of a sweep, including batches that changed nothing and so are not in the journal."""

    conversations: int | msgspec.UnsetType = msgspec.UNSET


class _StreamChange(msgspec.Struct):
    sweep: _SweepChange | msgspec.UnsetType | None = msgspec.UNSET


class _OverviewChanges(msgspec.Struct):
    """The streams that have changed since the answer `since`; all streams if that is null."""

    tag: str
    since: str | None
    streams: dict[str, _StreamChange]
    removed: tuple[str, ...]


class Daemon:
    """The HTTP service of a daemon at `url`, opened by `daemon_at`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def do(self, command: DeadLetterCommand) -> ActionResult:
        """Have the daemon perform a command on a dead letter. Raises as `ask` does."""
        action, body = _request(command)
        path = f"/api/dead-letters/{command.dead_letter_id}/{action}"
        status, answer = await self._send("POST", path, body)
        match status:
            case 200 | 202:
                return self._decode(answer, ActionResult)
            case 404 if "no open dead letter" in _detail(answer):  # it was open a moment ago
                return closed(command.dead_letter_id)
            case 409:
                return refused(command.dead_letter_id, _detail(answer))
            case _:
                raise self._failed(status, answer)

    async def ask(self, stream: Stream, command: StreamCommand) -> None:
        """Have the daemon execute a command for a stream.

        Raises:
            BadConfiguration: the daemon requires another token.
            StoreBusy: it does not answer.
            StoreAway: its database is unavailable.
            MilepostError: the command failed, or the server is not a daemon of this version.
        """
        action, body = _request(command)
        status, answer = await self._send("POST", f"{STREAMS}/{quote(stream.key)}/{action}", body)
        match status:
            case 200 | 202:
                return
            case 404 | 409 if _detail(answer):
                raise MilepostError(_detail(answer))
            case _:
                raise self._failed(status, answer)

    async def _send(self, method: str, path: str, body: Body | None = None) -> tuple[int, bytes]:
        data = None if body is None else msgspec.json.encode(body)
        try:
            # A redirect could send the token to another server.
            async with self._session.request(
                method, f"{self._url}{path}", data=data, allow_redirects=False
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StoreBusy(
                f"another Milepost is using the database and does not answer at {self._url}: {_why(error)}",
                hint="if it is a sync, let it finish; if it is the daemon, check that http.listen is still the same; "
                "if neither runs, check that this user may open the database",
            ) from error

    async def fetch_streams(self) -> list[WorkedStream]:
        """Return the streams that the daemon knows. Raises as `ask` does."""
        streams, after = list[WorkedStream](), ""
        while True:
            page = await self._get(f"{STREAMS}?limit=1000&after={quote(after)}", _Listing)
            streams += page.streams
            if page.next is None:
                return streams
            after = page.next

    async def fetch_changes(self, since: str) -> _OverviewChanges:
        """Return what has changed since the answer with that tag; everything for "". Raises as `ask` does."""
        return await self._get(f"{OVERVIEW}?since={quote(since)}" if since else OVERVIEW, _OverviewChanges)

    async def _get(self, path: str, kind: type[AnswerT]) -> AnswerT:
        status, body = await self._send("GET", path)
        if status != 200:
            raise self._failed(status, body)
        return self._decode(body, kind)

    def _failed(self, status: int, body: bytes) -> MilepostError:
        match status:
            case 401:
                return BadConfiguration(
                    f"the daemon at {self._url} refuses the token",
                    hint="set http.token (or token_file) to what the daemon was started with",
                )
            case 503:
                return StoreAway(f"the daemon at {self._url} cannot do it now: {_detail(body)}")
            case _:
                return self._unexpected(f"HTTP {status}: {_detail(body) or 'no reason given'}")

    def _decode(self, body: bytes, kind: type[AnswerT]) -> AnswerT:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._unexpected("with something that this version does not understand") from error

    def _unexpected(self, what: str) -> MilepostError:
        return MilepostError(
            f"{self._url} answers {what}", hint="check whether another program, or another version, is at http.listen"
        )


class OpenSweeps:
    """How many conversations the open sweeps of a daemon have read. Each `read` asks only for what has changed."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._tag = ""
        self._read: dict[Stream, int] = {}

    async def read(self) -> Mapping[Stream, int]:
        """Return the counts by stream; if the daemon does not answer, those of the previous call."""
        try:
            changes = await self._daemon.fetch_changes(self._tag)
        except MilepostError:  # it may be about to end, which the caller notices by itself
            return self._read
        self._tag = changes.tag
        if changes.since is None:
            self._read.clear()
        for key in changes.removed:
            self._read.pop(Stream.parse(key), None)
        for key, change in changes.streams.items():
            match change.sweep:
                case None:
                    self._read.pop(Stream.parse(key), None)
                case _SweepChange(conversations=int(conversations)):
                    self._read[Stream.parse(key)] = conversations
                case _:
                    pass
        return self._read


@asynccontextmanager
async def daemon_at(http: HttpSettings) -> AsyncIterator[Daemon]:
    """Open a client of the daemon at the configured address. Raises BadConfiguration if that has no fixed port."""
    if http.port == 0:
        raise BadConfiguration(
            "the daemon is using the database, and its address is not known: the port of http.listen is 0",
            hint="set a port in http.listen, and restart the daemon",
        )
    token = http.token.get_secret_value()
    headers = {"Content-Type": "application/json", "User-Agent": f"milepost/{__version__}"} | (
        {"Authorization": f"Bearer {token}"} if token else {}
    )
    async with aiohttp.ClientSession(headers=headers, timeout=TIMEOUT) as session:
        yield Daemon(session, f"http://{authority(reached_at(http.host), http.port)}")


def _request(command: DeadLetterCommand | StreamCommand) -> tuple[str, Body]:
    """Return the action that a command asks for, and its body."""
    match command:
        case Redrive():
            return "redrive", {}
        case Discard(reason=reason):
            return "discard", {"reason": reason}
        case SyncNow(full=full):
            return "sync", {"full": full}
        case PauseStream():
            return "pause", {}
        case ResumeStream():
            return "resume", {}
        case RecordTokenHealth():
            raise TypeError("the daemon checks tokens itself")
        case unknown:
            assert_never(unknown)


class _ProblemDetails(msgspec.Struct):
    """The part of a problem that is shown (RFC 9457)."""

    detail: str = ""


def _detail(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_ProblemDetails).detail
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, aiohttp.ClientConnectorError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return "the connection was lost"
