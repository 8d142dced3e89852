"""API operations, each declared once: the same declaration makes its route and its entry in the OpenAPI document.

So the two cannot drift apart: requests are decoded into the types that the document shows, and the type checker holds
the handler to the response type that it declares.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from aiohttp import ETag, web
from msgspec import Meta, Struct, inspect

from milepost import __version__
from milepost.core.errors import HistoryRewritten, MilepostError

COOKIE = "milepost_session"
JSON = "application/json"
COMPRESSED_BYTES = 1_000  # a smaller response would gain little
MAX_BODY_SECONDS = 10.0
MAX_RESPONSE_SECONDS = 10.0  # for the store; a page of any listing takes it milliseconds

ParametersT = TypeVar("ParametersT")
BodyT = TypeVar("BodyT")
ResponseT = TypeVar("ResponseT")
ItemT = TypeVar("ItemT")
CursorT = TypeVar("CursorT")

Limit = Annotated[int, Meta(ge=1, le=1000, description="the maximum number of items to return")]
StreamKey = Annotated[
    str, Meta(pattern=r"^(messenger|instagram):[^/\s]+$", max_length=200, description="only items of this stream")
]
CURSOR_DESCRIPTION = "the `next` of the previous page"


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters, or an empty body."""


class Call(Struct, Generic[ParametersT, BodyT], frozen=True, eq=False):
    """A decoded request: the parameters of path and query, the body, and the request itself for everything else."""

    parameters: ParametersT
    body: BodyT
    request: web.Request


class Reply(Struct, Generic[ResponseT], frozen=True):
    """A response to encode. `etag` identifies the state that it shows, so that a client that has it gets a 304."""

    response: ResponseT
    status: int = 200
    etag: str | None = None


class Operation(Struct, Generic[ParametersT, BodyT, ResponseT], frozen=True, eq=False):
    """One operation of the API.

    Args:
        method: the HTTP method.
        path: the URL path; names in braces are fields of `parameters`.
        summary: one line for the OpenAPI document.
        parameters: those of the path and the query. A field whose type is a tuple may be given more than once.
        response: the type of the response; None for an empty one.
        handle: carries the operation out. Raises MilepostError when the store is unavailable, and aiohttp's HTTP errors
            with a text for the user.
        body: the type of the body; None if the operation takes none.
        statuses: the status codes of success, with 304 if its replies have ETags.
        problems: the error codes that only this operation has, and what each means.
        media_type: the type of the response. If it is not JSON, `handle` returns the response itself.
        max_seconds: the time limit; None if the operation sets its own.
    """

    method: Literal["GET", "POST"]
    path: str
    summary: str
    parameters: type[ParametersT]
    response: type[ResponseT] | None
    handle: Callable[[Call[ParametersT, BodyT]], Awaitable[Reply[ResponseT] | web.StreamResponse]]
    body: type[BodyT] | None = None
    statuses: tuple[int, ...] = (200,)
    problems: dict[int, str] = {}
    media_type: str = JSON
    max_seconds: float | None = MAX_RESPONSE_SECONDS


AnyOperation = Operation[Any, Any, Any]


def etag_of(shown: object) -> str:
    """Return an ETag for what a response shows; equal values have equal tags."""
    return sha256(msgspec.json.encode(shown)).hexdigest()[:32]


def page_of(
    found: Sequence[ItemT], limit: int, cursor_of: Callable[[ItemT], CursorT]
) -> tuple[tuple[ItemT, ...], CursorT | None]:
    """Return a page and the cursor of the next one. `found` has one item more than the page if there is a next page."""
    page = tuple(found[:limit])
    return page, cursor_of(page[-1]) if len(found) > limit else None


# --- routes -----------------------------------------------------------------------------------------------------------


class HistoryConflict(web.HTTPConflict):
    """Changes that a consumer has read were lost. It recognises that by the `type` of the problem."""

    problem_type = "history_rewritten"


def routes_of(operations: Iterable[AnyOperation]) -> list[web.RouteDef]:
    """Return the routes of the operations."""
    return [_route(operation) for operation in operations]


def _route(operation: AnyOperation) -> web.RouteDef:
    decoder = _ParameterDecoder(operation.parameters)

    async def handle(request: web.Request) -> web.StreamResponse:
        parameters = decoder.decode(request)
        body = None if operation.body is None else await _decode_body(request, operation.body)
        try:
            async with asyncio.timeout(operation.max_seconds):
                reply = await operation.handle(Call(parameters, body, request))
        except HistoryRewritten as error:
            raise HistoryConflict(text=str(error)) from error
        except MilepostError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from error
        except TimeoutError as error:
            raise web.HTTPServiceUnavailable(text="the database did not answer in time") from error
        return reply if isinstance(reply, web.StreamResponse) else _encode(request, reply)

    if operation.method == "POST":
        return web.post(operation.path, handle)
    return web.get(operation.path, handle, allow_head=operation.media_type == JSON)  # other responses may be endless


def _encode(request: web.Request, reply: Reply[Any]) -> web.Response:
    """Encode a reply, or answer 304 if the client has it already."""
    response = web.Response(status=reply.status)
    if reply.etag is not None:
        response.etag = ETag(reply.etag, is_weak=True)
        response.headers["Cache-Control"] = "private, no-cache"  # a browser may keep it, but has to revalidate
        if any(known.value in (reply.etag, "*") for known in request.if_none_match or ()):
            response.set_status(HTTPStatus.NOT_MODIFIED)
            return response
    if reply.response is not None:
        response.body = msgspec.json.encode(reply.response)
        response.content_type = JSON
        if len(response.body) > COMPRESSED_BYTES:
            response.enable_compression()  # if the client takes it
    return response


# --- requests ---------------------------------------------------------------------------------------------------------

_LOCATION = re.compile(r"(?P<reason>.*) - at `\$\.?(?P<name>[^`]*)`")


class _ParameterDecoder(Generic[ParametersT]):
    """Decodes the parameters of path and query into the struct that declares them."""

    def __init__(self, kind: type[ParametersT]) -> None:
        self._kind = kind
        described = inspect.type_info(kind)
        fields = described.fields if isinstance(described, inspect.StructType) else ()
        self._is_repeatable = {field.encode_name: _is_tuple(field.type) for field in fields}

    def decode(self, request: web.Request) -> ParametersT:
        """Return the parameters of a request.

        Raises HTTPNotFound if no such path can exist, HTTPBadRequest for anything else that is invalid.
        """
        in_path = request.match_info
        given: dict[str, Any] = self._query_of(request) | dict(in_path)
        try:
            return msgspec.convert(given, self._kind, strict=False)  # from text: "5" is a number
        except msgspec.ValidationError as error:
            reason, name = _reason_and_name(error)
            if name in in_path:
                raise web.HTTPNotFound(text=f"nothing has this name: {name}: {reason}") from error
            raise _bad_query(name, reason) from error

    def _query_of(self, request: web.Request) -> dict[str, Any]:
        query, known = request.query, self._is_repeatable.keys() - request.match_info.keys()
        for name in query:
            if name not in known:
                raise _bad_query(name, f"unknown parameter; allowed: {', '.join(sorted(known)) or 'none'}")
            if len(query.getall(name)) > 1 and not self._is_repeatable[name]:
                raise _bad_query(name, "given more than once")
            if any("\0" in value for value in query.getall(name)):
                raise _bad_query(name, "holds the character NUL, which PostgreSQL accepts nowhere")
        return {name: query.getall(name) if self._is_repeatable[name] else query[name] for name in query}


def _is_tuple(kind: inspect.Type) -> bool:
    # Metadata, such as a description, is wrapped around the type itself.
    return isinstance(kind.type if isinstance(kind, inspect.Metadata) else kind, inspect.VarTupleType)


def _bad_query(name: str, reason: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=f"invalid query: {name}: {reason}")


def _reason_and_name(error: msgspec.ValidationError) -> tuple[str, str]:
    match = _LOCATION.fullmatch(str(error))
    return (str(error), "") if match is None else (match["reason"], match["name"].partition("[")[0])


async def _decode_body(request: web.Request, kind: type[BodyT]) -> BodyT:
    """Return the body; an empty one counts as an empty object. Raises one of aiohttp's HTTP errors."""
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            body = await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {MAX_BODY_SECONDS:g} s") from error
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise web.HTTPUnprocessableEntity(text=f"invalid body: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise web.HTTPBadRequest(text="the body is not JSON") from error


# --- the OpenAPI document ---------------------------------------------------------------------------------------------

# Problems that any operation may answer with, besides its own.
COMMON_PROBLEMS = {
    400: "invalid request; `detail` names what is wrong",
    401: "neither the token nor a session was sent",
    421: "without a token, the daemon answers only requests that address this machine by a name of its own",
    429: "too many requests; Retry-After says how many seconds to wait",
    503: "the database is unavailable, or too many actions are running",
}
BODY_PROBLEMS = {
    403: "a page of another site must not change anything",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is not sent as application/json",
    422: "the body is JSON, but invalid; `detail` names what is wrong",
}

DESCRIPTION = (
    "Conversations out of the Graph API: the state of every stream, its runs, journal and dead letters, and the "
    "actions of an operator. Fields may be added to responses; none is renamed."
)

Schema = dict[str, Any]


class ProblemDetails(Struct, frozen=True):
    """Why a request failed (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = ""


def described(operations: Sequence[AnyOperation]) -> list[AnyOperation]:
    """Return the operations and one more, which returns the OpenAPI document of them all."""

    async def describe(_: Call[Nothing, None]) -> Reply[Schema]:
        return reply

    describing: Operation[Nothing, None, Schema] = Operation(
        "GET", "/api/openapi.json", "Show this OpenAPI document", Nothing, dict[str, Any], describe, statuses=(200, 304)
    )
    everything = [*operations, describing]
    document = document_of(everything)
    reply = Reply(document, etag=etag_of(document))
    return everything


def document_of(operations: Sequence[AnyOperation]) -> Schema:
    """Return the OpenAPI document of the operations."""
    kinds: list[Any] = [ProblemDetails]
    for each in operations:
        kinds += (
            kind for kind in (each.parameters, each.body, each.response) if kind is not None and kind not in kinds
        )
    references, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(kinds, references, strict=True))
    paths: dict[str, Schema] = {}
    for each in operations:
        fields = components[_name(schemas[each.parameters])]["properties"]
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, fields, schemas)
    bodies = {each.body for each in operations}
    for kind in {each.parameters for each in operations} - bodies:  # listed as parameters, field by field
        del components[_name(schemas[kind])]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Milepost",
            "version": __version__,
            "description": DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "the daemon that serves this document"}],
        "security": [{"token": []}, {"session": []}, {}],
        "tags": [{"name": tag} for tag in dict.fromkeys(_tag(path) for path in paths)],
        "paths": paths,
        "components": {
            "schemas": _simplified(components),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "http.token, if it is set"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "from POST /login"},
            },
        },
    }


def _simplified(components: Mapping[str, Schema]) -> Schema:
    """Return the schemas, with a choice between anything and null left out: it allows everything, and linters fail."""
    simple: Schema = {}
    for name, schema in components.items():
        properties = {
            key: {word: value for word, value in each.items() if word != "anyOf" or {} not in value}
            for key, each in schema.get("properties", {}).items()
        }
        simple[name] = schema | ({"properties": properties} if properties else {})
    return simple


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _operation(operation: AnyOperation, fields: Mapping[str, Schema], schemas: Mapping[Any, Schema]) -> Schema:
    described: Schema = {
        "operationId": operation.handle.__name__,
        "tags": [_tag(operation.path)],
        "summary": operation.summary,
        "parameters": [_parameter(name, schema, operation.path) for name, schema in fields.items()],
        "responses": _responses(operation, schemas) | _problems(operation, schemas),
    }
    if operation.body is not None:
        described["requestBody"] = {"content": {"application/json": {"schema": schemas[operation.body]}}}
    return described


def _tag(path: str) -> str:
    """Return the tag by which generated clients group their methods: the first word of the path."""
    return path.removeprefix("/api/").strip("/").partition("/")[0].removesuffix(".json")


def _parameter(name: str, schema: Schema, path: str) -> Schema:
    options = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]  # in a query, null is left out
    chosen = options[0] if options else schema
    bare = {key: value for key, value in chosen.items() if key != "description"}
    is_in_path = f"{{{name}}}" in path
    parameter = {"name": name, "in": "path" if is_in_path else "query", "required": is_in_path, "schema": bare}
    return parameter | ({"description": chosen["description"]} if "description" in chosen else {})


def _responses(operation: AnyOperation, schemas: Mapping[Any, Schema]) -> Schema:
    content = (
        {"content": {operation.media_type: {"schema": schemas[operation.response]}}}
        if operation.response is not None
        else {}
    )
    return {
        str(status): {"description": HTTPStatus(status).phrase} | ({} if status == HTTPStatus.NOT_MODIFIED else content)
        for status in operation.statuses
    }


def _problems(operation: AnyOperation, schemas: Mapping[Any, Schema]) -> Schema:
    common = COMMON_PROBLEMS if operation.body is None else COMMON_PROBLEMS | BODY_PROBLEMS
    return {
        str(status): {
            "description": meaning,
            "content": {"application/problem+json": {"schema": schemas[ProblemDetails]}},
        }
        for status, meaning in sorted((common | operation.problems).items())
    }
