"""Dead letters: what a batch leaves over, which letters that opens, and which it closes.

A letter is about a subject of its stream. While one is open, whatever fails again for the same subject opens no other;
nor does what a person discarded, as long as it looks the same. Rows are kept without the instants at which they would
have been written: those are the redrive's, and a row that is read again looks the same.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.events import DeadLetterClosed, DeadLetterOpened, Resolution, Stage
from milepost.core.journal import instant_text
from milepost.core.merge import Difference, remembered
from milepost.core.model import (
    Batch,
    Changes,
    Conversation,
    DeadLetterPayload,
    Detail,
    InteractionEventRow,
    Known,
    RefusedRow,
    Stream,
    Table,
)
from milepost.core.problems import Problem
from milepost.core.retry import redrive_seconds

MAX_REASON_CHARACTERS = 500

Row = TypeVar("Row")

_encode = msgspec.json.Encoder(order=None).encode


class Failure(Struct, frozen=True):
    """One thing of a batch that could not be read or written. `payload` is what a redrive needs, as JSON."""

    subject: str
    stage: Stage
    reason: str
    payload: str


def messages_of(conversation_id: str) -> str:
    """Name the messages of a conversation as a subject."""
    return f"{conversation_id}/messages"


def row_of(conversation_id: str) -> str:
    """Name the row of a conversation as a subject: the conversation itself may have a newer state to be read."""
    return f"{conversation_id}/row"


def conversation_of(subject: str) -> str | None:
    """Give the conversation that can be read again for a subject; None where there is none."""
    return None if subject.startswith("sha256:") else subject.removesuffix("/messages")


def subjects_of(batch: Batch, refused: Iterable[RefusedRow]) -> tuple[str, ...]:
    """List the subjects whose letters a batch may open or close."""
    subjects = [item.subject for item in batch.unreadable]
    for each in batch.conversations:
        subjects += each.conversation_id, row_of(each.conversation_id), messages_of(each.conversation_id)
        if each.contact is not None:
            subjects.append(_contact_subject(each.contact.contact_id))
    events = {row.key for row in refused if row.table is Table.INTERACTION_EVENTS}
    if events:
        for each in batch.conversations:
            subjects += (
                _events_subject(each.conversation_id, event.event_id)
                for event in each.interactions
                if event.event_id in events
            )
    return tuple(subjects)


# What is left out where no more detail was asked for: the messages of a conversation, or all of it.
_LEFT_OUT: Mapping[Detail, Callable[[str], str]] = {Detail.BARE: messages_of, Detail.POSITION: str}


# --- what a batch leaves over -----------------------------------------------------------------------------------------


def unread(batch: Batch, detail: Detail, problem: Problem | None, known: Known) -> tuple[Failure, ...]:
    """List what of a batch could not be read. `problem` is why no more `detail` was asked for.

    What is stored as new as it is fails no more: a thread that no list can hold may have been read by itself.
    """
    failures = [
        Failure(item.subject, Stage.FETCH, item.reason, item.payload)
        for item in batch.unreadable
        if conversation_of(item.subject) not in known.forgotten
    ]
    subject_of = _LEFT_OUT.get(detail)
    if subject_of is not None:
        reason = str(problem)[:MAX_REASON_CHARACTERS]
        failures += (
            Failure(subject_of(each.conversation_id), Stage.FETCH, reason, _position(each))
            for each in remembered(batch.conversations, known)
            if _has_news(each, known)
        )
    return tuple(failures)


def withhold(found: Difference, refused: tuple[RefusedRow, ...]) -> tuple[Difference, tuple[Failure, ...]]:
    """Take the rows that the store refused out of what is written; each conversation's events make one failure."""
    if not refused:
        return found, ()
    changes, failures = found.changes, []
    reasons = {(row.table, row.key): row.reason for row in refused}
    conversations, withheld = _parted(
        changes.conversations, lambda row: (Table.CONVERSATIONS, row.conversation_id), reasons
    )
    for row, reason in withheld:
        kept = replace(row, first_synced_at=row.updated_time, synced_at=row.updated_time)
        failures.append(_unwritten(row_of(row.conversation_id), Stage.STORE, reason, Changes(conversations=(kept,))))
    inserted = sum(row.first_synced_at == row.synced_at for row, _ in withheld)
    contacts, contacts_withheld = _parted(changes.contacts, lambda row: (Table.CONTACTS, row.contact_id), reasons)
    for contact, reason in contacts_withheld:
        subject, last_at = _contact_subject(contact.contact_id), contact.last_interaction_at
        person = replace(contact, first_seen_at=last_at, updated_at=last_at)
        failures.append(_unwritten(subject, Stage.STORE, reason, Changes(contacts=(person,))))
    events, events_withheld = _parted(
        changes.interaction_events, lambda row: (Table.INTERACTION_EVENTS, row.event_id), reasons
    )
    failures += _chunks(events_withheld)
    tally = replace(
        found.tally,
        inserted=found.tally.inserted - inserted,
        updated=found.tally.updated - (len(withheld) - inserted),
        contacts=len(contacts),
        interaction_events=len(events),
    )
    written = replace(changes, conversations=conversations, contacts=contacts, interaction_events=events)
    return Difference(written, tally), tuple(failures)


def _parted(
    rows: Iterable[Row], name: Callable[[Row], tuple[Table, str]], reasons: Mapping[tuple[Table, str], str]
) -> tuple[tuple[Row, ...], list[tuple[Row, str]]]:
    """Part rows into those that may be written and those that may not, these with the reason."""
    kept: list[Row] = []
    withheld: list[tuple[Row, str]] = []
    for row in rows:
        reason = reasons.get(name(row))
        if reason is None:
            kept.append(row)
        else:
            withheld.append((row, reason))
    return tuple(kept), withheld


def _chunks(withheld: Iterable[tuple[InteractionEventRow, str]]) -> Iterator[Failure]:
    chunks: dict[str, list[tuple[InteractionEventRow, str]]] = {}
    for row, reason in withheld:
        chunks.setdefault(row.conversation_id, []).append((row, reason))
    for conversation_id, chunk in chunks.items():
        first, reason = chunk[0]
        rows = Changes(interaction_events=tuple(row for row, _ in chunk))
        yield _unwritten(_events_subject(conversation_id, first.event_id), Stage.EVENTS, reason, rows)


# --- which letters that opens and closes ------------------------------------------------------------------------------


def opened(
    stream: Stream, failures: Iterable[Failure], known: Known, now: datetime
) -> tuple[tuple[DeadLetterOpened, ...], tuple[DeadLetterPayload, ...]]:
    """Open a letter for each subject that needs one, and give their payloads.

    One that is open gets the row that was refused this time: a redrive must not bring an older one.
    """
    dead_letters: dict[str, DeadLetterOpened] = {}
    payloads: list[DeadLetterPayload] = []
    for each in failures:
        before = known.dead_letters.get(each.subject)
        fingerprint = sha256(each.payload.encode()).hexdigest()[:16]
        is_same = before is not None and before.fingerprint == fingerprint
        if before is not None and before.is_open and not is_same and each.stage is Stage.STORE:
            payloads.append(DeadLetterPayload(before.dead_letter_id, each.payload))
        if is_same or (before is not None and before.is_open) or each.subject in dead_letters:
            continue
        dead_letter = DeadLetterOpened(
            _letter_id(stream, each.subject, now),
            each.stage,
            each.subject,
            each.reason,
            redrive_at(now, 1) if can_succeed(each.stage, each.subject) else None,
            fingerprint,
        )
        dead_letters[each.subject] = dead_letter
        payloads.append(DeadLetterPayload(dead_letter.dead_letter_id, each.payload))
    return tuple(dead_letters.values()), tuple(payloads)


def recovered(batch: Batch, detail: Detail, failures: Iterable[Failure], known: Known) -> tuple[DeadLetterClosed, ...]:
    """Close the letters of what was read and written after all. Chunks of events close by a redrive only."""
    if not known.dead_letters or detail is Detail.POSITION:
        return ()
    failed = {each.subject for each in failures}
    subjects: set[str] = set()
    for each in batch.conversations:
        subjects |= {each.conversation_id, row_of(each.conversation_id)}
        if each.contact is not None:
            subjects.add(_contact_subject(each.contact.contact_id))
        if detail is not Detail.BARE and each.interactions:
            subjects.add(messages_of(each.conversation_id))
    return tuple(
        DeadLetterClosed(dead_letter.dead_letter_id, Resolution.RECOVERED)
        for subject, dead_letter in known.dead_letters.items()
        if dead_letter.is_open and subject in subjects and subject not in failed
    )


def can_succeed(stage: Stage, subject: str) -> bool:
    """Whether a redrive has anything to go by: rows, or a conversation to read."""
    return stage is not Stage.FETCH or conversation_of(subject) is not None


def redrive_at(now: datetime, failures: int) -> datetime | None:
    """Say when a letter is tried again by itself, after it has failed `failures` times; None: not any more."""
    seconds = redrive_seconds(failures)
    return None if seconds is None else now + timedelta(seconds=seconds)


def _letter_id(stream: Stream, subject: str, now: datetime) -> str:
    """Name a letter after what it is about and when it was opened: a closed one stays closed."""
    return sha256(f"{stream.key}\n{subject}\n{instant_text(now)}".encode()).hexdigest()[:16]


def _contact_subject(contact_id: str) -> str:
    return f"contact {contact_id}"


def _events_subject(conversation_id: str, event_id: str) -> str:
    return f"{conversation_id}/events/{event_id}"


def _position(conversation: Conversation) -> str:
    return _encode({"id": conversation.conversation_id, "updated_time": conversation.updated_time}).decode()


def _has_news(conversation: Conversation, known: Known) -> bool:
    stored = known.conversations.get(conversation.conversation_id)
    return stored is None or stored.updated_time < conversation.updated_time or stored.deleted_at is not None


def _unwritten(subject: str, stage: Stage, reason: str, rows: Changes) -> Failure:
    return Failure(subject, stage, reason[:MAX_REASON_CHARACTERS], _encode(rows).decode())
