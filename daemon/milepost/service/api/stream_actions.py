"""What people do about streams: sync, pause or resume them."""

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any

from aiohttp import web
from msgspec import Struct

from milepost.core.commands import PauseStream, ResumeStream, StreamCommand, SyncNow
from milepost.core.model import Stream
from milepost.service.actor import actor_of
from milepost.service.api.background import BackgroundWork, UnderWay
from milepost.service.api.endpoint import AnyOperation, Call, Nothing, Operation, Reply
from milepost.service.api.streams import ONE, StreamAsked

Ask = Callable[[Stream, StreamCommand], Awaitable[None]]


class StreamAction(StrEnum):
    """What can be done about a stream."""

    SYNC = "sync"
    PAUSE = "pause"
    RESUME = "resume"


class StreamOutcome(StrEnum):
    """What became of it: it is on record, or waits for the batch in hand."""

    DONE = "done"
    ACCEPTED = "accepted"


class StreamAnswer(Struct, frozen=True):
    """What became of an action on a stream."""

    stream: str
    action: StreamAction
    outcome: StreamOutcome


class Syncing(Struct, frozen=True, forbid_unknown_fields=True):
    """How a stream is synced: by a `full` sweep, or by whichever is due."""

    full: bool = False


def stream_actions(desk: BackgroundWork, ask: Ask, worked: Callable[[], Sequence[str]]) -> Sequence[AnyOperation]:
    """Declare what can be done about streams.

    Args:
        desk: takes it in.
        ask: does an errand about a stream; raises MilepostError.
        worked: gives the keys of the streams that this daemon works.
    """

    async def act(call: Call[StreamAsked, Any], action: StreamAction, command: StreamCommand) -> Reply[StreamAnswer]:
        key = call.asked.key
        if key not in worked():
            raise web.HTTPNotFound(text=f"this daemon works no stream {key}")
        done = await desk.do(f"{action} of {key}", lambda: ask(Stream.parse(key), command))
        if isinstance(done, UnderWay):
            return Reply(StreamAnswer(key, action, StreamOutcome.ACCEPTED), status=202)
        return Reply(StreamAnswer(key, action, StreamOutcome.DONE))

    async def sync_stream(call: Call[StreamAsked, Syncing]) -> Reply[StreamAnswer]:
        return await act(call, StreamAction.SYNC, SyncNow(actor_of(call.request), call.body.full))

    async def pause_stream(call: Call[StreamAsked, Nothing]) -> Reply[StreamAnswer]:
        return await act(call, StreamAction.PAUSE, PauseStream(actor_of(call.request)))

    async def resume_stream(call: Call[StreamAsked, Nothing]) -> Reply[StreamAnswer]:
        return await act(call, StreamAction.RESUME, ResumeStream(actor_of(call.request)))

    told: dict[str, Any] = {
        "asked": StreamAsked,
        "answer": StreamAnswer,
        "statuses": (200, 202),
        "problems": {404: "this daemon works no such stream", 409: "it cannot be done; the detail says why"},
        "max_seconds": None,
    }
    return [
        Operation("POST", f"{ONE}/sync", "Give a stream a turn now", body=Syncing, handle=sync_stream, **told),
        Operation("POST", f"{ONE}/pause", "Work a stream no more", body=Nothing, handle=pause_stream, **told),
        Operation("POST", f"{ONE}/resume", "Work a stream again", body=Nothing, handle=resume_stream, **told),
    ]
