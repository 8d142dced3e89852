"""The types of the responses of the conversations edge, and how they are read from responses that deviate.

Only ids and times are required, because everything else is missing now and then. Strict decoding into these types
makes reading fast; lenient decoding reads the same types from responses that strict decoding rejects. Decoded values
form a tree, so the garbage collector need not look for cycles (`gc=False`).
"""

import json
import math
from datetime import datetime
from inspect import isclass
from typing import Annotated, Any, NoReturn, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, ValidationError, field
from msgspec.structs import fields

from milepost.core.texts import storable, storable_id

MAX_ID_CHARACTERS = 512  # captured ones have up to 200
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]
Instant = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
NAMED_BY_CONTENT = "sha256:"  # prefix of the subject of an item without an id


def kept_id(text: str) -> str:
    """Return the id unchanged. Raises ValidationError for one with control characters: key lookups end at a NUL."""
    if not text.isprintable():
        raise ValidationError("an id with control characters")
    return text


def is_thread_id(text: str) -> bool:
    """Return whether a thread can be requested by this id. It has to be one segment of a path, and not only dots."""
    return (
        0 < len(text) <= MAX_ID_CHARACTERS
        and text.isprintable()
        and text not in (".", "..")
        and not text.startswith(NAMED_BY_CONTENT)
    )


class Person(Struct, gc=False):
    """A participant. `email` is left out, because it is not a real address but the id at facebook.com."""

    id: str | None = None
    name: str | None = None
    username: str | None = None


class Sender(Struct, gc=False):
    """The sender of a message. The sender's name is among the participants."""

    id: str | None = None


class People(Struct, gc=False):
    """The participants of a thread, in no order that means anything."""

    data: list[Person]


class Media(Struct, gc=False):
    """Image or video data. Only its presence counts, because its URLs are signed."""


class SentAttachment(Struct, gc=False):
    """An attachment. Instagram gives no `mime_type`; `size` is null at times."""

    id: str | None = None
    mime_type: str | None = None
    name: str | None = None
    size: Size | None = None
    image_data: Media | None = None
    video_data: Media | None = None


class SentAttachments(Struct, gc=False):
    """The attachments of a message."""

    data: list[SentAttachment]


class Share(Struct, gc=False):
    """A link, post or product that was shared."""

    id: str | None = None
    name: str | None = None
    link: str | None = None


class Shares(Struct, gc=False):
    """The shares of a message."""

    data: list[Share]


class StoryItem(Struct, gc=False):
    """An Instagram story. Its link is signed."""

    id: str | None = None


class Story(Struct, gc=False):
    """How an Instagram message refers to a story."""

    reply_to: StoryItem | None = None
    mention: StoryItem | None = None


class Message(Struct, gc=False):
    """A message of a thread. `is_unsupported` comes as a string in Meta's documentation."""

    id: Id
    created_time: Instant
    sender: Sender | None = field(default=None, name="from")
    message: str | None = None
    sticker: str | None = None
    attachments: SentAttachments | None = None
    shares: Shares | None = None
    story: Story | None = None
    is_unsupported: bool | str | None = None


class Cursors(Struct, gc=False):
    """The cursors of a batch; only the last one is used."""

    after: str | None = None


class Paging(Struct, gc=False):
    """The paging of a list. `next` is present if there is another batch; it holds the token and is never followed."""

    next: object = None
    cursors: Cursors | None = None


class Messages(Struct, gc=False):
    """The nested messages of a thread, newest first."""

    data: list[Message]
    paging: Paging | None = None


class Thread(Struct, gc=False):
    """A conversation."""

    id: Id
    updated_time: Instant
    participants: People | None = None
    link: str | None = None
    snippet: str | None = None
    message_count: Count | None = None
    unread_count: Count | None = None
    can_reply: bool | None = None
    messages: Messages | None = None


class ThreadList(Struct, gc=False):
    """A response of the list edge. An `error` may come with any HTTP status."""

    data: list[Thread]
    paging: Paging | None = None
    error: object = None


# --- lenient decoding -------------------------------------------------------------------------------------------------

# Characters that no database takes are replaced, and optional fields of a wrong type are left out.


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
    """Convert JSON to a type of this module, treating an optional field of a wrong type as absent.

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
