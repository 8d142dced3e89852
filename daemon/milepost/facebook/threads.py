"""Threads as conversations: strictly decoded ones, and odd ones item by item."""

import json
from hashlib import sha256
from typing import Any

from msgspec import ValidationError
from msgspec.structs import replace

from milepost.core.model import Contact, Conversation, Interaction, Unreadable
from milepost.core.texts import visible
from milepost.facebook.interactions import interaction, utc
from milepost.facebook.leniency import lenient, mended
from milepost.facebook.redaction import scrub, unsigned
from milepost.facebook.wire import NAMED_BY_CONTENT, Message, Thread, is_thread_id, kept_id

MAX_PAYLOAD_CHARACTERS = 65536
MAX_REASON_CHARACTERS = 200


def conversation(thread: Thread, own_ids: frozenset[str]) -> Conversation:
    """Convert a thread. Raises ValidationError for an id that cannot be kept, OverflowError as `utc` does."""
    if not is_thread_id(thread.id):
        raise ValidationError("an id that a thread cannot be requested by")
    contact = _contact(thread, own_ids)
    contact_id = contact.contact_id if contact else None
    messages = thread.messages.data if thread.messages else ()
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
    )


def _contact(thread: Thread, own_ids: frozenset[str]) -> Contact | None:
    """Return the other side: the first participant that is not us. The order of the list means nothing."""
    if thread.participants is None:
        return None
    for person in thread.participants.data:
        if person.id and person.id not in own_ids:
            return Contact(kept_id(person.id), person.name or None, person.username or None)
    return None


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
    interactions: list[Interaction] = []
    refused: list[Any] = []
    for message in nested_messages(messages):
        try:
            interactions.append(interaction(lenient(message, Message), own_ids, contact_id))
        except (ValidationError, OverflowError):
            refused.append(message)
    whole = replace(listed, interactions=tuple(interactions))
    if not refused:
        return [whole]
    reason = "messages without a time or an id that can be kept"
    return [whole, _unreadable(f"{listed.conversation_id}/messages", reason, refused)]


def nested_messages(messages: Any) -> list[Any]:  # noqa: ANN401 -- JSON of any shape
    """Return the nested messages; without a list of them, the whole is one element that cannot be read."""
    if not messages:
        return []
    data = (messages.get("data") or []) if isinstance(messages, dict) else None
    return data if isinstance(data, list) else [messages]


def _unreadable(subject: object, reason: str, item: Any) -> Unreadable:  # noqa: ANN401 -- JSON of any shape
    payload = json.dumps(scrub(item), ensure_ascii=False)
    if not isinstance(subject, str) or not is_thread_id(subject.removesuffix("/messages")):
        subject = f"{NAMED_BY_CONTENT}{sha256(payload.encode()).hexdigest()}"
    if len(payload) > MAX_PAYLOAD_CHARACTERS:
        payload = json.dumps({"cut_short": payload[: MAX_PAYLOAD_CHARACTERS // 2]}, ensure_ascii=False)
    return Unreadable(subject, visible(reason)[:MAX_REASON_CHARACTERS], payload)
