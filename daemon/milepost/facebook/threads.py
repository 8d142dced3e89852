"""Converts threads and messages to conversations and interactions: decoded strictly, or odd ones item by item."""

import json
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct, ValidationError
from msgspec.structs import replace

from milepost.core.model import UNAVAILABLE, Contact, Conversation, Direction, Interaction, MessagePage, Unreadable
from milepost.core.texts import storable, visible
from milepost.facebook.redaction import scrub, unsigned
from milepost.facebook.responses import older
from milepost.facebook.wire import (
    NAMED_BY_CONTENT,
    Message,
    Paging,
    People,
    SentAttachment,
    Share,
    StoryItem,
    Thread,
    elements_of,
    is_thread_id,
    kept_id,
    lenient,
    mended,
)

MAX_PAYLOAD_CHARACTERS = 65536
MAX_REASON_CHARACTERS = 200
NO_TIME_OR_ID = "messages without a time or an id that can be kept"
ENCODER = msgspec.json.Encoder()


# --- messages ---------------------------------------------------------------------------------------------------------


class Kind(StrEnum):
    """The kind of a message: the first of these that fits."""

    UNSUPPORTED = "unsupported"  # Instagram cannot show it
    STORY_MENTION = "story_mention"
    STORY_REPLY = "story_reply"
    MESSAGE = "message"  # has text, whatever else it has
    STICKER = "sticker"
    ATTACHMENT = "attachment"
    SHARE = "share"
    UNAVAILABLE = UNAVAILABLE  # has no content: deleted, or older than the newest 20 of its thread


# Looked up once: they are needed for nearly all messages.
_MESSAGE, _IN, _OUT = Kind.MESSAGE.value, Direction.IN.value, Direction.OUT.value


class Attachment(Struct, frozen=True, omit_defaults=True):
    """The stored part of an attachment, share or story. Signed URLs are left out, because they expire within days.

    `type` is image, video, audio, file, share, story_mention or story_reply.
    """

    type: str
    id: str | None = None
    mime_type: str | None = None
    name: str | None = None
    size: int | None = None  # bytes
    link: str | None = None


def interaction(message: Message, own_ids: frozenset[str], contact_id: str | None) -> Interaction:
    """Convert a message of a thread whose contact is `contact_id`.

    Raises ValidationError for an id that cannot be kept, OverflowError as `utc` does.

    A message without a sender counts as the contact's: the API withholds people, never the page itself.
    """
    sender_id = message.sender.id if message.sender else None
    if sender_id in own_ids:
        direction = _OUT
    else:
        direction = _IN
        contact_id = kept_id(sender_id) if sender_id else contact_id
    return Interaction(
        kept_id(message.id),
        direction,
        _kind(message),
        utc(message.created_time),
        contact_id,
        unsigned(message.message) if message.message else None,
        _attachments(message),
    )


def utc(instant: datetime) -> datetime:
    """Convert an instant to UTC. Raises OverflowError at the ends of the calendar."""
    return instant if instant.tzinfo is UTC else instant.astimezone(UTC)


def _kind(message: Message) -> str:
    if message.message and message.story is None and not message.is_unsupported:
        return _MESSAGE
    evidence = {
        Kind.UNSUPPORTED: message.is_unsupported in (True, "true"),
        Kind.STORY_MENTION: message.story and message.story.mention,
        Kind.STORY_REPLY: message.story and message.story.reply_to,
        Kind.MESSAGE: message.message,
        Kind.STICKER: message.sticker,
        Kind.ATTACHMENT: message.attachments and message.attachments.data,
        Kind.SHARE: message.shares and message.shares.data,
    }
    return next((kind for kind, found in evidence.items() if found), Kind.UNAVAILABLE).value


def _attachments(message: Message) -> str | None:
    if message.attachments is None and message.shares is None and message.story is None:
        return None
    kept: list[Attachment] = []
    if message.attachments is not None:
        kept += map(_attachment, message.attachments.data)
    if message.shares is not None:
        kept += map(_share, message.shares.data)
    if message.story is not None:
        kept += _story(Kind.STORY_MENTION, message.story.mention)
        kept += _story(Kind.STORY_REPLY, message.story.reply_to)
    return ENCODER.encode(kept).decode() if kept else None


def _attachment(sent: SentAttachment) -> Attachment:
    return Attachment(
        _media_type(sent), _storable_id(sent.id), sent.mime_type, unsigned(sent.name) if sent.name else None, sent.size
    )


def _media_type(sent: SentAttachment) -> str:
    family = (sent.mime_type or "").partition("/")[0]
    if family in ("image", "video", "audio"):
        return family
    if sent.video_data is not None:
        return "video"
    return "image" if sent.image_data is not None else "file"


def _share(share: Share) -> Attachment:
    return Attachment(
        "share", _storable_id(share.id), name=share.name or None, link=unsigned(share.link) if share.link else None
    )


def _story(kind: Kind, item: StoryItem | None) -> list[Attachment]:
    return [] if item is None else [Attachment(kind.value, _storable_id(item.id))]


def _storable_id(other_id: str | None) -> str | None:
    """Return an id as a JSON column can hold it. It is never looked up, and PostgreSQL's JSON has no NUL."""
    return storable(other_id)[0] if other_id else other_id


# --- threads ----------------------------------------------------------------------------------------------------------


def conversation(thread: Thread, own_ids: frozenset[str]) -> Conversation:
    """Convert a thread. Raises ValidationError for an id that cannot be kept, OverflowError as `utc` does."""
    if not is_thread_id(thread.id):
        raise ValidationError("an id that a thread cannot be requested by")
    contact = _contact(thread, own_ids)
    contact_id = contact.contact_id if contact else None
    messages = thread.messages.data if thread.messages else ()
    has_older, older_cursor = older(thread.messages.paging if thread.messages else None)
    return Conversation(
        thread.id,
        utc(thread.updated_time),
        contact,
        thread.link,
        unsigned(thread.snippet) if thread.snippet else thread.snippet,
        thread.message_count,
        thread.unread_count,
        thread.can_reply,
        tuple([interaction(message, own_ids, contact_id) for message in messages]),
        has_older=has_older,
        older_cursor=older_cursor,
    )


def _contact(thread: Thread, own_ids: frozenset[str]) -> Contact | None:
    """Return the first participant that is not us. The order of the list means nothing.

    None if we are not among several participants: any of them may be us, under an id that we do not know.
    """
    if thread.participants is None:
        return None
    people = {person.id: person for person in thread.participants.data if person.id}
    others = [contact_id for contact_id in people if contact_id not in own_ids]
    if not others or len(others) == len(people) > 1:
        return None
    person = people[others[0]]
    return Contact(kept_id(others[0]), person.name or None, person.username or None)


# --- items of any shape -----------------------------------------------------------------------------------------------


def participants_of(item: Any) -> tuple[str, People | None]:  # noqa: ANN401 -- JSON of any shape
    """Return the id and the participants of a thread of any shape."""
    if not isinstance(item, dict):
        return "", None
    try:
        return str(item.get("id")), lenient(item.get("participants"), People | None)
    except ValidationError:
        return str(item.get("id")), None


def read_item(item: Any, own_ids: frozenset[str]) -> list[Conversation | Unreadable]:  # noqa: ANN401 -- JSON of any shape
    """Return a conversation and, separately, its messages that cannot be read."""
    item, replaced = mended(item)
    if not isinstance(item, dict):
        return [_unreadable(None, "the item is no object", item)]
    try:
        thread = lenient({name: value for name, value in item.items() if name != "messages"}, Thread)
        converted = conversation(thread, own_ids)
    except (ValidationError, OverflowError) as error:
        return [_unreadable(item.get("id"), str(error), item)]
    return with_messages(replace(converted, replaced_characters=replaced), item.get("messages"), own_ids)


def with_messages(
    listed: Conversation,
    messages: Any,  # noqa: ANN401 -- JSON of any shape
    own_ids: frozenset[str],
) -> list[Conversation | Unreadable]:
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
