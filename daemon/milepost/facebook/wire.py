"""The types of the responses of the conversations edge.

Only ids and times are required, because everything else is missing now and then. Strict decoding into these types
makes reading fast; `leniency` reads the same types from responses that strict decoding rejects. Decoded values form a
tree, so the garbage collector need not look for cycles (`gc=False`).
"""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct, ValidationError, field

MAX_ID_CHARACTERS = 512  # captured ones have up to 200
MAX_CURSOR_CHARACTERS = 4096  # captured ones have about 200; more would not fit into a URL
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


def has_next(paging: Paging | None) -> bool:
    """Return whether a list continues. It does not if `next` is empty: the cursor beside it would lead to the head."""
    return paging is not None and paging.next not in (None, "")


def older(paging: Paging | None) -> tuple[bool, str | None]:
    """Return whether there are older messages than the nested ones, and the cursor to them if it is usable."""
    if paging is None or not has_next(paging):
        return False, None
    cursor = paging.cursors.after if paging.cursors else None
    return True, cursor if cursor and len(cursor) <= MAX_CURSOR_CHARACTERS else None


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
