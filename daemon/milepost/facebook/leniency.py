"""Lenient decoding of what strict decoding rejects: broken Unicode, and single fields of a wrong type."""

import json
import math
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

    A number that Python cannot hold stays the text that it is written as. Raises ValueError for anything else (NaN and
    Infinity, too), and for nesting deeper than Python's stack.
    """
    try:
        value = json.loads(
            body.decode("utf-8-sig", "replace"),
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
        if not ESCAPED_SURROGATE.search(body):
            return value
        return json.loads(LONE_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))
    except RecursionError:
        raise ValueError("nested too deeply") from None


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


def _integer(text: str) -> int | str:
    """Return the number, or the text where it has more digits than Python converts (sys.set_int_max_str_digits)."""
    try:
        return int(text)
    except ValueError:
        return text


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
