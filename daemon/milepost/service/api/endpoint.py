"""What can be asked over HTTP, declared once: an operation is the source of its route and of its description.

So the two cannot drift: what an operation says that it takes is what requests are decoded to, and what it says that it
answers is what its type demands.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Generic, Literal, TypeVar

import msgspec
from aiohttp import ETag, web
from msgspec import Struct

from milepost.core.errors import MilepostError
from milepost.service.api.parsing import Parameters, body_of

JSON = "application/json"
MAX_ANSWER_SECONDS = 10.0  # for the store; a page of any listing takes it milliseconds

Asked = TypeVar("Asked")
Body = TypeVar("Body")
Answer = TypeVar("Answer")


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters, or a body in which there is nothing to say."""


class Call(Struct, Generic[Asked, Body], frozen=True, eq=False):
    """What came: the parameters of the path and the query, the body, and the request for what is neither."""

    asked: Asked
    body: Body
    request: web.Request


class Reply(Struct, Generic[Answer], frozen=True):
    """What is answered. `tag` names the state that the answer shows, so that who has seen it need not be told again."""

    answer: Answer
    status: int = 200
    tag: str | None = None


class Operation(Struct, Generic[Asked, Body, Answer], frozen=True, eq=False):
    """One thing that can be asked.

    Args:
        method: how.
        path: where; the parameters in braces are fields of `asked`.
        summary: what it does, in a line.
        asked: the parameters of the path and the query. A field that is a tuple may be given more than once.
        answer: what is answered; None is an empty answer.
        handle: does it. Raises MilepostError where the store does not answer, and aiohttp's HTTP errors with a text.
        body: what the body is; None takes none.
        statuses: those of good answers; 304 among them where its replies have tags.
        problems: the statuses of the problems that are its own, and what each means.
        media_type: the type of the answer. Other than JSON, it is answered as it comes from `handle`.
        max_seconds: how long it may take; None where it has its own bound.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    asked: type[Asked]
    answer: type[Answer] | None
    handle: Callable[[Call[Asked, Body]], Awaitable[Reply[Answer] | web.StreamResponse]]
    body: type[Body] | None = None
    statuses: tuple[int, ...] = (200,)
    problems: dict[int, str] = {}
    media_type: str = JSON
    max_seconds: float | None = MAX_ANSWER_SECONDS


AnyOperation = Operation[Any, Any, Any]


def tag_of(shown: object) -> str:
    """Name the state that an answer shows: the same for the same values."""
    return sha256(msgspec.json.encode(shown)).hexdigest()[:32]


def routes_of(operations: Iterable[AnyOperation]) -> list[web.RouteDef]:
    """Give the routes of the operations."""
    return [_route(operation) for operation in operations]


def _route(operation: AnyOperation) -> web.RouteDef:
    parameters = Parameters(operation.asked)

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = parameters.read(request)
        body = None if operation.body is None else await body_of(request, operation.body)
        try:
            async with asyncio.timeout(operation.max_seconds):
                reply = await operation.handle(Call(asked, body, request))
        except MilepostError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from error
        except TimeoutError as error:
            raise web.HTTPServiceUnavailable(text="the database did not answer in time") from error
        return reply if isinstance(reply, web.StreamResponse) else _response(request, reply)

    if operation.method == "POST":
        return web.post(operation.path, answer)
    return web.get(operation.path, answer, allow_head=operation.media_type == JSON)  # other answers may have no end


def _response(request: web.Request, reply: Reply[Any]) -> web.Response:
    """Write a reply down, or tell who has the answer already that it has."""
    response = web.Response(status=reply.status)
    if reply.tag is not None:
        response.etag = ETag(reply.tag, is_weak=True)
        response.headers["Cache-Control"] = "private, no-cache"  # it may be kept, and is asked for again
        if any(known.value in (reply.tag, "*") for known in request.if_none_match or ()):
            response.set_status(HTTPStatus.NOT_MODIFIED)
            return response
    if reply.answer is not None:
        response.body = msgspec.json.encode(reply.answer)
        response.content_type = JSON
    return response
