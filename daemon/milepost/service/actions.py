"""What people may do over HTTP: redrive or discard a dead letter."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from milepost.core.checkpoint import DeadLetter
from milepost.core.errors import MilepostError, StoreAway, StoreRefused
from milepost.core.letters import MAX_REASON_CHARACTERS
from milepost.core.ports import DueLetter
from milepost.engine.bulkhead import bulkhead
from milepost.engine.errands import Discard, HeldBack, LetterErrand, Performer, Redrive
from milepost.service.outcomes import Answer, accepted, held, outcome_of

MAX_WAIT_SECONDS = 30.0  # longer than a batch takes, after which the stream's worker looks what is asked of it
MAX_BODY_SECONDS = 10.0
MAX_UNDER_WAY = 100

Find = Callable[[tuple[str, ...]], Awaitable[tuple[DueLetter, ...]]]
Body = TypeVar("Body")


class Empty(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a redrive."""


class Discarding(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a discard."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON_CHARACTERS, pattern=r"\S")]


@asynccontextmanager
async def actions(
    do: Performer, find: Find, *, max_wait_seconds: float = MAX_WAIT_SECONDS
) -> AsyncIterator[Sequence[web.AbstractRouteDef]]:
    """Give the routes of the actions. What is under way at the end of the block is not waited for any more.

    Args:
        do: does an errand and gives the dead letter if it is still open; raises MilepostError.
        find: gives those of some dead letters that are open.
        max_wait_seconds: how long a caller waits; what takes longer goes on without.
    """
    desk = _Desk(do, find, max_wait_seconds)

    async def redrive(request: web.Request) -> web.Response:
        await _body(request, Empty)
        return await desk.answer(Redrive(request.match_info["dead_letter_id"]))

    async def discard(request: web.Request) -> web.Response:
        wanted = await _body(request, Discarding)
        return await desk.answer(Discard(request.match_info["dead_letter_id"], wanted.reason.strip()))

    letter = "/api/dead-letters/{dead_letter_id:[0-9a-f]{1,64}}"
    try:
        yield [web.post(f"{letter}/redrive", redrive), web.post(f"{letter}/discard", discard)]
    finally:
        await desk.close()


class _Desk:
    """Takes errands in, and keeps those whose askers have gone: each has a task, which ends with the desk."""

    def __init__(self, do: Performer, find: Find, max_wait_seconds: float) -> None:
        self._do = do
        self._find = find
        self._max_wait_seconds = max_wait_seconds
        self._under_way: set[asyncio.Task[DeadLetter | Exception | None]] = set()

    async def answer(self, errand: LetterErrand) -> web.Response:
        """Do the errand, or begin it, and tell how the letter stands. Raises one of aiohttp's HTTP errors."""
        try:
            async with asyncio.timeout(self._max_wait_seconds):
                found = await self._find((errand.dead_letter_id,))
        except (TimeoutError, MilepostError) as error:
            raise _refusal(error) from error
        if not found:
            raise web.HTTPNotFound(text=f"there is no open dead letter {errand.dead_letter_id}")
        task = self._begin(errand)
        done, _ = await asyncio.wait([task], timeout=self._max_wait_seconds)
        if not done:
            return _response(accepted(found[0].letter), status=202)
        match task.result():
            case HeldBack() as why:
                return _response(held(found[0].letter, why))
            case Exception() as failure:
                raise _refusal(failure)
            case after:
                return _response(outcome_of(found[0].letter, after))

    async def close(self) -> None:
        """Wait for nothing any more."""
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _begin(self, errand: LetterErrand) -> asyncio.Task[DeadLetter | Exception | None]:
        if len(self._under_way) >= MAX_UNDER_WAY:
            raise web.HTTPServiceUnavailable(
                text=f"{MAX_UNDER_WAY} actions are under way already: try again in a minute",
                headers={"Retry-After": "60"},
            )
        task = asyncio.create_task(self._perform(errand), name=f"errand about {errand.dead_letter_id}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _perform(self, errand: LetterErrand) -> DeadLetter | Exception | None:
        """Do an errand. What it raises is given back, and logged where it is a bug: the asker may have gone."""

        async def perform() -> DeadLetter | MilepostError | None:
            try:
                return await self._do(errand)
            except MilepostError as error:
                return error

        return await bulkhead(f"errand about {errand.dead_letter_id}", perform())


async def _body(request: web.Request, kind: type[Body]) -> Body:
    """Read the body; none at all is an empty object. Raises one of aiohttp's HTTP errors."""
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            body = await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the body did not come within {MAX_BODY_SECONDS:g} s") from error
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise web.HTTPUnprocessableEntity(text=f"the body is not as it should be: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(text="the body is not JSON") from error


def _refusal(error: Exception) -> web.HTTPError:
    """Say in HTTP why an errand could not be done."""
    match error:
        case StoreAway() | StoreRefused():
            return web.HTTPServiceUnavailable(text=str(error))
        case TimeoutError():
            return web.HTTPServiceUnavailable(text="the database did not answer in time")
        case MilepostError():
            return web.HTTPConflict(text=str(error))
        case _:
            return web.HTTPInternalServerError()


def _response(answer: Answer, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(answer), content_type="application/json")
