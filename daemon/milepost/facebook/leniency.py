"""Lenient decoding: characters that no database takes are replaced, and optional fields of a wrong type left out."""

import json
import math
from inspect import isclass
from typing import Any, NoReturn, get_args, get_origin

import msgspec
from msgspec import Struct, ValidationError
from msgspec.structs import fields

from milepost.core.texts import storable, storable_id

MAX_ELEMENTS = 1_000  # of participants, attachments or shares that are tried one by one, which takes 30 µs each
ESCAPED_NUL = rb"\u0000"  # the only way in which JSON can spell it


def read_json(body: bytes) -> Any:  # noqa: ANN401 -- JSON of any shape
    """Parse JSON as `parse_json` does, and replace the characters that a database refuses."""
    value, _ = mended(parse_json(body))
    return value


def parse_json(body: bytes) -> Any:  # noqa: ANN401 -- JSON of any shape
    """Parse JSON; invalid UTF-8 becomes U+FFFD, and unescaped control characters are allowed in texts.

    A number that Python cannot represent stays text. Raises ValueError for anything that is not JSON, including NaN and
    Infinity, and for nesting deeper than Python's stack.
    """
    try:
        return json.loads(
            body.decode("utf-8-sig", "replace"),
            strict=False,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def mended(value: Any) -> tuple[Any, int]:  # noqa: ANN401 -- JSON of any shape
    r"""Return JSON with U+FFFD for each NUL and each half of a surrogate pair (`"\ud83d"`), and how many those were.

    A NUL in an id stays, because a changed id would be another id. The value is changed in place.
    """
    whole: list[Any] = [value]
    containers: list[Any] = [whole]
    replaced = 0
    while containers:  # not recursive, because parsed JSON may be nested as deeply as Python's stack allows
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

    Elements of a wrong type are left out of lists, unless there are too many to try one by one. Other forms with the
    same meaning are accepted: a number as an id, an id instead of an object, a list without its `data`, an object of
    elements instead of a list. Raises ValidationError if a required field is missing or wrong.
    """
    try:
        return msgspec.convert(value, wanted)
    except ValidationError:
        if get_origin(wanted) is list:
            if not isinstance(value, (list, dict)):
                raise
            (element_type,) = get_args(wanted)
            elements = elements_of(value)
            if len(elements) > MAX_ELEMENTS:
                raise
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
    """Return the elements of a list, which PHP writes as an object if its keys are not 0, 1, 2 and so on."""
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
    """Return the object that a value stands for. Raises ValidationError if it stands for none."""
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
    """Convert as `lenient` does; return None if that fails."""
    try:
        return lenient(value, wanted)
    except ValidationError:
        return None


def _integer(text: str) -> int | str:
    """Return the number, or the text if it has more digits than Python converts (sys.set_int_max_str_digits)."""
    try:
        return int(text)
    except ValueError:
        return text


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
