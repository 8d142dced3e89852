"""Dead letters: finds the parts of a batch that could not be read or written, and opens and closes dead letters.

A dead letter is about a subject of its stream. While it is open, another failure of the same subject opens no second
one; nor does a failure that an operator discarded, as long as its payload is the same. Payloads hold rows without the
times of writing, which a redrive sets. So a row that is read again has the same fingerprint.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.events import DeadLetterClosed, DeadLetterOpened, Resolution, Stage, Tally
from milepost.core.journal import derived_id, instant_text
from milepost.core.merge import Difference, remembered
from milepost.core.model import (
    Batch,
    Changes,
    ContactRow,
    ConversationRow,
    DeadLetterPayload,
    Detail,
    InteractionEventRow,
    Known,
    RefusedRow,
    Stream,
    Table,
    Unreadable,
)
from milepost.core.problems import Problem
from milepost.core.retry import redrive_seconds
from milepost.core.revisions import tally_of

MAX_REASON_CHARACTERS = 500
# Ids, counts, positions and times, which differ when one cause affects many threads; not the codes of errors.
_GROUPED_APART = re.compile(r"(?<!code )(?<!HTTP )(?<![#\w-])[\w-]*\d[\w.,:-]*")

_OLDER = "/older/"

Row = TypeVar("Row")

_encode = msgspec.json.Encoder(order=None).encode


class Failure(Struct, frozen=True):
    """Something in a batch that could not be read or written. `payload` is the JSON that a redrive needs."""

    subject: str
    stage: Stage
    reason: str
    payload: str


def messages_of(conversation_id: str) -> str:
    """Return the subject for the messages of a conversation."""
    return f"{conversation_id}/messages"


def row_of(conversation_id: str) -> str:
    """Return the subject for the row of a conversation, whose newer state may still be readable."""
    return f"{conversation_id}/row"


def events_of(conversation_id: str, event_id: str) -> str:
    """Return the subject for messages of a conversation that the store refused; the first of them is named."""
    return f"{conversation_id}/events/{event_id}"


def older_of(conversation_id: str, gap_id: str) -> str:
    """Return the subject for older messages of a conversation, which make up a gap of their own."""
    return f"{conversation_id}{_OLDER}{gap_id}"


def is_of_older(subject: str) -> bool:
    """Return whether a subject is that of older messages of a conversation."""
    return _OLDER in subject


def conversation_of(subject: str) -> str | None:
    """Return the conversation to read again for a subject; None if there is none."""
    return None if subject.startswith("sha256:") else subject.partition(_OLDER)[0].removesuffix("/messages")


def subjects_of(batch: Batch, refused: Collection[RefusedRow]) -> tuple[str, ...]:
    """Return the subjects whose dead letters a batch may open or close."""
    subjects = [item.subject for item in batch.unreadable]
    for each in batch.conversations:
        subjects += each.conversation_id, row_of(each.conversation_id), messages_of(each.conversation_id)
        if each.contact is not None:
            subjects.append(_contact_subject(each.contact.contact_id))
    for each in batch.conversations if refused else ():
        subjects += subjects_of_events(each.conversation_id, (event.event_id for event in each.interactions), refused)
    return tuple(subjects)


# The subject that a request with less detail leaves unread: the messages of a conversation, or all of it.
_LEFT_OUT: Mapping[Detail, Callable[[str], str]] = {
    Detail.LEAN: messages_of,
    Detail.BARE: messages_of,
    Detail.POSITION: str,
}


# --- what could not be read or written --------------------------------------------------------------------------------


def unread(batch: Batch, detail: Detail, problem: Problem | None, known: Known) -> tuple[Failure, ...]:
    """Return the parts of a batch that could not be read. `problem` is why the request had no more `detail`.

    A conversation whose stored row is as new is not a failure: a thread that fails in every list may have been read
    alone.
    """
    failures = unread_items(batch.unreadable, known)
    subject_of = _LEFT_OUT.get(detail)
    if subject_of is not None:
        reason = str(problem)[:MAX_REASON_CHARACTERS]
        for each in remembered(batch.conversations, known):
            stored = known.conversations.get(each.conversation_id)
            if stored is None or stored.updated_time < each.updated_time or stored.deleted_at is not None:
                position = _encode({"id": each.conversation_id, "updated_time": each.updated_time}).decode()
                failures.append(Failure(subject_of(each.conversation_id), Stage.FETCH, reason, position))
    return tuple(failures)


def unread_items(items: Iterable[Unreadable], known: Known) -> list[Failure]:
    """Return failures for the items with an unexpected form, without those of erased people."""
    return [
        Failure(item.subject, Stage.FETCH, item.reason, item.payload)
        for item in items
        if conversation_of(item.subject) not in known.forgotten
    ]


def withhold_each(
    rows: Iterable[InteractionEventRow], refused: Iterable[RefusedRow]
) -> tuple[tuple[InteractionEventRow, ...], list[Failure]]:
    """Split off the messages that the store refused, each as a separate failure.

    Older messages come in pages of any size, so a chunk would not have the same messages each time.
    """
    reasons = {(row.table, row.key): row.reason for row in refused}
    kept, failed = _partition(rows, _key_of_event, reasons)
    return kept, [failure for each in failed for failure in _event_failures([each])]


def withhold(found: Difference, refused: tuple[RefusedRow, ...]) -> tuple[Difference, tuple[Failure, ...]]:
    """Split off the rows that the store refused, as failures; the events of a conversation make one failure."""
    if not refused:
        return found, ()
    changes = found.changes
    reasons = {(row.table, row.key): row.reason for row in refused}
    conversations, refused_rows = _partition(
        changes.conversations, lambda row: (Table.CONVERSATIONS, row.conversation_id), reasons
    )
    contacts, refused_contacts = _partition(changes.contacts, lambda row: (Table.CONTACTS, row.contact_id), reasons)
    events, refused_events = _partition(changes.interaction_events, _key_of_event, reasons)
    revised, unrevised = _partition(changes.revised, _key_of_event, reasons)
    unlike = {row.conversation_id for row, _ in (*refused_events, *unrevised)}  # not as their fingerprint says
    conversations = tuple(
        replace(row, messages_fingerprint=None) if row.conversation_id in unlike else row for row in conversations
    )
    written = replace(
        changes, conversations=conversations, contacts=contacts, interaction_events=events, revised=revised
    )
    failures = (
        *(_conversation_failure(row, reason) for row, reason in refused_rows),
        *(_contact_failure(row, reason) for row, reason in refused_contacts),
        *_event_failures((*refused_events, *unrevised)),
    )
    return Difference(written, _tally_of_written(found.tally, written, [row for row, _ in refused_rows])), failures


def _tally_of_written(tally: Tally, written: Changes, refused: Collection[ConversationRow]) -> Tally:
    """Return the counts without the rows that were refused."""
    of_revised = tally_of(written.revised)
    inserted = sum(row.first_synced_at == row.synced_at for row in refused)
    return replace(
        tally,
        inserted=tally.inserted - inserted,
        updated=tally.updated - (len(refused) - inserted),
        contacts=len(written.contacts),
        interaction_events=len(written.interaction_events) + of_revised.interaction_events,
        edited=of_revised.edited,
        unsent=of_revised.unsent,
    )


def _key_of_event(row: InteractionEventRow) -> tuple[Table, str]:
    return Table.INTERACTION_EVENTS, row.event_id


def _partition(
    rows: Iterable[Row], key_of: Callable[[Row], tuple[Table, str]], reasons: Mapping[tuple[Table, str], str]
) -> tuple[tuple[Row, ...], list[tuple[Row, str]]]:
    """Split rows into those to write and those that were refused, with the reason."""
    kept: list[Row] = []
    refused_rows: list[tuple[Row, str]] = []
    for row in rows:
        reason = reasons.get(key_of(row))
        if reason is None:
            kept.append(row)
        else:
            refused_rows.append((row, reason))
    return tuple(kept), refused_rows


def _conversation_failure(row: ConversationRow, reason: str) -> Failure:
    kept = replace(row, first_synced_at=row.updated_time, synced_at=row.updated_time)
    return _unwritten(row_of(row.conversation_id), Stage.STORE, reason, Changes(conversations=(kept,)))


def _contact_failure(row: ContactRow, reason: str) -> Failure:
    kept = replace(row, first_seen_at=row.last_interaction_at, updated_at=row.last_interaction_at)
    return _unwritten(_contact_subject(row.contact_id), Stage.STORE, reason, Changes(contacts=(kept,)))


def _event_failures(refused: Iterable[tuple[InteractionEventRow, str]]) -> Iterator[Failure]:
    chunks: dict[str, list[tuple[InteractionEventRow, str]]] = {}
    for row, reason in refused:
        chunks.setdefault(row.conversation_id, []).append((row, reason))
    for conversation_id, chunk in chunks.items():
        first, reason = chunk[0]
        rows = Changes(interaction_events=tuple(row for row, _ in chunk))
        yield _unwritten(events_of(conversation_id, first.event_id), Stage.EVENTS, reason, rows)


# --- which dead letters that opens and closes -------------------------------------------------------------------------


def opened(
    stream: Stream, failures: Iterable[Failure], known: Known, now: datetime
) -> tuple[tuple[DeadLetterOpened, ...], tuple[DeadLetterPayload, ...]]:
    """Return a dead letter for each failed subject without an open one, and the payloads to store.

    An open dead letter gets the latest refused row as its payload, because a redrive must not write an older one.
    """
    dead_letters: dict[str, DeadLetterOpened] = {}
    payloads: list[DeadLetterPayload] = []
    for each in failures:
        before = known.dead_letters.get(each.subject)
        fingerprint = derived_id(each.payload)
        is_open = before is not None and before.is_open
        is_same = before is not None and before.fingerprint == fingerprint
        if before is not None and is_open and before.payload != each.payload and each.stage is Stage.STORE:
            payloads.append(DeadLetterPayload(before.dead_letter_id, each.payload))
        if not (is_same or is_open or each.subject in dead_letters):
            dead_letter = _open(stream, each, fingerprint, now)
            dead_letters[each.subject] = dead_letter
            payloads.append(DeadLetterPayload(dead_letter.dead_letter_id, each.payload))
    return tuple(dead_letters.values()), tuple(payloads)


def _open(stream: Stream, failure: Failure, fingerprint: str, now: datetime) -> DeadLetterOpened:
    return DeadLetterOpened(
        derived_id(stream.key, failure.subject, instant_text(now)),  # so that a closed dead letter stays closed
        failure.stage,
        failure.subject,
        failure.reason,
        redrive_at(now, 1) if can_succeed(failure.stage, failure.subject) else None,
        fingerprint,
    )


def recovered(batch: Batch, detail: Detail, failures: Iterable[Failure], known: Known) -> tuple[DeadLetterClosed, ...]:
    """Return closings for subjects that were read and written after all. Only a redrive closes chunks of events."""
    if not known.dead_letters or detail is Detail.POSITION:
        return ()
    failed = {each.subject for each in failures}
    subjects: set[str] = set()
    for each in batch.conversations:
        subjects |= {each.conversation_id, row_of(each.conversation_id)}
        if each.contact is not None:
            subjects.add(_contact_subject(each.contact.contact_id))
        if not detail.leaves_out and each.interactions:
            subjects.add(messages_of(each.conversation_id))
    return tuple(
        DeadLetterClosed(dead_letter.dead_letter_id, Resolution.RECOVERED)
        for subject, dead_letter in known.dead_letters.items()
        if dead_letter.is_open and subject in subjects and subject not in failed
    )


def can_succeed(stage: Stage, subject: str) -> bool:
    """Return whether a redrive can do anything: there are rows to write, or a conversation to read."""
    return stage is not Stage.FETCH or conversation_of(subject) is not None


def redrive_at(now: datetime, failures: int) -> datetime | None:
    """Return when a dead letter that has failed `failures` times is retried automatically; None for never."""
    seconds = redrive_seconds(failures)
    return None if seconds is None else now + timedelta(seconds=seconds)


def _contact_subject(contact_id: str) -> str:
    return f"contact {contact_id}"


def subjects_of_events(conversation_id: str, events: Iterable[str], refused: Iterable[RefusedRow]) -> list[str]:
    """Return the subjects of a conversation's messages that the store refused."""
    keys = {row.key for row in refused if row.table is Table.INTERACTION_EVENTS}
    return [events_of(conversation_id, event_id) for event_id in events if event_id in keys]


def _unwritten(subject: str, stage: Stage, reason: str, rows: Changes) -> Failure:
    kept = msgspec.to_builtins(rows)
    for row in kept.get("conversations", ()):  # older payloads do not have it, and fingerprints must stay the same
        row.pop("messages_fingerprint", None)
    return Failure(subject, stage, reason[:MAX_REASON_CHARACTERS], _encode(kept).decode())


def group_of(stage: Stage, reason: str) -> str:
    """Return the id of the group of dead letters with one stage and reason, ignoring ids and numbers in it."""
    return derived_id(stage, _GROUPED_APART.sub("…", reason))
