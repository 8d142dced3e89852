"""What of a batch is new: the one place that says how a conversation read again meets the row that is stored.

The newer `updated_time` wins, so that reading again, in any order and from any crash, ends in the same tables. What the
API leaves out says nothing about what is stored. Interaction events are written once and never changed: of an older
message the API later only says that it is deleted.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.events import DeadLetterOpened, Stage, Tally
from milepost.core.model import (
    Batch,
    Changes,
    ContactRow,
    Conversation,
    ConversationRow,
    DeadLetterPayload,
    InteractionEventRow,
    Keys,
    Known,
    Stream,
    Unreadable,
)

Said = TypeVar("Said")


class Difference(Struct, frozen=True):
    """What a batch changes: rows to write, dead letters to open, and the counts of both."""

    changes: Changes
    dead_letters: tuple[DeadLetterOpened, ...]
    tally: Tally

    @property
    def is_empty(self) -> bool:
        """Whether everything in the batch was stored already."""
        return self.changes == Changes()


def keys_of(stream: Stream, batch: Batch) -> Keys:
    """List the keys of all rows that a batch may touch."""
    return Keys(
        stream,
        conversations=tuple(each.conversation_id for each in batch.conversations),
        contacts=tuple(each.contact.contact_id for each in batch.conversations if each.contact),
        interaction_events=tuple(event.event_id for each in batch.conversations for event in each.interactions),
        dead_letters=tuple(dead_letter_id(stream, item) for item in batch.unreadable),
    )


def dead_letter_id(stream: Stream, item: Unreadable) -> str:
    """Name a dead letter after what it is about, so that reading the same item again opens no second one."""
    return sha256(f"{stream.key}\n{item.subject}".encode()).hexdigest()[:16]


def difference(stream: Stream, batch: Batch, known: Known, now: datetime) -> Difference:
    """Compare a batch with what is stored."""
    conversations: dict[str, ConversationRow] = {}
    contacts: dict[str, ContactRow] = {}
    events: dict[str, InteractionEventRow] = {}
    inserted = updated = unchanged = 0
    for each in batch.conversations:
        stored = conversations.get(each.conversation_id) or known.conversations.get(each.conversation_id)
        row = _conversation_row(stream, each, stored, now)
        if row == stored:
            unchanged += 1
        else:
            conversations[row.conversation_id] = row
            inserted, updated = (inserted + 1, updated) if stored is None else (inserted, updated + 1)
        if each.contact is not None:
            _merge_contact(contacts, stream, each, known.contacts, now)
        for event in _new_events(stream, each, row.contact_id, known.interaction_events):
            events[event.event_id] = event
    opened = {key: item for item in batch.unreadable if (key := dead_letter_id(stream, item)) not in known.dead_letters}
    changes = Changes(
        tuple(conversations.values()),
        tuple(contacts.values()),
        tuple(events.values()),
        tuple(DeadLetterPayload(key, item.payload) for key, item in opened.items()),
    )
    tally = Tally(
        batches=1,
        inserted=inserted,
        updated=updated,
        unchanged=unchanged,
        dead_lettered=len(opened),
        contacts=len(contacts),
        interaction_events=len(events),
        without_contact=sum(each.contact is None for each in batch.conversations),
        order_violations=_order_violations(batch.conversations),
    )
    letters = (DeadLetterOpened(key, Stage.FETCH, item.subject, item.reason) for key, item in opened.items())
    return Difference(changes, tuple(letters), tally)


def _conversation_row(
    stream: Stream, read: Conversation, stored: ConversationRow | None, now: datetime
) -> ConversationRow:
    if stored is None:
        contact_id = read.contact.contact_id if read.contact else None
        return ConversationRow(
            read.conversation_id,
            stream.platform.value,
            stream.page_id,
            contact_id,
            read.link,
            read.snippet,
            read.message_count,
            read.unread_count,
            read.can_reply,
            read.updated_time,
            first_synced_at=now,
            synced_at=now,
        )
    if read.updated_time < stored.updated_time:
        return stored
    row = replace(
        stored,
        contact_id=read.contact.contact_id if read.contact else stored.contact_id,
        link=_said(read.link, stored.link),
        snippet=_said(read.snippet, stored.snippet),
        message_count=_said(read.message_count, stored.message_count),
        unread_count=_said(read.unread_count, stored.unread_count),
        can_reply=_said(read.can_reply, stored.can_reply),
        updated_time=read.updated_time,
        deleted_at=None,
    )
    return stored if row == stored else replace(row, synced_at=now)


def _merge_contact(
    contacts: dict[str, ContactRow],
    stream: Stream,
    conversation: Conversation,
    known: Mapping[str, ContactRow],
    now: datetime,
) -> None:
    """Put the conversation's contact among the rows to write, if it is new or differs."""
    read = conversation.contact
    if read is None:
        return
    stored = contacts.get(read.contact_id) or known.get(read.contact_id)
    interaction_at = conversation.updated_time
    if stored is None:
        contacts[read.contact_id] = ContactRow(
            stream.platform.value, stream.page_id, read.contact_id, read.name, read.username, now, interaction_at, now
        )
        return
    if interaction_at >= stored.last_interaction_at:
        row = replace(
            stored,
            name=_said(read.name, stored.name),
            username=_said(read.username, stored.username),
            last_interaction_at=interaction_at,
        )
    else:  # an older thread of theirs: it may say what the newer one left out
        row = replace(stored, name=_said(stored.name, read.name), username=_said(stored.username, read.username))
    if row != stored:
        contacts[read.contact_id] = replace(row, updated_at=now)


def _new_events(
    stream: Stream, conversation: Conversation, contact_id: str | None, known: frozenset[str]
) -> Iterable[InteractionEventRow]:
    for event in conversation.interactions:
        if event.event_id not in known:
            yield InteractionEventRow(
                event.event_id,
                conversation.conversation_id,
                stream.platform.value,
                stream.page_id,
                event.contact_id or contact_id,
                event.direction.value,
                event.kind,
                event.text,
                event.attachments,
                event.occurred_at,
            )


def _said(first: Said | None, second: Said | None) -> Said | None:
    return second if first is None else first


def _order_violations(conversations: tuple[Conversation, ...]) -> int:
    times = [each.updated_time for each in conversations]
    return sum(later > earlier for earlier, later in pairwise(times))
