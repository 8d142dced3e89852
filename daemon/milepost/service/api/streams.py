"""`/api/streams`: the status of every stream, and the actions sync, pause and resume."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.commands import PauseStream, ResumeStream, StreamCommand, SyncNow
from milepost.core.model import Stream
from milepost.core.retry import by_page
from milepost.reporting.health import DaemonStatus
from milepost.reporting.live import LiveStreams
from milepost.reporting.status import ConditionContext, State, rate_limits_of
from milepost.reporting.views import StreamStatus, as_of_daemon, status_of
from milepost.service.api.background import BackgroundWork, StillRunning, actions
from milepost.service.auth import actor_of
from milepost.service.endpoint import (
    CURSOR_DESCRIPTION,
    AnyOperation,
    Call,
    Limit,
    Nothing,
    Operation,
    Reply,
    etag_of,
    page_of,
)
from milepost.settings.model import SyncSettings
from milepost.stores.reader import JournalReader

PATH = "/api/streams"
ITEM_PATH = f"{PATH}/{{key}}"


# --- reading ----------------------------------------------------------------------------------------------------------


class StreamsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which streams to list."""

    after: Annotated[str, Meta(max_length=200, description=CURSOR_DESCRIPTION)] | None = None
    limit: Limit = 100
    state: Annotated[State, Meta(description="only streams in this state")] | None = None


class StreamParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The stream that the path names."""

    key: Annotated[str, Meta(max_length=200, description="the stream's key, such as messenger:1234567890")]


class Streams(Struct, frozen=True):
    """The status of streams at the instant `at`, in the order of their keys. `next` is null on the last page.

    `is_at_work` is whether a Milepost is at work; here it is: the one that answers.
    """

    at: datetime
    is_at_work: bool
    streams: tuple[StreamStatus, ...]
    next: str | None


class Overview(Struct, frozen=True, eq=False):
    """The state of all streams: those in the journal, and those that this daemon runs.

    `live` has their progress since the last entry, `worked` returns the keys of the streams that this daemon runs,
    `page_names` the names of pages by id, `sync` the settings in effect, and `daemon` the status of the daemon.
    """

    journal_reader: JournalReader
    live: LiveStreams
    now: Callable[[], datetime]
    worked: Callable[[], Sequence[str]]
    page_names: Callable[[], Mapping[str, str]]
    sync: Callable[[], SyncSettings]
    daemon: Callable[[], DaemonStatus]

    async def snapshot(self) -> "Snapshot":
        """Read the checkpoints of all streams, even for one: a rate limit of one stream may hold up others."""
        checkpoints = {each.stream.key: self.live.since(each) for each in await self.journal_reader.checkpoints()}
        sync, daemon = self.sync(), self.daemon()
        context = ConditionContext(
            self.now(),
            is_at_work=True,
            interval_seconds=sync.interval_seconds,
            batch_size=sync.batch_size,
        )
        rate_limits = by_page(rate_limits_of(checkpoints.values()))
        return Snapshot(context, checkpoints, rate_limits, frozenset(self.worked()), self.page_names(), daemon)


class Snapshot(Struct, frozen=True, eq=False):
    """The state of all streams at one instant. A status is computed on demand."""

    context: ConditionContext
    checkpoints: Mapping[str, Checkpoint]
    rate_limits: Callable[[Stream], Mapping[Stream, RateLimit]]
    worked: frozenset[str]
    page_names: Mapping[str, str]
    daemon: DaemonStatus

    def keys(self) -> list[str]:
        """Return the keys of the streams, sorted."""
        stored = {key for key, checkpoint in self.checkpoints.items() if checkpoint.removed_at is None}
        return sorted(self.worked | stored)

    def has(self, key: str) -> bool:
        """Return whether the stream exists: this daemon runs it, or the journal has a checkpoint for it."""
        checkpoint = self.checkpoints.get(key)
        return key in self.worked or (checkpoint is not None and checkpoint.removed_at is None)

    def status_of(self, key: str) -> StreamStatus:
        """Return the status of a stream."""
        stream = Stream.parse(key)
        checkpoint = self.checkpoints.get(key) or Checkpoint(stream)
        context = replace(self.context, rate_limits=self.rate_limits(stream))
        context = as_of_daemon(context, stream, self.daemon)
        return status_of(checkpoint, context, self.page_names, is_configured=key in self.worked)

    def page(self, query: StreamsQuery) -> Reply[Streams]:
        """Return a page of the listing."""
        statuses = (self.status_of(key) for key in self.keys() if query.after is None or key > query.after)
        matching = (each for each in statuses if query.state in (None, each.state))
        streams, cursor = page_of(list(islice(matching, query.limit + 1)), query.limit, lambda status: status.stream)
        page = Streams(self.context.now, is_at_work=True, streams=streams, next=cursor)
        return Reply(page, etag=etag_of((streams, cursor)))


def streams(overview: Overview) -> Sequence[AnyOperation]:
    """Declare the operations that read streams."""

    async def list_streams(call: Call[StreamsQuery, None]) -> Reply[Streams]:
        snapshot = await overview.snapshot()
        return await asyncio.to_thread(snapshot.page, call.parameters)  # a thousand streams take a tenth of a second

    async def show_stream(call: Call[StreamParameters, None]) -> Reply[StreamStatus]:
        snapshot, key = await overview.snapshot(), call.parameters.key
        if not snapshot.has(key):
            raise web.HTTPNotFound(text=f"there is no stream {key}")
        status = snapshot.status_of(key)
        return Reply(status, etag=etag_of(status))

    listing = Operation(
        "GET",
        PATH,
        "List the streams with their status",
        parameters=StreamsQuery,
        response=Streams,
        handle=list_streams,
        statuses=(200, 304),
    )
    showing = Operation(
        "GET",
        ITEM_PATH,
        "Show the status of a stream",
        parameters=StreamParameters,
        response=StreamStatus,
        handle=show_stream,
        statuses=(200, 304),
        problems={404: "no such stream"},
    )
    return [listing, showing]


# --- actions ----------------------------------------------------------------------------------------------------------

ExecuteStreamCommand = Callable[[Stream, StreamCommand], Awaitable[None]]


class StreamAction(StrEnum):
    """An action on a stream."""

    SYNC = "sync"
    PAUSE = "pause"
    RESUME = "resume"


class StreamActionOutcome(StrEnum):
    """How far the action has got: it is recorded, or waits for the batch in hand."""

    DONE = "done"
    ACCEPTED = "accepted"


class StreamActionResult(Struct, frozen=True):
    """The result of an action on a stream."""

    stream: str
    action: StreamAction
    outcome: StreamActionOutcome


class SyncBody(Struct, frozen=True, forbid_unknown_fields=True):
    """How to sync a stream: by a `full` sweep, or by whichever is due."""

    full: bool = False


def stream_actions(
    work: BackgroundWork, execute: ExecuteStreamCommand, worked: Callable[[], Sequence[str]]
) -> Sequence[AnyOperation]:
    """Declare the actions on streams.

    Args:
        work: runs them.
        execute: executes a command on a stream; raises MilepostError.
        worked: returns the keys of the streams that this daemon works.
    """

    async def act(
        call: Call[StreamParameters, Any], action: StreamAction, command: StreamCommand
    ) -> Reply[StreamActionResult]:
        key = call.parameters.key
        if key not in worked():
            raise web.HTTPNotFound(text=f"this daemon does not sync a stream {key}")
        done = await work.run(f"{action} of {key}", lambda: execute(Stream.parse(key), command))
        if isinstance(done, StillRunning):
            return Reply(StreamActionResult(key, action, StreamActionOutcome.ACCEPTED), status=202)
        return Reply(StreamActionResult(key, action, StreamActionOutcome.DONE))

    async def sync_stream(call: Call[StreamParameters, SyncBody]) -> Reply[StreamActionResult]:
        return await act(call, StreamAction.SYNC, SyncNow(actor_of(call.request), call.body.full))

    async def pause_stream(call: Call[StreamParameters, Nothing]) -> Reply[StreamActionResult]:
        return await act(call, StreamAction.PAUSE, PauseStream(actor_of(call.request)))

    async def resume_stream(call: Call[StreamParameters, Nothing]) -> Reply[StreamActionResult]:
        return await act(call, StreamAction.RESUME, ResumeStream(actor_of(call.request)))

    return actions(
        ITEM_PATH,
        StreamParameters,
        StreamActionResult,
        "this daemon does not sync such a stream",
        (StreamAction.SYNC, "Sync a stream now", SyncBody, sync_stream),
        (StreamAction.PAUSE, "Pause a stream", Nothing, pause_stream),
        (StreamAction.RESUME, "Resume a stream", Nothing, resume_stream),
    )
