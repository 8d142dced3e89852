"""The description of the operations: an OpenAPI document (version 3.1), made of their declarations."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from milepost import __version__
from milepost.service.api.endpoint import AnyOperation, Call, Nothing, Operation, Reply, tag_of
from milepost.service.sessions import COOKIE

PATH = "/api/openapi.json"

# What any operation may answer, beside its own.
COMMON_PROBLEMS = {
    400: "the request is not as it should be; the detail names what",
    401: "neither the token nor a session came with it",
    421: "without a token, only who calls this machine by a name of its own is answered",
    429: "too many requests; Retry-After says how many seconds to wait",
    503: "the database does not answer now, or too much is under way",
}
CHANGING_PROBLEMS = {
    403: "a page of another site may change nothing here",
    408: "the body did not come",
    413: "the body is too large",
    415: "the body is not sent as application/json",
    422: "the body is JSON, but not as it should be; the detail names what",
}

Schema = dict[str, Any]


class Problem(Struct, frozen=True):
    """Why it was not done (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = ""


def described(operations: Sequence[AnyOperation]) -> list[AnyOperation]:
    """Give the operations, and one more that tells of them all."""

    async def describe(_: Call[Nothing, None]) -> Reply[Schema]:
        return reply

    telling: Operation[Nothing, None, Schema] = Operation(
        "GET", PATH, "Describe this API", asked=Nothing, answer=dict[str, Any], handle=describe, statuses=(200, 304)
    )
    everything = [*operations, telling]
    document = document_of(everything)
    reply = Reply(document, tag=tag_of(document))
    return everything


def document_of(operations: Sequence[AnyOperation]) -> Schema:
    """Write the document."""
    kinds: list[Any] = [Problem]
    for each in operations:
        kinds += (kind for kind in (each.asked, each.body, each.answer) if kind is not None and kind not in kinds)
    references, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(kinds, references, strict=True))
    paths: dict[str, Schema] = {}
    for each in operations:
        fields = components[_name(schemas[each.asked])]["properties"]
        paths.setdefault(each.path, {})[each.method.lower()] = _told(each, fields, schemas)
    bodies = {each.body for each in operations}
    for kind in {each.asked for each in operations} - bodies:  # told of as parameters
        del components[_name(schemas[kind])]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Milepost", "version": __version__},
        "security": [{"token": []}, {"session": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "http.token, where it is set"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "from POST /login"},
            },
        },
    }


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _told(operation: AnyOperation, parameters: Mapping[str, Schema], schemas: Mapping[Any, Schema]) -> Schema:
    told: Schema = {
        "operationId": operation.handle.__name__,
        "summary": operation.summary,
        "parameters": [_parameter(name, schema, operation.path) for name, schema in parameters.items()],
        "responses": _good(operation, schemas) | _bad(operation, schemas),
    }
    if operation.body is not None:
        told["requestBody"] = {"content": {"application/json": {"schema": schemas[operation.body]}}}
    return told


def _parameter(name: str, schema: Schema, path: str) -> Schema:
    options = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]  # in a query, null is left out
    told = options[0] if options else schema
    described = {key: value for key, value in told.items() if key != "description"}
    is_in_path = f"{{{name}}}" in path
    parameter = {"name": name, "in": "path" if is_in_path else "query", "required": is_in_path, "schema": described}
    return parameter | ({"description": told["description"]} if "description" in told else {})


def _good(operation: AnyOperation, schemas: Mapping[Any, Schema]) -> Schema:
    content = (
        {"content": {operation.media_type: {"schema": schemas[operation.answer]}}}
        if operation.answer is not None
        else {}
    )
    return {
        str(status): {"description": HTTPStatus(status).phrase} | ({} if status == HTTPStatus.NOT_MODIFIED else content)
        for status in operation.statuses
    }


def _bad(operation: AnyOperation, schemas: Mapping[Any, Schema]) -> Schema:
    common = COMMON_PROBLEMS if operation.body is None else COMMON_PROBLEMS | CHANGING_PROBLEMS
    return {
        str(status): {
            "description": meaning,
            "content": {"application/problem+json": {"schema": schemas[Problem]}},
        }
        for status, meaning in sorted((common | operation.problems).items())
    }
