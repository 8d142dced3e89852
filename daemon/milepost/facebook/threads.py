"""Threads as conversations: strictly decoded ones, and odd ones item by item."""

import json
from hashlib import sha256
from typing import Any

from msgspec import ValidationError
from msgspec.structs import replace

from milepost.core.model import Contact, Conversation, Interaction, MessagePage, Unreadable
from milepost.core.texts import visible
from milepost.facebook.interactions import interaction, utc
from milepost.facebook.leniency import elements_of, lenient, mended
from milepost.facebook.paging import older_cursor
from milepost.facebook.redaction import scrub, unsigned
from milepost.facebook.wire import NAMED_BY_CONTENT, Message, Paging, People, Thread, is_thread_id, kept_id

MAX_PAYLOAD_CHARACTERS = 65536
MAX_REASON_CHARACTERS = 200
NO_TIME_OR_ID = "messages without a time or an id that can be kept"


def conversation(thread: Thread, own_ids: frozenset[str]) -> Conversation:
    """Convert a thread. Raises ValidationError for an id that cannot be kept, OverflowError as `utc` does."""
    if not is_thread_id(thread.id):
        raise ValidationError("an id that a thread cannot be requested by")
    contact = _contact(thread, own_ids)
    contact_id = contact.contact_id if contact else None
    messages = thread.messages.data if thread.messages else ()
    paging = thread.messages.paging if thread.messages else None
    has_older = paging is not None and paging.next is not None
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
        older_cursor=older_cursor(paging) if has_older else None,
    )


def _contact(thread: Thread, own_ids: frozenset[str]) -> Contact | None:
    """Return the other side: the first participant that is not us. The order of the list means nothing.

    None if we are not among several participants: any of them may be us, under an id that we do not know.
    """
    if thread.participants is None:
        return None
    others = {person.id: person for person in thread.participants.data if person.id}
    people = len(others)
    for own_id in own_ids:
        others.pop(own_id, None)
    if not others or len(others) == people > 1:
        return None
    person = next(iter(others.values()))
    return Contact(kept_id(person.id or ""), person.name or None, person.username or None)


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
    paging = _paging(messages)
    has_older = paging is not None and paging.next is not None
    whole = replace(
        listed,
        interactions=interactions,
        has_older=has_older,
        older_cursor=older_cursor(paging) if has_older else None,
    )
    if not refused:
        return [whole]
    return [whole, _unreadable(f"{listed.conversation_id}/messages", NO_TIME_OR_ID, refused)]


def message_page(items: list[Any], next_cursor: str | None, own_ids: frozenset[str]) -> MessagePage:
    """Return messages of a thread that were requested by themselves, which do not say whose thread it is."""
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
    """Return whether there is no more of a message than its id (captured in 2017: beyond the newest of a thread)."""
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


def _paging(messages: Any) -> Paging | None:  # noqa: ANN401 -- JSON of any shape
    """Return the paging of nested messages."""
    paging = messages.get("paging") if isinstance(messages, dict) else None
    return lenient(paging, Paging) if isinstance(paging, dict) else None


def nested_messages(messages: Any) -> list[Any]:  # noqa: ANN401 -- JSON of any shape
    """Return the messages of a thread; without a list of them, the whole is one element that cannot be read."""
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
