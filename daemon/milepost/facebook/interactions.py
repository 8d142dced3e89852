"""Messages as interactions: direction, kind, and what can be kept of the attachments."""

from datetime import UTC, datetime
from enum import StrEnum

import msgspec
from msgspec import Struct

from milepost.core.model import UNAVAILABLE, Direction, Interaction
from milepost.core.texts import storable
from milepost.facebook.redaction import unsigned
from milepost.facebook.wire import Message, SentAttachment, Share, StoryItem, kept_id


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


class Attachment(Struct, frozen=True, omit_defaults=True):
    """What is kept of an attachment, share or story: no signed URL, because those expire within days.

    `type` is image, video, audio, file, share, story_mention or story_reply.
    """

    type: str
    id: str | None = None
    mime_type: str | None = None
    name: str | None = None
    size: int | None = None  # bytes
    link: str | None = None


ENCODER = msgspec.json.Encoder()


def interaction(message: Message, own_ids: frozenset[str], contact_id: str | None) -> Interaction:
    """Convert a message of a thread whose contact is `contact_id`.

    Raises ValidationError for an id that cannot be kept, OverflowError as `utc` does.

    A message without a sender counts as the contact's: the API withholds people, never the page itself.
    """
    sender_id = message.sender.id if message.sender else None
    if sender_id in own_ids:
        direction = Direction.OUT
    else:
        direction = Direction.IN
        contact_id = kept_id(sender_id) if sender_id else contact_id
    return Interaction(
        kept_id(message.id),
        direction,
        _kind(message).value,
        utc(message.created_time),
        contact_id,
        unsigned(message.message) if message.message else None,
        _attachments(message),
    )


def utc(instant: datetime) -> datetime:
    """Convert an instant to UTC. Raises OverflowError at the ends of the calendar."""
    return instant if instant.tzinfo is UTC else instant.astimezone(UTC)


def _kind(message: Message) -> Kind:
    if message.message and message.story is None and not message.is_unsupported:
        return Kind.MESSAGE
    evidence = {
        Kind.UNSUPPORTED: message.is_unsupported in (True, "true"),
        Kind.STORY_MENTION: message.story and message.story.mention,
        Kind.STORY_REPLY: message.story and message.story.reply_to,
        Kind.MESSAGE: message.message,
        Kind.STICKER: message.sticker,
        Kind.ATTACHMENT: message.attachments and message.attachments.data,
        Kind.SHARE: message.shares and message.shares.data,
    }
    return next((kind for kind, found in evidence.items() if found), Kind.UNAVAILABLE)


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
        _media_type(sent), _told(sent.id), sent.mime_type, unsigned(sent.name) if sent.name else None, sent.size
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
        "share", _told(share.id), name=share.name or None, link=unsigned(share.link) if share.link else None
    )


def _story(kind: Kind, item: StoryItem | None) -> list[Attachment]:
    return [] if item is None else [Attachment(kind.value, _told(item.id))]


def _told(other_id: str | None) -> str | None:
    """Return an id that is only told, not looked up: PostgreSQL could not take a text with NUL out of the JSON."""
    return storable(other_id)[0] if other_id else other_id
