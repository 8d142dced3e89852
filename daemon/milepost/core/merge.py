"""Merges a batch with the stored rows: the one place that decides what of a batch is new.

The newer `updated_time` wins, so that reading again, in any order and after any crash, ends in the same tables. If the
API leaves a value out, the stored one stays. Interaction events are written once and never changed here, because the
API later reports an older message only as deleted.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import is_ahead
from milepost.core.events import Tally
from milepost.core.model import (
    Batch,
    Changes,
    ContactRow,
    Conversation,
    ConversationRow,
    Interaction,
    InteractionEventRow,
    Keys,
    Known,
    Stream,
)

RETURN_AFTER = timedelta(days=1)  # how long a page must be silent before conversations move back from it

Value = TypeVar("Value")
ContactKey = tuple[str, str]  # the page and the id


class Difference(Struct, frozen=True):
    """The rows to write, and their counts."""

    changes: Changes
    tally: Tally


def keys_of(stream: Stream, batch: Batch) -> Keys:
    """Return the keys of all rows that a batch may touch."""
    return Keys(
        stream,
        conversations=(
            *(each.conversation_id for each in batch.conversations),
            *(item.subject for item in batch.unreadable),
        ),
        contacts=tuple(dict.fromkeys(_contact_ids(batch))),
        interaction_events=tuple(event.event_id for each in batch.conversations for event in each.interactions),
    )


def keys_of_rows(stream: Stream, rows: Changes) -> Keys:
    """Return the keys of rows and of the contacts that they name."""
    conversation_ids = [
        *(row.conversation_id for row in rows.conversations),
        *(row.conversation_id for row in rows.interaction_events),
    ]
    contact_ids = [
        *(row.contact_id for row in rows.contacts),
        *(row.contact_id for row in rows.conversations if row.contact_id),
        *(row.contact_id for row in rows.interaction_events if row.contact_id),
    ]
    return Keys(
        stream,
        conversations=tuple(dict.fromkeys(conversation_ids)),
        contacts=tuple(dict.fromkeys(contact_ids)),
        interaction_events=tuple(row.event_id for row in rows.interaction_events),
        locates_contacts=True,
    )


def _contact_ids(batch: Batch) -> Iterable[str]:
    for each in batch.conversations:
        contact_id = each.contact.contact_id if each.contact else None
        if contact_id is not None:
            yield contact_id
        for event in each.interactions:  # in a group, people other than the contact may have written
            if event.contact_id is not None and event.contact_id != contact_id:
                yield event.contact_id


def difference(
    stream: Stream, batch: Batch, known: Known, now: datetime, asked_at: datetime | None = None
) -> Difference:
    """Return the difference between a batch and the stored rows. New messages are known as of `asked_at`."""
    conversations: dict[str, ConversationRow] = {}
    contacts: dict[ContactKey, ContactRow] = {}
    events: dict[str, InteractionEventRow] = {}
    inserted = updated = unchanged = replaced = moved = 0
    read, taken_over = remembered(batch.conversations, known), _taken_over(stream, batch, known, now)
    for each in read:
        stored = conversations.get(each.conversation_id) or known.conversations.get(each.conversation_id)
        row = _conversation_row(stream, each, stored, now)
        if stored is not None and stored.page_id != stream.page_id and each.conversation_id in taken_over:
            row = replace(row, page_id=stream.page_id, deleted_at=None, synced_at=now)
            moved += 1
        if row is stored:
            unchanged += 1
        else:
            conversations[row.conversation_id] = row
            inserted, updated = (inserted + 1, updated) if stored is None else (inserted, updated + 1)
        contact = _merged_contact(contacts, row, stream, each, known, now)
        if contact is not None:
            contacts[(contact.page_id, contact.contact_id)] = contact
        new = new_events(row, each.interactions, known, asked_at)
        events.update(new)
        if each.replaced_characters and (row is not stored or contact is not None or new):
            replaced += each.replaced_characters
    changes = Changes(
        tuple(conversations.values()),
        tuple(contacts.values()),
        tuple(events.values()),
        moved=taken_over,
        named=tuple(_named(conversations.values(), known)),
    )
    tally = Tally(
        batches=1,
        inserted=inserted,
        updated=updated,
        unchanged=unchanged,
        contacts=len(contacts),
        interaction_events=len(events),
        without_contact=sum([each.contact is None for each in read]),
        replaced_characters=replaced,
        moved=moved,
    )
    return Difference(changes, tally)


def _named(rows: Iterable[ConversationRow], known: Known) -> Iterator[str]:
    """Yield the conversations that were stored without a contact, and have one now."""
    for row in rows if known.conversations else ():
        stored = known.conversations.get(row.conversation_id)
        if stored is not None and stored.contact_id is None and row.contact_id is not None:
            yield row.conversation_id


def _taken_over(stream: Stream, batch: Batch, known: Known, now: datetime) -> tuple[str, ...]:
    """Return the conversations that move here, and those without a row whose messages move.

    Conversations of erased people are included: nothing else shows that the other page had this account.
    """
    if not known.left_behind and all(row.page_id == stream.page_id for row in known.conversations.values()):
        return ()
    ids = dict.fromkeys(each.conversation_id for each in batch.conversations)
    rows = ((key, known.conversations.get(key)) for key in ids)
    return tuple(
        key for key, stored in rows if (_moves(stream, stored, known, now) if stored else key in known.left_behind)
    )


def remembered(conversations: Iterable[Conversation], known: Known) -> tuple[Conversation, ...]:
    """Return the conversations without those of erased people."""
    if not known.forgotten:
        return tuple(conversations)
    return tuple(
        each
        for each in conversations
        if each.conversation_id not in known.forgotten and known.forgotten.isdisjoint(_people(each))
    )


def _people(read: Conversation) -> Iterable[str | None]:
    """Return the contact of a conversation; if the API withholds it, the people who wrote in it."""
    if read.contact is not None:
        return (read.contact.contact_id,)
    return (event.contact_id for event in read.interactions)


def newer(rows: Changes, known: Known, now: datetime) -> Difference:
    """Return which of the rows that could not be written earlier are still newer than the stored ones.

    They belong to the page that has their conversation now.
    """
    stored, forgotten = known.conversations, known.forgotten
    pages = {key: row.page_id for key, row in stored.items()}
    conversations = tuple(
        replace(row, page_id=pages.get(row.conversation_id, row.page_id), first_synced_at=now, synced_at=now)
        for row in rows.conversations
        if forgotten.isdisjoint((row.conversation_id, row.contact_id))
        and (row.conversation_id not in stored or row.updated_time > stored[row.conversation_id].updated_time)
    )
    contacts = tuple(
        replace(row, first_seen_at=now, updated_at=now)
        for row in (_where_its_threads_are(row, known) for row in rows.contacts)
        if row.contact_id not in forgotten and _is_newer(row, known)
    )
    events = tuple(
        replace(row, page_id=pages.get(row.conversation_id, row.page_id))
        for row in rows.interaction_events
        if forgotten.isdisjoint((row.conversation_id, row.contact_id)) and row.event_id not in known.interaction_events
    )
    inserted = sum(row.conversation_id not in stored for row in conversations)
    tally = Tally(
        inserted=inserted,
        updated=len(conversations) - inserted,
        contacts=len(contacts),
        interaction_events=len(events),
    )
    return Difference(Changes(conversations, contacts, events), tally)


def _where_its_threads_are(row: ContactRow, known: Known) -> ContactRow:
    pages = known.contact_pages.get(row.contact_id, ())
    return row if not pages or row.page_id in pages else replace(row, page_id=min(pages))


def _is_newer(row: ContactRow, known: Known) -> bool:
    stored = known.contacts_elsewhere.get((row.page_id, row.contact_id)) or known.contacts.get(row.contact_id)
    return stored is None or row.last_interaction_at > stored.last_interaction_at


def _conversation_row(
    stream: Stream, read: Conversation, stored: ConversationRow | None, now: datetime
) -> ConversationRow:
    if stored is None:
        return new_row(stream, read, now)
    if is_older_state(read, stored, now):
        return stored if stored.deleted_at is None else replace(stored, deleted_at=None, synced_at=now)
    is_same_state = read.updated_time == stored.updated_time
    row = replace(
        stored,
        contact_id=read.contact.contact_id if read.contact else stored.contact_id,
        link=_first(read.link, stored.link),
        snippet=_first(read.snippet, stored.snippet),
        # A history may pass for complete by its count, so the count of an earlier state is not kept.
        message_count=_first(read.message_count, stored.message_count) if is_same_state else read.message_count,
        unread_count=_first(read.unread_count, stored.unread_count),
        can_reply=_first(read.can_reply, stored.can_reply),
        updated_time=read.updated_time,
        deleted_at=None,
    )
    return stored if row == stored else replace(row, synced_at=now)


def is_older_state(read: Conversation, stored: ConversationRow | None, now: datetime) -> bool:
    """Return whether a conversation was read in an older state than the stored one."""
    if stored is None or read.updated_time >= stored.updated_time:
        return False
    return not _was_wrong(stored.updated_time, read.updated_time, now)


def _was_wrong(stored: datetime, read: datetime, now: datetime) -> bool:
    """Return whether a stored time is in the future, while the API now reports one in the past.

    With the stored time, nothing that is read until then would count. If both are in the future, our clock is wrong.
    """
    return is_ahead(stored, now) and not is_ahead(read, now)


def new_row(stream: Stream, read: Conversation, now: datetime) -> ConversationRow:
    """Return the row of a conversation that is not stored."""
    return ConversationRow(
        read.conversation_id,
        stream.platform.value,
        stream.page_id,
        read.contact.contact_id if read.contact else None,
        read.link,
        read.snippet,
        read.message_count,
        read.unread_count,
        read.can_reply,
        read.updated_time,
        first_synced_at=now,
        synced_at=now,
    )


def _moves(stream: Stream, stored: ConversationRow, known: Known, now: datetime) -> bool:
    """Return whether a conversation belongs to another page, and moves to the page that has just read it.

    An Instagram account can be linked to another page, and its threads keep their ids. If two pages list a thread, the
    later one gets it. It moves back only if that page no longer sees it, or has been silent for RETURN_AFTER.
    """
    if stored.page_id == stream.page_id or stored.platform != stream.platform.value:
        return False
    alive_at = known.moved_to.get(stored.page_id)
    return alive_at is None or stored.deleted_at is not None or now - alive_at >= RETURN_AFTER


def _merged_contact(
    contacts: Mapping[ContactKey, ContactRow],
    of: ConversationRow,
    stream: Stream,
    conversation: Conversation,
    known: Known,
    now: datetime,
) -> ContactRow | None:
    """Return the row to write for the conversation's contact, if it is new or differs; `of` is the conversation's."""
    read, page_id = conversation.contact, of.page_id
    if read is None:
        return None
    key = (page_id, read.contact_id)
    stored = contacts.get(key) or _known_contact(stream, key, known)
    interaction_at = conversation.updated_time
    if stored is None:
        return ContactRow(of.platform, page_id, read.contact_id, read.name, read.username, now, interaction_at, now)
    last_at = stored.last_interaction_at
    if interaction_at >= last_at or _was_wrong(last_at, interaction_at, now):
        name, username = _first(read.name, stored.name), _first(read.username, stored.username)
        last_at = interaction_at
    else:  # an older thread of this contact may have a value that the newer one lacks
        name, username = _first(stored.name, read.name), _first(stored.username, read.username)
    row = replace(stored, page_id=page_id, name=name, username=username, last_interaction_at=last_at)
    return replace(row, updated_at=now) if row != stored else None


def _known_contact(stream: Stream, key: ContactKey, known: Known) -> ContactRow | None:
    """Return the stored contact; if its conversation moves with this batch, that of the previous page."""
    page_id, contact_id = key
    if page_id != stream.page_id:
        return known.contacts_elsewhere.get(key)
    stored = known.contacts.get(contact_id)
    if stored is not None or not known.contacts_elsewhere:
        return stored
    return next((row for row in known.contacts_elsewhere.values() if row.contact_id == contact_id), None)


def new_events(
    row: ConversationRow, interactions: Iterable[Interaction], known: Known, asked_at: datetime | None
) -> dict[str, InteractionEventRow]:
    """Return the rows of a conversation's messages that are not stored yet, by id; they are known as of `asked_at`."""
    new: dict[str, InteractionEventRow] = {}
    for event in interactions:
        if event.event_id not in known.interaction_events and event.contact_id not in known.forgotten:
            new[event.event_id] = InteractionEventRow(
                event.event_id,
                row.conversation_id,
                row.platform,
                row.page_id,
                event.contact_id or row.contact_id,
                event.direction,
                event.kind,
                event.text,
                event.attachments,
                event.occurred_at,
                content_at=asked_at,
            )
    return new


def _first(value: Value | None, other: Value | None) -> Value | None:
    return other if value is None else value
