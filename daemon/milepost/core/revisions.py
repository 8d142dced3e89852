"""Finds out which messages were edited or unsent, when they are read again.

The API reports neither, and an edit may leave a conversation's `updated_time` unchanged. So each row of `conversations`
has a fingerprint of the messages that came with it; the stored messages are looked up only if an answer has another
fingerprint.

Webhooks may report it as well (core/facts.py), before the answer to an earlier request comes. So each message has the
time `content_at` as of which its content is known, by the platform's clock, and the answer to an earlier request does
not change it. If a webhook reported that the message was unsent, that time equals `deleted_at`: no answer brings the
message back.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from zlib import crc32

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.doubts import are_most
from milepost.core.events import Tally
from milepost.core.merge import Difference, is_older_state, remembered
from milepost.core.model import (
    UNAVAILABLE,
    Batch,
    Changes,
    Conversation,
    ConversationRow,
    Detail,
    Interaction,
    InteractionEventRow,
    Keys,
    Known,
)
from milepost.core.position import Reading

ERASED_KEYS = frozenset({"text", "message", "attachments", "shares", "sticker", "story"})
IDS = ("event_id", "id")
SNIPPET = "snippet"  # of a conversation: the text of its latest message

_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode


class Attached(Struct, frozen=True):
    """The identity of an attachment. Its URL differs at each reading (captured: dead in 35 h)."""

    type: str
    id: str | None = None


_decode_attached = msgspec.json.Decoder(tuple[Attached, ...]).decode


class AsOf(Struct, frozen=True):
    """The times of a decision and of the request for its answer.

    If an answer lacks messages of most of its conversations, they count as unsent only with `believes_all`.
    """

    now: datetime
    asked_at: datetime
    believes_all: bool = False


# --- what has to be looked up -----------------------------------------------------------------------------------------


def readings(batch: Batch, detail: Detail, asked: int) -> tuple[Reading, ...]:
    """Return the reading of each conversation in a batch; `asked` is how many messages of each were requested."""
    times = Counter([each.conversation_id for each in batch.conversations])
    in_part = {each.subject.removesuffix("/messages") for each in batch.unreadable}
    in_part.update(key for key, count in times.items() if count > 1)
    has_all = not detail.leaves_out
    return tuple(
        [
            reading(
                each.conversation_id,
                each.interactions,
                is_whole=has_all
                and (len(each.interactions) >= asked or not each.has_older)
                and each.conversation_id not in in_part,
                updated_time=each.updated_time,
            )
            for each in batch.conversations
            if each.interactions
        ]
    )


def reading(
    conversation_id: str, messages: Sequence[Interaction], *, is_whole: bool, updated_time: datetime | None = None
) -> Reading:
    """Return the reading of a conversation's messages.

    It `is_whole` if it has all messages between its oldest and its newest one: the answer is not known to be cut short,
    has as many messages as were requested or else the oldest of the conversation, and all of them can be read. They
    must be in order as well: in a list without an order, the first messages need not be the latest, and a message as
    new as these may come after its end.
    """
    newest_at = oldest_at = messages[0].occurred_at
    content: list[Any] = []  # three values of each message
    for each in messages:
        if each.occurred_at > oldest_at:
            is_whole, newest_at = False, max(newest_at, each.occurred_at)
        else:
            oldest_at = each.occurred_at
        content += (each.event_id, each.text, each.attachments)
    fingerprint = f"{crc32(_encode(content)):08x}" if is_whole else None
    return Reading(conversation_id, oldest_at, newest_at, fingerprint, tuple(content[::3]), updated_time)


def to_look_up(keys: Keys, conversations: Mapping[str, ConversationRow]) -> list[Reading]:
    """Return the readings whose messages have to be compared with the stored ones."""
    return [
        each
        for each in keys.readings
        if (row := conversations.get(each.conversation_id)) is not None
        and (each.fingerprint is None or each.fingerprint != row.messages_fingerprint)
    ]


def read_before(keys: Keys, conversations: Mapping[str, ConversationRow]) -> frozenset[str]:
    """Return the messages of conversations that came with the same messages before: all of them are stored.

    The fingerprint alone does not prove it, because two lists of messages may have the same; a new message also changes
    the `updated_time`.
    """
    return frozenset(
        [
            event_id
            for each in keys.readings
            if (row := conversations.get(each.conversation_id)) is not None
            and each.fingerprint is not None
            and (each.fingerprint, each.updated_time) == (row.messages_fingerprint, row.updated_time)
            for event_id in each.event_ids
        ]
    )


# --- what the comparison shows ----------------------------------------------------------------------------------------


def revised(
    one: Reading, messages: Collection[Interaction], known: Known, now: datetime, asked_at: datetime
) -> Iterator[InteractionEventRow]:
    """Yield the stored messages that an answer shows to be edited, unsent, or not unsent after all, as they are now."""
    yield from _edited(messages, known, now, asked_at)
    yield from _unsent(missing(one, messages, known, asked_at), now)


def _edited(
    messages: Iterable[Interaction], known: Known, now: datetime, asked_at: datetime
) -> Iterator[InteractionEventRow]:
    for each in {each.event_id: each for each in messages}.values():
        stored = known.messages.get(each.event_id)
        if stored is not None and (row := _read_again(stored, each, now, asked_at)) != stored:
            yield row


def _unsent(rows: Iterable[InteractionEventRow], now: datetime) -> Iterator[InteractionEventRow]:
    for stored in rows:
        yield replace(stored, text=None, attachments=None, deleted_at=now, content_at=None)


def missing(
    one: Reading, messages: Collection[Interaction], known: Known, asked_at: datetime
) -> list[InteractionEventRow]:
    """Return the stored messages that an answer would have if they were still there."""
    if one.fingerprint is None:
        return []
    read = {each.event_id for each in messages}
    found = [
        stored
        for stored in known.messages.values()
        if stored.conversation_id == one.conversation_id
        and stored.event_id not in read
        and stored.deleted_at is None
        and not _is_newer(stored, asked_at)
        # The order inside one second is not promised, so messages of the same second as an edge may lie beyond it.
        and one.oldest_at < stored.occurred_at < one.newest_at
    ]
    return found if len(found) <= len(read) else []  # an answer that lacks more than it has is not believed


def is_reported_unsent(row: InteractionEventRow) -> bool:
    """Return whether a webhook has reported that a message was unsent."""
    return row.deleted_at is not None and row.deleted_at == row.content_at


def _is_newer(row: InteractionEventRow, asked_at: datetime) -> bool:
    """Return whether a stored message's content is known as of a later time than the request's."""
    return row.content_at is not None and row.content_at > asked_at


def _read_again(
    stored: InteractionEventRow, read: Interaction, now: datetime, asked_at: datetime
) -> InteractionEventRow:
    """Return a stored message after it was read again. A part that the answer leaves out was not edited."""
    if (read.text is None and read.attachments is None) or is_reported_unsent(stored) or _is_newer(stored, asked_at):
        return stored
    text = stored.text if read.text is None else read.text
    has_others = _has_other_attachments(stored.attachments, read.attachments)
    attachments = read.attachments if has_others else stored.attachments
    if (text, attachments) == (stored.text, stored.attachments):
        return stored if stored.deleted_at is None else replace(stored, deleted_at=None)
    had_content = stored.text is not None or stored.attachments is not None
    is_first = stored.kind == UNAVAILABLE or not had_content
    return replace(
        stored,
        kind=read.kind if is_first else stored.kind,
        text=text,
        attachments=attachments,
        edited_at=now if had_content else stored.edited_at,
        deleted_at=None,
        content_at=asked_at,
    )


def _has_other_attachments(stored: str | None, read: str | None) -> bool:
    """Return whether attachments that were read differ from the stored ones, if that can be determined."""
    if read is None or read == stored:
        return False
    if stored is None:
        return True
    before, after = _decode_attached(stored), _decode_attached(read)
    if any(each.id is None for each in (*before, *after)):
        return False
    return Counter(before) != Counter(after)


def without_unsent(batch: Batch, known: Known) -> Batch:
    """Return a batch without snippets of messages that a webhook has reported unsent: lists may still have them."""
    unsent = _reported_unsent(known)
    if not unsent:
        return batch
    return replace(
        batch,
        conversations=tuple(
            replace(each, snippet=None) if each.snippet and _is_snippet_of(unsent, each) else each
            for each in batch.conversations
        ),
    )


def _reported_unsent(known: Known) -> frozenset[str]:
    return frozenset(key for key, row in known.messages.items() if is_reported_unsent(row))


def _is_snippet_of(event_ids: Collection[str], read: Conversation) -> bool:
    said = (each.text for each in read.interactions if each.event_id in event_ids)
    return any(text is not None and text.startswith(read.snippet or "") for text in said)


def with_revisions(found: Difference, batch: Batch, shown: Iterable[Reading], known: Known, as_of: AsOf) -> Difference:
    """Add to what a batch changes the messages that it shows to be edited or unsent, and the fingerprints."""
    now, asked_at, changes = as_of.now, as_of.asked_at, found.changes
    fingerprints = _fingerprints(batch, shown, known, asked_at)
    read = remembered(batch.conversations, known) if known.messages else ()  # else there is nothing to compare with
    compared = [
        each
        for each in read
        if each.conversation_id in fingerprints
        and not is_older_state(each, known.conversations.get(each.conversation_id), now)
    ]
    gone = _missing_in(compared, shown, known, asked_at)
    doubted = () if as_of.believes_all else _doubted(compared, gone)
    fingerprints |= dict.fromkeys(doubted)
    edited = (row for each in compared for row in _edited(each.interactions, known, now, asked_at))
    unsent = _unsent((row for each, rows in gone.items() if each not in doubted for row in rows), now)
    revised_rows = tuple({row.event_id: row for row in (*edited, *unsent)}.values())
    conversations = {row.conversation_id: row for row in changes.conversations}
    for conversation_id in {row.conversation_id for row in revised_rows} - conversations.keys():
        stored = known.conversations.get(conversation_id)
        if stored is not None:
            conversations[conversation_id] = replace(stored, synced_at=now)
    more = len(conversations) - len(changes.conversations)
    counts = {"updated": more, "unchanged": -more, "doubted": sum(len(gone[each]) for each in doubted)}
    changes = replace(
        changes,
        conversations=tuple(
            [replace(row, messages_fingerprint=fingerprints.get(key)) for key, row in conversations.items()]
        ),
        revised=revised_rows,
    )
    return Difference(changes, found.tally + replace(tally_of(revised_rows), **counts))


def _fingerprints(batch: Batch, shown: Iterable[Reading], known: Known, asked_at: datetime) -> dict[str, str | None]:
    """Return the fingerprint of each conversation's messages; None if the stored messages differ from the batch's."""
    fingerprints = {each.conversation_id: each.fingerprint for each in shown}
    fingerprints |= {row.conversation_id: None for row in known.messages.values() if _is_newer(row, asked_at)}
    unsent = _reported_unsent(known)  # a list may still have them, so its snippet is not trusted
    for each in batch.conversations if unsent else ():
        if any(message.event_id in unsent for message in each.interactions):
            fingerprints[each.conversation_id] = None
    for each in batch.conversations if known.interaction_events else ():
        # The store has refused its row before, so its messages were not looked up.
        is_met = each.conversation_id not in known.conversations
        if is_met and any(message.event_id in known.interaction_events for message in each.interactions):
            fingerprints[each.conversation_id] = None
    return fingerprints


def _missing_in(
    compared: Iterable[Conversation], shown: Iterable[Reading], known: Known, asked_at: datetime
) -> dict[str, list[InteractionEventRow]]:
    """Return the stored messages that an answer lacks, by conversation."""
    by_id = {each.conversation_id: each for each in shown}
    found = {
        each.conversation_id: missing(by_id[each.conversation_id], each.interactions, known, asked_at)
        for each in compared
    }
    return {conversation_id: rows for conversation_id, rows in found.items() if rows}


def _doubted(compared: Iterable[Conversation], gone: Collection[str]) -> Collection[str]:
    """Return the conversations whose missing messages do not count as unsent: all of them, or none.

    People unsend messages in single conversations. Erasing cannot be undone, and can wait for a day. A conversation
    with fewer than three messages in the answer counts only if messages of it are missing.
    """
    comparable = {each.conversation_id for each in compared if len(each.interactions) > 2} | set(gone)
    return gone if are_most(len(gone), len(comparable)) else ()


def tally_of(rows: Iterable[InteractionEventRow]) -> Tally:
    """Count revised messages. One whose content came later, or that was not unsent after all, counts as written."""
    counted = Counter(
        "unsent" if row.deleted_at is not None else "edited" if row.edited_at is not None else "interaction_events"
        for row in rows
    )
    return Tally(**counted)


def without_fingerprint(row: ConversationRow) -> ConversationRow:
    """Return a conversation without its fingerprint, so that the next reading looks up the stored messages."""
    return replace(row, messages_fingerprint=None)


def with_older_messages(changes: Changes, known: Known) -> Changes:
    """Add the conversations of messages that were read some time ago, and may have been edited or unsent since."""
    written = {row.conversation_id for row in changes.conversations}
    of_messages = dict.fromkeys(row.conversation_id for row in changes.interaction_events)
    touched = (known.conversations[each] for each in of_messages if each in known.conversations.keys() - written)
    return replace(changes, conversations=(*changes.conversations, *map(without_fingerprint, touched)))


# --- other places that hold the content of a message ------------------------------------------------------------------


def unsent_in(changes: Changes) -> tuple[str, ...]:
    """Return the messages that changes show to be unsent."""
    return tuple(row.event_id for row in changes.revised if row.deleted_at is not None)


def erased_in(payload: str, event_ids: Collection[str]) -> str:
    """Return the payload of a dead letter without the content of these messages, which were unsent."""
    named = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, event_ids))})(?![\w=-])")  # not at the head of another id
    if not named.search(payload):
        return payload
    return _encode_json(_erased(_decode_json(payload), frozenset(event_ids), named)).decode()


def _erased(value: object, event_ids: frozenset[str], named: re.Pattern[str]) -> object:
    match value:
        case dict():
            is_unsent = any(each in event_ids for each in map(value.get, IDS) if isinstance(each, str))
            erased = {*ERASED_KEYS, SNIPPET} if is_unsent else {SNIPPET}
            return {name: None if name in erased else _erased(each, event_ids, named) for name, each in value.items()}
        case list():
            return [_erased(each, event_ids, named) for each in value]
        case str() if value not in event_ids and named.search(value):  # a truncated item
            return ""
        case _:
            return value
