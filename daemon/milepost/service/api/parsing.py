"""Reads what a request asks for into what its operation declares. What does not fit is named in the problem."""

import asyncio
import re
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct, inspect

MAX_BODY_SECONDS = 10.0

Asked = TypeVar("Asked")
_PLACE = re.compile(r"(?P<what>.*) - at `\$\.?(?P<where>[^`]*)`")


class Parameters(Generic[Asked]):
    """The parameters of the path and the query, as the fields of a struct declare them."""

    def __init__(self, kind: type[Asked]) -> None:
        self._kind = kind
        self._is_list = {name: _is_list(field.type) for name, field in fields_of(kind).items()}

    def read(self, request: web.Request) -> Asked:
        """Read what is given.

        Raises HTTPNotFound where what the path names cannot exist, HTTPBadRequest for anything else that does not fit.
        """
        named = request.match_info
        given: dict[str, Any] = self._query_of(request) | dict(named)
        try:
            return msgspec.convert(given, self._kind, strict=False)  # from text: "5" is a number
        except msgspec.ValidationError as error:
            what, where = _told(error)
            if where in named:
                raise web.HTTPNotFound(text=f"there is nothing of that name: {where}: {what}") from error
            raise _bad_query(where, what) from error

    def _query_of(self, request: web.Request) -> dict[str, Any]:
        query, known = request.query, self._is_list.keys() - request.match_info.keys()
        for name in query:
            if name not in known:
                raise _bad_query(name, f"it is not known; what can be given: {', '.join(sorted(known)) or 'nothing'}")
            if len(query.getall(name)) > 1 and not self._is_list[name]:
                raise _bad_query(name, "it is given more than once")
        return {name: query.getall(name) if self._is_list[name] else query[name] for name in query}


def fields_of(kind: type[Any]) -> dict[str, inspect.Field]:
    """Give the fields of a struct by their names."""
    described = inspect.type_info(kind)
    return {each.encode_name: each for each in described.fields} if isinstance(described, inspect.StructType) else {}


def _is_list(kind: inspect.Type) -> bool:
    """Whether a field may be given more than once; what describes it is around its type."""
    return isinstance(kind.type if isinstance(kind, inspect.Metadata) else kind, inspect.VarTupleType)


def _bad_query(name: str, what: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=f"the query is not as it should be: {name}: {what}")


def _told(error: msgspec.ValidationError) -> tuple[str, str]:
    """Take apart what is wrong and where."""
    match = _PLACE.fullmatch(str(error))
    return (str(error), "") if match is None else (match["what"], match["where"].partition("[")[0])


Body = TypeVar("Body", bound=Struct)


async def body_of(request: web.Request, kind: type[Body]) -> Body:
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise web.HTTPBadRequest(text="the body is not JSON") from error
