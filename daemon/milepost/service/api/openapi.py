"""The OpenAPI 3.1 document, generated from the declared operations."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from milepost import __version__
from milepost.service.auth import COOKIE
from milepost.service.endpoint import AnyOperation, Call, Nothing, Operation, Reply, etag_of

PATH = "/api/openapi.json"

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
        "GET", PATH, "Show this OpenAPI document", Nothing, dict[str, Any], describe, statuses=(200, 304)
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
