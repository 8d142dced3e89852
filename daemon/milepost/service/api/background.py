"""Takes in what people ask to be done. They wait for it a while; what takes longer goes on without them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiohttp import web
from msgspec import Struct

from milepost.core.errors import MilepostError, StoreAway, StoreRefused
from milepost.engine.bulkhead import bulkhead
from milepost.engine.mailbox import CommandDeferred

MAX_WAIT_SECONDS = 30.0  # longer than a batch takes, after which the stream's worker looks what is asked of it
MAX_UNDER_WAY = 100

Done = TypeVar("Done")


class UnderWay(Struct, frozen=True):
    """It takes longer than anybody waits, and goes on."""


@asynccontextmanager
async def background_work(*, max_wait_seconds: float = MAX_WAIT_SECONDS) -> AsyncIterator["BackgroundWork"]:
    """Give a desk. What is under way at the end of the block is not waited for any more."""
    desk = BackgroundWork(max_wait_seconds)
    try:
        yield desk
    finally:
        await desk.close()


class BackgroundWork:
    """Commands that outlive the requests that asked for them. Made by `background_work`."""

    def __init__(self, max_wait_seconds: float) -> None:
        self._max_wait_seconds = max_wait_seconds
        self._under_way: set[asyncio.Task[Any]] = set()

    async def look_up(self, find: Awaitable[Done]) -> Done:
        """Await what has to be known first. Raises one of aiohttp's HTTP errors."""
        try:
            async with asyncio.timeout(self._max_wait_seconds):
                return await find
        except (TimeoutError, MilepostError) as error:
            raise _refusal(error) from error

    async def do(self, what: str, work: Callable[[], Awaitable[Done]]) -> Done | UnderWay:
        """Begin some work, and give what comes of it if that is soon.

        Raises HeldBack as the work does, and one of aiohttp's HTTP errors for whatever else keeps it from being done.
        """
        task = self._begin(what, work)
        done, _ = await asyncio.wait([task], timeout=self._max_wait_seconds)
        if not done:
            return UnderWay()
        result = task.result()
        if isinstance(result, CommandDeferred):
            raise result
        if isinstance(result, Exception):
            raise _refusal(result)
        return result

    async def close(self) -> None:
        """Wait for nothing any more."""
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _begin(self, what: str, work: Callable[[], Awaitable[Done]]) -> asyncio.Task[Done | Exception]:
        if len(self._under_way) >= MAX_UNDER_WAY:
            raise web.HTTPServiceUnavailable(
                text=f"{MAX_UNDER_WAY} actions are under way already: try again in a minute",
                headers={"Retry-After": "60"},
            )

        async def perform() -> Done | MilepostError:
            try:
                return await work()
            except MilepostError as error:  # told to the asker, and no bug
                return error

        task = asyncio.create_task(bulkhead(what, perform()), name=what)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task


def _refusal(error: Exception) -> web.HTTPError:
    """Say in HTTP why something could not be done."""
    match error:
        case StoreAway() | StoreRefused():
            return web.HTTPServiceUnavailable(text=str(error))
        case TimeoutError():
            return web.HTTPServiceUnavailable(text="the database did not answer in time")
        case MilepostError():
            return web.HTTPConflict(text=str(error))
        case _:
            return web.HTTPInternalServerError()
