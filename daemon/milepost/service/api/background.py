"""Actions outlive the requests that start them: a client waits for a while, and the action goes on without it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import web
from msgspec import Struct

from milepost.core.commands import CommandDeferred
from milepost.core.errors import MilepostError, StoreAway, StoreRefused
from milepost.engine.interrupt import bulkhead
from milepost.service.endpoint import AnyOperation, Call, Operation, Reply

MAX_WAIT_SECONDS = 30.0  # longer than a batch takes, after which the stream's worker looks into its mailbox
MAX_RUNNING = 100

ResultT = TypeVar("ResultT")

Handler = Callable[[Call[Any, Any]], Awaitable[Reply[Any]]]


def actions(
    path: str,
    parameters: type[Struct],
    response: type[Struct],
    missing: str,
    *declared: tuple[str, str, type[Struct], Handler],
) -> list[AnyOperation]:
    """Declare the actions on the object that a path names. Each has a name, a summary, a body and a handler.

    `missing` describes the error when there is no such object.
    """
    return [
        Operation(
            "POST",
            f"{path}/{name}",
            summary,
            parameters=parameters,
            response=response,
            handle=handle,
            body=body,
            statuses=(200, 202),
            problems={404: missing, 409: "it cannot be done; `detail` says why"},
            max_seconds=None,
        )
        for name, summary, body, handle in declared
    ]


class StillRunning(Struct, frozen=True):
    """The action takes longer than a client waits, and goes on."""


@asynccontextmanager
async def background_work() -> AsyncIterator["BackgroundWork"]:
    """Accept actions during the block. Those still running at its end are cancelled."""
    work = BackgroundWork()
    try:
        yield work
    finally:
        for task in work.running:
            task.cancel()
        if work.running:
            await asyncio.wait(work.running)


class BackgroundWork:
    """Actions that outlive the requests for them. Made by `background_work`."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[Any]] = set()

    async def look_up(self, find: Awaitable[ResultT]) -> ResultT:
        """Await a look-up that an action needs first. Raises one of aiohttp's HTTP errors."""
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                return await find
        except (TimeoutError, MilepostError) as error:
            raise _http_error(error) from error

    async def run(self, name: str, action: Callable[[], Awaitable[ResultT]]) -> ResultT | StillRunning:
        """Start an action and return its result, or StillRunning if that takes too long.

        Raises CommandDeferred as the action does, and one of aiohttp's HTTP errors for any other failure.
        """
        task = self._start(name, action)
        done, _ = await asyncio.wait([task], timeout=MAX_WAIT_SECONDS)
        if not done:
            return StillRunning()
        result = task.result()
        if isinstance(result, CommandDeferred):
            raise result
        if isinstance(result, Exception):
            raise _http_error(result)
        return result

    def _start(self, name: str, action: Callable[[], Awaitable[ResultT]]) -> asyncio.Task[ResultT | Exception]:
        if len(self.running) >= MAX_RUNNING:
            raise web.HTTPServiceUnavailable(
                text=f"{MAX_RUNNING} actions are already running: try again in a minute",
                headers={"Retry-After": "60"},
            )

        async def perform() -> ResultT | MilepostError:
            try:
                return await action()
            except MilepostError as error:  # not a bug: the client gets it as the answer
                return error

        task = asyncio.create_task(bulkhead(name, perform()), name=name)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task


def _http_error(error: Exception) -> web.HTTPError:
    match error:
        case StoreAway() | StoreRefused():
            return web.HTTPServiceUnavailable(text=str(error))
        case TimeoutError():
            return web.HTTPServiceUnavailable(text="the database did not answer in time")
        case MilepostError():
            return web.HTTPConflict(text=str(error))
        case _:
            return web.HTTPInternalServerError()
