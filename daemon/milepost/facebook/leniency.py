"""Lenient decoding: characters that no database takes are replaced, and optional fields of a wrong type left out."""

import json
from inspect import isclass
from typing import Any, NoReturn, get_args, get_origin

import msgspec
from msgspec import Struct, ValidationError
from msgspec.structs import fields

from milepost.core.texts import storable, storable_id

ESCAPED_NUL = rb"\u0000"  # the only way in which JSON can spell it


def read_json(body: bytes) -> Any:  # noqa: ANN401 -- JSON of any shape
    """Parse JSON as `parse_json` does, with texts as every database takes them."""
    value, _ = mended(parse_json(body))
    return value


def parse_json(body: bytes) -> Any:  # noqa: ANN401 -- JSON of any shape
    """Parse JSON; invalid UTF-8 becomes U+FFFD, and control characters may stand in texts as they are.

    Raises ValueError for anything else (NaN and Infinity, too), and for nesting deeper than Python's stack.
    """
    try:
        return json.loads(body.decode("utf-8-sig", "replace"), strict=False, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def mended(value: Any) -> tuple[Any, int]:  # noqa: ANN401 -- JSON of any shape
    r"""Return JSON with U+FFFD for each NUL and each half of a surrogate pair (`"\ud83d"`), and how many those were.

    A NUL in an id stays, because an id that was altered would be another one. What is given is altered in place.
    """
    whole: list[Any] = [value]
    containers: list[Any] = [whole]
    replaced = 0
    while containers:  # not recursive: what json.loads can parse is nested as deeply as Python's stack allows
        container = containers.pop()
        for place, member in list(container.items()) if isinstance(container, dict) else enumerate(container):
            if isinstance(member, dict | list):
                containers.append(member)
            elif isinstance(member, str):
                container[place], count = storable_id(member) if place == "id" else storable(member)
                replaced += count
            if isinstance(place, str) and (name := storable(place)[0]) != place:
                container[name] = container.pop(place)
    return whole[0], replaced


def lenient(value: object, wanted: Any) -> Any:  # noqa: ANN401 -- a type expression in, a value of that type out
    """Convert JSON to a type of `wire`, treating an optional field of a wrong type as absent.

    Elements of a wrong type are left out of lists. Raises ValidationError if a required field is missing or wrong.
    """
    try:
        return msgspec.convert(value, wanted)
    except ValidationError:
        struct = next(
            (each for each in (wanted, *get_args(wanted)) if isclass(each) and issubclass(each, Struct)), None
        )
        if struct is not None and isinstance(value, dict):
            return _lenient_struct(value, struct)
        if get_origin(wanted) is list and isinstance(value, list):
            (element_type,) = get_args(wanted)
            return [read for element in value if (read := _lenient_or_none(element, element_type)) is not None]
        raise


def _lenient_struct(value: dict[str, object], struct: type[Struct]) -> Struct:
    members = {}
    for field in fields(struct):
        if field.encode_name in value:
            try:
                members[field.name] = lenient(value[field.encode_name], field.type)
            except ValidationError as error:
                if field.required:
                    raise ValidationError(f"{field.encode_name}: {error}") from None
        elif field.required:
            raise ValidationError(f"{field.encode_name} is missing")
    return struct(**members)


def _lenient_or_none(value: object, wanted: Any) -> Any:  # noqa: ANN401 -- see lenient
    try:
        return lenient(value, wanted)
    except ValidationError:
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
