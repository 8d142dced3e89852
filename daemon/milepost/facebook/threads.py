"""Converts decoded threads and messages to conversations and interactions, and finds out which participant is us."""

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum

import msgspec
from msgspec import Struct, ValidationError

from milepost.core.model import UNAVAILABLE, Contact, Conversation, Direction, Interaction, OwnId, OwnIdState, Profile
from milepost.core.texts import storable
from milepost.facebook.redaction import unsigned
from milepost.facebook.wire import (
    MAX_ID_CHARACTERS,
    Message,
    People,
    Person,
    SentAttachment,
    Share,
    StoryItem,
    Thread,
    is_thread_id,
    kept_id,
    older,
)

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
        if sender_id and sender_id != contact_id:  # an equal text would take up memory once more
            contact_id = kept_id(sender_id)
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
        _media_type(sent), _storable(sent.id), sent.mime_type, unsigned(sent.name) if sent.name else None, sent.size
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
        "share", _storable(share.id), name=share.name or None, link=unsigned(share.link) if share.link else None
    )


def _story(kind: Kind, item: StoryItem | None) -> list[Attachment]:
    return [] if item is None else [Attachment(kind.value, _storable(item.id))]


def _storable(text: str | None) -> str | None:
    """Return an id that is never looked up as every column can hold it: PostgreSQL's JSON has no NUL."""
    return storable(text)[0] if text else text


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
    other: Person | None = None
    has_us = has_several = False
    for person in thread.participants.data:
        if person.id in own_ids:
            has_us = True
        elif person.id and (other is None or person.id == other.id):
            other = person
        elif person.id:
            has_several = True
    if other is None or other.id is None or (has_several and not has_us):
        return None
    return Contact(kept_id(other.id), other.name or None, other.username or None)


# --- which participant is us ------------------------------------------------------------------------------------------

# A page or an Instagram professional account can have two ids, and participants may have another one than the
# configuration or the API. Then that other id is in every thread. It is taken as ours once that is certain: no customer
# is in several threads with different people.

MIN_THREADS = 3  # with as many different people, before an id is taken as ours
MAX_THREADS = 50  # kept as evidence


class OwnIds:
    """Our own ids in one inbox: the expected ones, and possibly one that the threads have shown to be ours."""

    def __init__(self, expected: Iterable[str]) -> None:
        self._expected = frozenset(expected)
        self._taken: str | None = None
        self._is_seen = False  # an expected id has been among the participants
        self._is_from_head = False  # the inbox has been read from its head
        self._evidence: dict[str, frozenset[str]] = {}  # the participants of the latest threads without us
        self.profile = Profile()
        """Our own name in the threads: on Messenger a name, on Instagram a user name."""

    @property
    def all(self) -> frozenset[str]:
        """All ids that are ours."""
        return self._expected if self._taken is None else self._expected | {self._taken}

    def expect(self, own_id: str) -> None:
        """Add an id that is ours according to the API."""
        self._expected |= {own_id}

    def recall(self, own_id: str | None) -> None:
        """Take an id as ours that earlier threads have shown to be ours."""
        if own_id is not None and not self._is_seen:
            self._taken = own_id

    def check(
        self, threads: Iterable[tuple[str, People | None]], *, is_head: bool = False, is_end: bool = False
    ) -> OwnId | None:
        """Return whether the threads of a response confirm our own id; None if they neither confirm nor refute it.

        Threads with fewer than two participants prove nothing. Nor do a few threads without us, unless they are the
        whole inbox, read from its head to its end.
        """
        self._is_from_head = self._is_from_head or is_head
        evidence: dict[str, frozenset[str]] = {}
        for thread_id, participants in threads:
            ids = {person.id for person in participants.data if person.id} if participants else set()
            self._meet(participants)
            if not self._expected.isdisjoint(ids) and self._taken not in ids:
                return self.see_expected()
            if len(ids) > 1:
                evidence[thread_id] = frozenset(ids)
        if evidence and not any(self._taken in ids for ids in evidence.values()):
            self._evidence = dict([*(self._evidence | evidence).items()][-MAX_THREADS:])
            self._taken = _common(self._evidence.values())
        if self._taken is not None:
            return OwnId(OwnIdState.ANOTHER, self._taken) if evidence else None
        is_all = is_end and self._is_from_head and not self._is_seen and bool(self._evidence)
        return OwnId(OwnIdState.UNKNOWN) if len(self._evidence) >= MIN_THREADS or is_all else None

    def _meet(self, participants: People | None) -> None:
        """Learn our own name from a thread."""
        for person in participants.data if participants else ():
            if person.id in self.all:
                self.profile = Profile(person.name or self.profile.name, person.username or self.profile.username)

    def see_expected(self) -> OwnId:
        """Note that one of our expected ids is among the participants of a thread."""
        self._is_seen, self._taken = True, None
        self._evidence.clear()
        return OwnId(OwnIdState.EXPECTED)


def _common(threads: Iterable[frozenset[str]]) -> str | None:
    """Return the one id that is in every thread, if there are enough threads with enough other people."""
    ids = list(threads)
    common = frozenset.intersection(*ids)
    others = frozenset.union(*ids) - common
    if len(common) != 1 or min(len(ids), len(others)) < MIN_THREADS:
        return None
    (own_id,) = common
    return own_id if own_id.isprintable() and len(own_id) <= MAX_ID_CHARACTERS else None
