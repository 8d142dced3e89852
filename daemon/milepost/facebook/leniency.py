"""Lenient decoding of what strict decoding rejects: broken Unicode, and single fields of a wrong type."""

import json
import re
from inspect import isclass
from typing import Any, NoReturn, get_args, get_origin

import msgspec
from msgspec import Struct, ValidationError
from msgspec.structs import fields

ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(body: bytes) -> Any:  # noqa: ANN401 -- JSON of any shape
    r"""Parse JSON; invalid UTF-8 and lone surrogates (`"\ud83d"`) become U+FFFD.

    Raises ValueError for anything else (NaN and Infinity, too), and for nesting deeper than Python's stack.
    """
    try:
        value = json.loads(body.decode("utf-8-sig", "replace"), parse_constant=_refuse_constant)
        if not ESCAPED_SURROGATE.search(body):
            return value
        return json.loads(LONE_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def lenient(value: object, wanted: Any) -> Any:  # noqa: ANN401 -- a type expression in, a value of that type out
    """Convert JSON to a type of `wire`, treating an optional field of a wrong type as absent.

    Elements of a wrong type are left out of lists. What says the same in another form is read: ids as numbers, an
    object by nothing but its id, a list without its `data`, a list as an object of its elements. Raises ValidationError
    if a required field is missing or wrong.
    """
    try:
        return msgspec.convert(value, wanted)
    except ValidationError:
        if get_origin(wanted) is list:
            if not isinstance(value, (list, dict)):
                raise
            (element_type,) = get_args(wanted)
            elements = elements_of(value)
            return [read for element in elements if (read := lenient_or_none(element, element_type)) is not None]
        struct = next(
            (each for each in (wanted, *get_args(wanted)) if isclass(each) and issubclass(each, Struct)), None
        )
        if struct is not None:
            return _lenient_struct(_as_object(value, struct), struct)
        if isinstance(value, int) and not isinstance(value, bool):
            return _from_number(value, wanted)
        raise


def elements_of(value: list[Any] | dict[str, Any]) -> list[Any]:
    """Return the elements of a list, which PHP writes as an object where its keys are not 0, 1, 2 and so on."""
    if isinstance(value, list):
        return value
    return list(value.values()) if all(isinstance(each, dict) for each in value.values()) else [value]


def _from_number(value: int, wanted: Any) -> Any:  # noqa: ANN401 -- see lenient
    """Read a number as an id, or as seconds of Unix time."""
    try:
        return msgspec.convert(str(value), wanted)
    except ValidationError:
        return msgspec.convert(value, wanted, strict=False)


def _as_object(value: object, struct: type[Struct]) -> dict[str, object]:
    """Return the object that a value stands for. Raises ValidationError if that cannot be told."""
    names = {field.encode_name for field in fields(struct)}
    if "data" in names and (isinstance(value, list) or (isinstance(value, dict) and "data" not in value)):
        return {"data": value}
    if isinstance(value, dict):
        return value
    if "id" in names and not isinstance(value, bool) and str(value).isdecimal():
        return {"id": str(value)}
    raise ValidationError("not an object")


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


def lenient_or_none(value: object, wanted: Any) -> Any:  # noqa: ANN401 -- see lenient
    """Convert as `lenient` does, but to None where that fails."""
    try:
        return lenient(value, wanted)
    except ValidationError:
        return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
