"""Lenient decoding: reads what strict decoding rejects, item by item.

Characters that no database takes are replaced, and optional fields of a wrong type are left out. An item that cannot be
read is kept as it came.
"""

import json
import math
from hashlib import sha256
from inspect import isclass
from typing import Any, NoReturn, get_args, get_origin

import msgspec
from msgspec import Struct, ValidationError
from msgspec.structs import fields, replace

from milepost.core.model import Conversation, Interaction, MessagePage, Unreadable
from milepost.core.texts import storable, storable_id, visible
from milepost.facebook.redaction import scrub
from milepost.facebook.threads import conversation, interaction
from milepost.facebook.wire import NAMED_BY_CONTENT, Message, Paging, People, Thread, is_thread_id, older

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
        return _convert(value, wanted)
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
    """Return the elements of a list, which PHP writes as an object if its keys are not 0, 1, 2 and so on.

    A list without its `data` may have a paging only: then it is empty.
    """
    if isinstance(value, list):
        return value
    if value.keys() == {"paging"}:
        return []
    return list(value.values()) if all(isinstance(each, dict) for each in value.values()) else [value]


def _from_number(value: int, wanted: Any) -> Any:  # noqa: ANN401 -- see lenient
    """Read a number as an id, or as seconds of Unix time."""
    try:
        return _convert(str(value), wanted)
    except ValidationError:
        return _convert(value, wanted, strict=False)


def _convert(value: object, wanted: Any, *, strict: bool = True) -> Any:  # noqa: ANN401 -- see lenient
    """Convert as msgspec does, which raises errors of its own for half of a surrogate pair and for the year 10000."""
    try:
        return msgspec.convert(value, wanted, strict=strict)
    except ValidationError:
        raise
    except ValueError as error:
        raise ValidationError(str(error)) from None


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
    for each in fields(struct):
        if each.encode_name in value:
            try:
                members[each.name] = lenient(value[each.encode_name], each.type)
            except ValidationError as error:
                if each.required:
                    raise ValidationError(f"{each.encode_name}: {error}") from None
        elif each.required:
            raise ValidationError(f"{each.encode_name} is missing")
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


# --- threads and messages ---------------------------------------------------------------------------------------------

MAX_PAYLOAD_CHARACTERS = 65536
MAX_REASON_CHARACTERS = 200
NO_TIME_OR_ID = "messages without a time or an id that can be kept"


def participants_of(item: Any) -> tuple[str, People | None]:  # noqa: ANN401 -- JSON of any shape
    """Return the id and the participants of a thread of any shape."""
    if not isinstance(item, dict):
        return "", None
    try:
        return str(item.get("id")), lenient(item.get("participants"), People | None)
    except ValidationError:
        return str(item.get("id")), None


def read_item(item: Any, replaced: int, own_ids: frozenset[str]) -> list[Conversation | Unreadable]:  # noqa: ANN401 -- JSON
    """Return a mended conversation and, separately, its messages that cannot be read."""
    if not isinstance(item, dict):
        return [_unreadable(None, "the item is not an object", item)]
    try:
        thread = lenient({name: value for name, value in item.items() if name != "messages"}, Thread)
        converted = conversation(thread, own_ids)
    except (ValidationError, OverflowError) as error:
        return [_unreadable(item.get("id"), str(error), item)]
    return with_messages(replace(converted, replaced_characters=replaced), item.get("messages"), own_ids)


def with_messages(listed: Conversation, messages: Any, own_ids: frozenset[str]) -> list[Conversation | Unreadable]:  # noqa: ANN401 -- JSON
    """Return a conversation with the messages of its thread and, separately, those that cannot be read."""
    contact_id = listed.contact.contact_id if listed.contact else None
    interactions, refused = _read_messages(nested_messages(messages), own_ids, contact_id)
    paging = messages.get("paging") if isinstance(messages, dict) else None
    has_older, older_cursor = older(lenient(paging, Paging) if isinstance(paging, dict) else None)
    whole = replace(listed, interactions=interactions, has_older=has_older, older_cursor=older_cursor)
    if not refused:
        return [whole]
    return [whole, _unreadable(f"{listed.conversation_id}/messages", NO_TIME_OR_ID, refused)]


def message_page(items: list[Any], next_cursor: str | None, own_ids: frozenset[str]) -> MessagePage:
    """Return messages that were requested without their thread, and so do not name its contact."""
    whole: list[Any] = []
    bare: list[str] = []
    for item in items:
        if _is_bare(item):
            bare.append(item["id"])
        else:
            whole.append(item)
    interactions, refused = _read_messages(whole, own_ids, None)
    unreadable = (_unreadable(None, NO_TIME_OR_ID, refused),) if refused else ()
    return MessagePage(interactions, next_cursor, unreadable, tuple(bare))


def _is_bare(message: Any) -> bool:  # noqa: ANN401 -- JSON of any shape
    """Return whether a message has nothing but its id (captured in 2017: all but the newest of a thread)."""
    return (
        isinstance(message, dict)
        and isinstance(message.get("id"), str)
        and is_thread_id(message["id"])
        and not any(value for name, value in message.items() if name != "id")
    )


def _read_messages(
    messages: list[Any], own_ids: frozenset[str], contact_id: str | None
) -> tuple[tuple[Interaction, ...], list[Any]]:
    """Return the messages that can be read, and the others."""
    interactions: list[Interaction] = []
    refused: list[Any] = []
    for message in messages:
        try:
            interactions.append(interaction(lenient(message, Message), own_ids, contact_id))
        except (ValidationError, OverflowError):
            refused.append(message)
    return tuple(interactions), refused


def nested_messages(messages: Any) -> list[Any]:  # noqa: ANN401 -- JSON of any shape
    """Return the messages of a thread; if it is not a list, return it as the only, unreadable, element."""
    data = messages.get("data", messages) if isinstance(messages, dict) else messages
    if not data:
        return []
    return elements_of(data) if isinstance(data, (list, dict)) else [messages]


def _unreadable(subject: object, reason: str, item: Any) -> Unreadable:  # noqa: ANN401 -- JSON of any shape
    payload = json.dumps(scrub(item), ensure_ascii=False)
    if not isinstance(subject, str) or not is_thread_id(subject.removesuffix("/messages")):
        subject = f"{NAMED_BY_CONTENT}{sha256(payload.encode()).hexdigest()}"
    if len(payload) > MAX_PAYLOAD_CHARACTERS:
        payload = json.dumps({"cut_short": payload[: MAX_PAYLOAD_CHARACTERS // 2]}, ensure_ascii=False)
    return Unreadable(subject, visible(reason)[:MAX_REASON_CHARACTERS], payload)
