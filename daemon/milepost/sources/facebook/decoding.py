"""Answers of the conversations edge as batches: bytes in, a Batch or a Problem out, and nothing ever raised.

The whole answer is decoded strictly and at once, which is fast and nearly always works. Where it does not, it is read
again item by item, so that one odd item costs nothing but itself.
"""

import json
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Struct, ValidationError

from milepost.core.model import Batch, Contact, Conversation, Interaction, Unreadable
from milepost.core.problems import Problem
from milepost.sources.facebook.interactions import interaction, utc
from milepost.sources.facebook.leniency import lenient, read_json
from milepost.sources.facebook.problems import error_of, nonsense, problem_of
from milepost.sources.facebook.redaction import scrub, unsigned
from milepost.sources.facebook.wire import MAX_ID_CHARACTERS, Message, Page, Paging, Thread

MAX_CURSOR_CHARACTERS = 4096  # captured ones have about 200; more would not fit into a URL
MAX_PAYLOAD_CHARACTERS = 65536
MAX_REASON_CHARACTERS = 200
DECODER = msgspec.json.Decoder(Page)


class Mailbox(Struct, frozen=True):
    """Whose inbox is read: the ids of our own side, and the URL of the edge without its query."""

    own_ids: frozenset[str]
    edge_url: str


def decode(body: bytes, http_status: int, mailbox: Mailbox, access_token: str) -> Batch | Problem:
    """Read an answer of the list edge. The token is only needed to keep it out of what is given back."""
    try:
        read = _decode_whole(body, http_status, mailbox, access_token)
        return _decode_by_item(body, http_status, mailbox, access_token) if read is None else read
    except RecursionError:
        return nonsense("the answer is nested too deeply", http_status)


def _decode_whole(body: bytes, http_status: int, mailbox: Mailbox, access_token: str) -> Batch | Problem | None:
    """Read an answer whose every item is as it should be; None for any other."""
    try:
        page = DECODER.decode(body)
        conversations = tuple([_conversation(thread, mailbox.own_ids) for thread in page.data])
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError):
        return None
    if page.error is not None:
        return error_of(page.error, http_status, access_token)
    return _batch(conversations, (), page.paging, mailbox, http_status)


def _decode_by_item(body: bytes, http_status: int, mailbox: Mailbox, access_token: str) -> Batch | Problem:
    try:
        value = read_json(body)
    except ValueError:
        return problem_of(body, http_status, access_token)
    if not isinstance(value, dict) or value.get("error") is not None or not isinstance(value.get("data"), list):
        return problem_of(body, http_status, access_token)
    paging = value.get("paging") or {}  # PHP writes an empty object as []
    if not isinstance(paging, dict):
        return nonsense("the answer has a paging that is no object", http_status)
    conversations: list[Conversation] = []
    unreadable: dict[str, Unreadable] = {}
    for item in value["data"]:
        for read in _read_item(item, mailbox.own_ids, access_token):
            match read:
                case Conversation():
                    conversations.append(read)
                case Unreadable():
                    unreadable[read.subject] = read
    return _batch(tuple(conversations), tuple(unreadable.values()), lenient(paging, Paging), mailbox, http_status)


def _batch(
    conversations: tuple[Conversation, ...],
    unreadable: tuple[Unreadable, ...],
    paging: Paging | None,
    mailbox: Mailbox,
    http_status: int,
) -> Batch | Problem:
    """Close a batch with its next cursor. `cursors.after` alone says nothing: it is there on the last page too."""
    if paging is None or paging.next is None:
        return Batch(conversations, None, unreadable)
    cursor = (paging.cursors.after if paging.cursors else None) or _cursor_of(paging.next, mailbox.edge_url)
    if not cursor or len(cursor) > MAX_CURSOR_CHARACTERS:
        return nonsense("the answer has a next batch but no usable cursor", http_status)
    return Batch(conversations, cursor, unreadable)


def _cursor_of(next_url: object, edge_url: str) -> str | None:
    """Take the cursor out of a `next` that leads to the edge that was asked, whatever version it names."""
    if not isinstance(next_url, str):
        return None
    try:
        theirs, ours = urlsplit(next_url), urlsplit(edge_url)
    except ValueError:
        return None
    if (theirs.scheme, theirs.netloc) != (ours.scheme, ours.netloc):
        return None
    if theirs.path.split("/")[-2:] != ours.path.split("/")[-2:]:
        return None
    return parse_qs(theirs.query).get("after", [None])[0]


def _conversation(thread: Thread, own_ids: frozenset[str]) -> Conversation:
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
    """Find the other side. Its place in the list means nothing; of a group it is the first that is not us."""
    if thread.participants is None:
        return None
    for person in thread.participants.data:
        if person.id and person.id not in own_ids:
            return Contact(person.id, person.name or None, person.username or None)
    return None


# --- item by item -----------------------------------------------------------------------------------------------------


def _read_item(item: Any, own_ids: frozenset[str], access_token: str) -> list[Conversation | Unreadable]:  # noqa: ANN401 -- JSON
    """Read a conversation, and apart from it those of its messages that cannot be read."""
    if not isinstance(item, dict):
        return [_unreadable(None, "the item is no object", item, access_token)]
    messages = item.get("messages")
    try:
        thread = lenient({name: value for name, value in item.items() if name != "messages"}, Thread)
        conversation = _conversation(thread, own_ids)
    except (ValidationError, OverflowError) as error:
        return [_unreadable(item.get("id"), str(error), item, access_token)]
    contact_id = conversation.contact.contact_id if conversation.contact else None
    interactions: list[Interaction] = []
    refused: list[Any] = []
    for message in _elements(messages):
        try:
            interactions.append(interaction(lenient(message, Message), own_ids, contact_id))
        except (ValidationError, OverflowError):
            refused.append(message)
    read: list[Conversation | Unreadable] = [msgspec.structs.replace(conversation, interactions=tuple(interactions))]
    if refused:
        subject = f"{conversation.conversation_id}/messages"
        read.append(_unreadable(subject, "messages without an id or a time", refused, access_token))
    return read


def _elements(messages: Any) -> list[Any]:  # noqa: ANN401 -- JSON of any shape
    """List the nested messages; what has no list of them is one thing that cannot be read."""
    if not messages:
        return []
    data = (messages.get("data") or []) if isinstance(messages, dict) else None
    return data if isinstance(data, list) else [messages]


def _unreadable(subject: object, reason: str, item: Any, access_token: str) -> Unreadable:  # noqa: ANN401 -- JSON
    payload = json.dumps(scrub(item, access_token), ensure_ascii=False)
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_ID_CHARACTERS + len("/messages"):
        subject = f"sha256:{sha256(payload.encode()).hexdigest()}"
    if len(payload) > MAX_PAYLOAD_CHARACTERS:
        payload = json.dumps({"cut_short": payload[: MAX_PAYLOAD_CHARACTERS // 2]}, ensure_ascii=False)
    return Unreadable(subject, reason[:MAX_REASON_CHARACTERS], payload)
