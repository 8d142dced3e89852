"""`/api/streams`: where every stream stands."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.model import Stream
from milepost.core.rate_limits import by_page
from milepost.reporting.status import ConditionContext, State, rate_limits_of
from milepost.service.api.endpoint import AnyOperation, Call, Operation, Reply, tag_of
from milepost.service.api.paging import FROM, Limit, page_of
from milepost.service.stream_status import StreamStatus, status_of
from milepost.service.underway import Underway
from milepost.settings import SyncSettings
from milepost.stores.reader import JournalReader

PATH = "/api/streams"
ONE = f"{PATH}/{{key}}"


class StreamsAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Which streams are listed."""

    after: Annotated[str, Meta(max_length=200, description=FROM)] | None = None
    limit: Limit = 100
    state: Annotated[State, Meta(description="only streams that are at this")] | None = None


class StreamAsked(Struct, frozen=True, forbid_unknown_fields=True):
    """Which stream is meant."""

    key: Annotated[str, Meta(max_length=200, description="the stream's key, such as messenger:1234567890")]


class Streams(Struct, frozen=True):
    """Where streams stand at the instant `at`, in the order of their keys. `next` is null on the last page.

    `is_at_work` says that a Milepost is at work: the one that answers.
    """

    at: datetime
    is_at_work: bool
    streams: tuple[StreamStatus, ...]
    next: str | None


class Overview(Struct, frozen=True, eq=False):
    """Knows where all streams stand: those that are journaled, and those that this daemon works.

    `underway` knows how far they have got since, `worked` gives the keys of the latter, `page_names` the names of pages
    by their ids, and `sync` the settings that apply now.
    """

    journal_reader: JournalReader
    underway: Underway
    now: Callable[[], datetime]
    worked: Callable[[], Sequence[str]]
    page_names: Callable[[], Mapping[str, str]]
    sync: Callable[[], SyncSettings]

    async def look(self) -> "View":
        """Look at them all: a limit that one of them has met may hold up others."""
        checkpoints = {each.stream: self.underway.since(each) for each in await self.journal_reader.checkpoints()}
        sync = self.sync()
        around = ConditionContext(
            self.now(), is_at_work=True, interval_seconds=sync.interval_seconds, batch_size=sync.batch_size
        )
        rate_limits = by_page(rate_limits_of(checkpoints.values()))
        return View(around, checkpoints, rate_limits, frozenset(self.worked()), self.page_names())


class View(Struct, frozen=True, eq=False):
    """Where the streams stood at one instant. Each status is made when it is asked for."""

    around: ConditionContext
    checkpoints: Mapping[str, Checkpoint]
    rate_limits: Callable[[Stream], Mapping[Stream, RateLimit]]
    worked: frozenset[str]
    page_names: Mapping[str, str]

    def keys(self) -> list[str]:
        """Give the keys of the streams, in order."""
        stored = {key for key, checkpoint in self.checkpoints.items() if checkpoint.removed_at is None}
        return sorted(self.worked | stored)

    def has(self, key: str) -> bool:
        """Whether there is such a stream: one that this daemon works, or of which something is stored."""
        checkpoint = self.checkpoints.get(key)
        return key in self.worked or (checkpoint is not None and checkpoint.removed_at is None)

    def status_of(self, key: str) -> StreamStatus:
        """Say where a stream stands."""
        checkpoint = self.checkpoints.get(key) or Checkpoint(key)
        around = replace(self.around, rate_limits=self.rate_limits(Stream.parse(key)))
        return status_of(checkpoint, around, self.page_names, is_configured=key in self.worked)

    def page(self, asked: StreamsAsked) -> Reply[Streams]:
        """Say where the streams stand that are asked for."""
        statuses = (self.status_of(key) for key in self.keys() if asked.after is None or key > asked.after)
        wanted = (each for each in statuses if asked.state in (None, each.state))
        streams, following = page_of(list(islice(wanted, asked.limit + 1)), asked.limit, _key_of)
        page = Streams(self.around.now, is_at_work=True, streams=streams, next=following)
        return Reply(page, tag=tag_of((streams, following)))


def streams(overview: Overview) -> Sequence[AnyOperation]:
    """Declare what can be asked about streams."""

    async def list_streams(call: Call[StreamsAsked, None]) -> Reply[Streams]:
        view = await overview.look()
        return await asyncio.to_thread(view.page, call.asked)  # a thousand streams take a tenth of a second

    async def show_stream(call: Call[StreamAsked, None]) -> Reply[StreamStatus]:
        view, key = await overview.look(), call.asked.key
        if not view.has(key):
            raise web.HTTPNotFound(text=f"there is no stream {key}")
        status = view.status_of(key)
        return Reply(status, tag=tag_of(status))

    listing = Operation(
        "GET",
        PATH,
        "List the streams and where each stands",
        asked=StreamsAsked,
        answer=Streams,
        handle=list_streams,
        statuses=(200, 304),
    )
    showing = Operation(
        "GET",
        ONE,
        "Show where a stream stands",
        asked=StreamAsked,
        answer=StreamStatus,
        handle=show_stream,
        statuses=(200, 304),
        problems={404: "there is no such stream"},
    )
    return [listing, showing]


def _key_of(status: StreamStatus) -> str:
    return status.stream
