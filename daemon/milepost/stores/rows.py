"""Turns the core's rows into tuples of columns, and back. Instants are text; columns are in the structs' order."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from milepost.core.checkpoint import Checkpoint, DeadLetter, Run
from milepost.core.errors import JournalDamaged, StoreRefused
from milepost.core.events import Entry, Reason, Resolution, RunStatus, Stage, Tally
from milepost.core.journal import Codec, RunOf, instant_text
from milepost.core.model import ContactRow, ConversationRow, InteractionEventRow, PageRow, Stream
from milepost.core.ports import DueDeadLetter
from milepost.core.position import Gap, Mode
from milepost.core.problems import Problem
from milepost.core.webhooks import DueFact, WebhookKind

Kind = TypeVar("Kind")


def _as_text(value: object) -> str:
    if isinstance(value, Stream):
        return value.key
    raise NotImplementedError  # msgspec expects this of a hook that does not handle a type


def _of_text(kind: type, value: str) -> Stream:
    if kind is Stream:
        return Stream.parse(value)
    raise NotImplementedError  # likewise


def decoder(kind: type[Kind]) -> msgspec.json.Decoder[Kind]:
    """Return a decoder of what `encode` has written; streams are text there."""
    return msgspec.json.Decoder(kind, dec_hook=_of_text)


encode = msgspec.json.Encoder(enc_hook=_as_text).encode
_decode_checkpoint = decoder(Checkpoint).decode
_decode_problem = msgspec.json.Decoder(Problem).decode
_decode_event = Codec().decode
_decode_gap = msgspec.json.Decoder(Gap).decode

RESTORE = "restore the database from a backup"

JournalRow = tuple[int, str, int, str | None, str, str, str, str]


class KeyRefused(ValueError):
    """A key that SQLite would store but never find again: it ends a text of a JSON array at a NUL."""

    def __init__(self) -> None:
        super().__init__("its id holds a NUL character")


def optional_text(at: datetime | None) -> str | None:
    """Return an instant as text."""
    return None if at is None else instant_text(at)


@lru_cache(1024)  # a conversation and its contact have seven instants, of which hardly more than one is new
def instant(text: str) -> datetime:
    """Return the instant that a text names. Raises StoreRefused if it names none, as only a damaged page can."""
    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise StoreRefused(f"a stored row holds {text!r}, which is not a time", hint=RESTORE) from error


def optional_instant(text: str | None) -> datetime | None:
    """Return the instant that a text names, if there is one; see `instant`."""
    return None if text is None else instant(text)


@contextmanager
def _mended_by_a_rebuild(what: str) -> Iterator[None]:
    """Raise JournalDamaged if the block cannot read a row of a projection; a rebuild mends that."""
    try:
        yield
    except (TypeError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise JournalDamaged(f"{what} cannot be read: {error}", hint="run `milepost journal rebuild`") from error


def page_tuple(row: PageRow) -> tuple[Any, ...]:
    """Return a page's columns."""
    return (
        row.platform,
        row.page_id,
        row.name,
        row.username,
        instant_text(row.first_seen_at),
        instant_text(row.last_seen_at),
    )


def contact_tuple(row: ContactRow, version: int, change_seq: int) -> tuple[Any, ...]:
    """Return a contact's columns, with the version that writes it and its number in the change feed.

    Raises KeyRefused.
    """
    if "\0" in row.contact_id:
        raise KeyRefused
    return (
        row.platform,
        row.page_id,
        row.contact_id,
        row.name,
        row.username,
        instant_text(row.first_seen_at),
        instant_text(row.last_interaction_at),
        instant_text(row.updated_at),
        version,
        change_seq,
    )


def contact_row(columns: tuple[Any, ...]) -> ContactRow:
    """Return the contact of these columns."""
    *of_all, first_seen_at, last_interaction_at, updated_at = columns
    values: tuple[Any, ...] = (*of_all, instant(first_seen_at), instant(last_interaction_at), instant(updated_at))
    return ContactRow(*values)


def conversation_tuple(row: ConversationRow, version: int, change_seq: int) -> tuple[Any, ...]:
    """Return a conversation's columns, as `contact_tuple` does."""
    if "\0" in row.conversation_id:
        raise KeyRefused
    return (
        row.conversation_id,
        row.platform,
        row.page_id,
        row.contact_id,
        row.link,
        row.snippet,
        row.message_count,
        row.unread_count,
        row.can_reply,
        instant_text(row.updated_time),
        instant_text(row.first_synced_at),
        instant_text(row.synced_at),
        optional_text(row.deleted_at),
        row.messages_fingerprint,
        version,
        change_seq,
    )


def conversation_row(columns: tuple[Any, ...]) -> ConversationRow:
    """Return the conversation of these columns."""
    *of_all, can_reply, updated_time, first_synced_at, synced_at, deleted_at, fingerprint = columns
    times = instant(updated_time), instant(first_synced_at), instant(synced_at), optional_instant(deleted_at)
    values: tuple[Any, ...] = (*of_all, None if can_reply is None else bool(can_reply), *times, fingerprint)
    return ConversationRow(*values)


def interaction_event_tuple(
    row: InteractionEventRow, news_after: datetime | None, version: int, change_seq: int
) -> tuple[Any, ...]:
    """Return the columns of an interaction event when it is stored, as `contact_tuple` does (see Changes)."""
    if "\0" in row.event_id:
        raise KeyRefused
    return (
        row.event_id,
        row.conversation_id,
        row.platform,
        row.page_id,
        row.contact_id,
        row.direction,
        row.kind,
        row.text,
        row.attachments,
        instant_text(row.occurred_at),
        optional_text(row.content_at),
        is_history(row, news_after),
        version,
        change_seq,
    )


def interaction_event_row(columns: tuple[Any, ...]) -> InteractionEventRow:
    """Return the interaction event of these columns."""
    *of_all, occurred_at, edited_at, deleted_at, reactions, referral, content_at = columns
    times = instant(occurred_at), optional_instant(edited_at), optional_instant(deleted_at)
    values: tuple[Any, ...] = (*of_all, *times, reactions, referral, optional_instant(content_at))
    return InteractionEventRow(*values)


def is_history(row: InteractionEventRow, news_after: datetime | None) -> bool:
    """Return whether an interaction event is not news when it is stored (see Changes)."""
    return news_after is None or row.occurred_at <= news_after


def revision(row: InteractionEventRow, version: int) -> dict[str, str | int | None]:
    """Return the columns of an interaction event that may change after it was stored."""
    return {
        "version": version,
        "event_id": row.event_id,
        "kind": row.kind,
        "text": row.text,
        "attachments": row.attachments,
        "edited_at": optional_text(row.edited_at),
        "deleted_at": optional_text(row.deleted_at),
        "reactions": row.reactions,
        "referral": row.referral,
        "content_at": optional_text(row.content_at),
    }


def due_fact(columns: tuple[Any, ...]) -> DueFact:
    """Return the fact of these columns; the columns of its message come last."""
    event_key, kind, actor, occurred_at, detail, is_superseded, *message = columns
    row = interaction_event_row(tuple(message))
    return DueFact(event_key, WebhookKind(kind), actor, instant(occurred_at), detail, bool(is_superseded), row)


def entry_tuple(entry: Entry) -> tuple[Any, ...]:
    """Return a journal entry's columns, without its seq."""
    return (
        entry.stream.key,
        entry.version,
        entry.run_id,
        instant_text(entry.recorded_at),
        entry.type,
        entry.data,
        entry.hash,
    )


def entry(columns: JournalRow) -> Entry:
    """Return the journal entry of these columns. Raises JournalDamaged if they cannot be read."""
    seq, stream, version, run_id, recorded_at, tag, data, sealed = columns
    try:
        at = datetime.fromisoformat(recorded_at)
        event, of = _decode_event(tag, data), Stream.parse(stream)
    except (TypeError, ValueError) as error:  # a damaged page may hold anything
        raise JournalDamaged(f"journal entry {seq} cannot be read: {error}", hint=RESTORE) from error
    if instant_text(at) != recorded_at:
        raise JournalDamaged(f"journal entry {seq} has the time {recorded_at!r}, not {instant_text(at)}", hint=RESTORE)
    return Entry(of, version, run_id, at, tag, data, sealed, event)


def checkpoint_tuple(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Return the columns of a checkpoint's projection: those that people query, then the whole as JSON."""
    sweep = checkpoint.sweep
    return (
        checkpoint.stream.key,
        checkpoint.version,
        checkpoint.hash,
        sweep.mode.value if sweep else None,
        sweep.position.phase.value if sweep else None,
        sweep.position.cursor if sweep else None,
        optional_text(checkpoint.watermark),
        optional_text(checkpoint.last_success_at),
        optional_text(checkpoint.last_full_sweep_at),
        checkpoint.open_dead_letters,
        optional_text(checkpoint.updated_at),
        checkpoint_json(checkpoint),
    )


def checkpoint_json(checkpoint: Checkpoint) -> str:
    """Return a checkpoint as the JSON that `checkpoint` reads."""
    return encode(checkpoint).decode()


def checkpoint(state: str) -> Checkpoint:
    """Return a stored checkpoint. Raises JournalDamaged if it cannot be read: it can be rebuilt from the journal."""
    with _mended_by_a_rebuild("a stored checkpoint"):
        return _decode_checkpoint(state)


def run_tuple(stream: Stream, run: Run) -> tuple[Any, ...]:
    """Return the columns of a run's projection."""
    tally = run.tally
    return (
        run.run_id,
        stream.key,
        run.mode.value if run.mode else None,
        run.status.value,
        run.reason.value if run.reason else None,
        instant_text(run.started_at),
        optional_text(run.ended_at),
        tally.batches,
        tally.inserted,
        tally.updated,
        tally.unchanged,
        tally.dead_lettered,
        tally.contacts,
        tally.interaction_events,
        run.retries,
        run.failed_batches,
        encode(run.problem).decode() if run.problem else None,
    )


def run(columns: tuple[Any, ...]) -> RunOf:
    """Return the run of these columns. Raises JournalDamaged if they cannot be read: a rebuild mends that."""
    run_id, stream, mode, status, reason, started_at, ended_at, *counts, retries, failed_batches, problem = columns
    with _mended_by_a_rebuild(f"the run {run_id}"):
        batches, inserted, updated, unchanged, dead_lettered, contacts, interaction_events = counts
        return RunOf(
            Stream.parse(stream),
            Run(
                run_id,
                datetime.fromisoformat(started_at),
                RunStatus(status),
                Mode(mode) if mode else None,
                Reason(reason) if reason else None,
                datetime.fromisoformat(ended_at) if ended_at else None,
                Tally(batches, inserted, updated, unchanged, dead_lettered, contacts, interaction_events),
                retries,
                failed_batches,
                _decode_problem(problem) if problem else None,
            ),
        )


def dead_letter_tuple(dead_letter: DeadLetter) -> tuple[Any, ...]:
    """Return the columns of a dead letter's projection."""
    return (
        dead_letter.dead_letter_id,
        dead_letter.stream.key,
        dead_letter.stage.value,
        dead_letter.subject,
        dead_letter.reason,
        instant_text(dead_letter.opened_at),
        dead_letter.attempts,
        optional_text(dead_letter.redrive_at),
        optional_text(dead_letter.closed_at),
        dead_letter.resolution.value if dead_letter.resolution else None,
        dead_letter.note,
        dead_letter.fingerprint,
    )


def dead_letter(columns: tuple[Any, ...]) -> DeadLetter:
    """Return the dead letter of these columns. Raises JournalDamaged if they cannot be read: a rebuild mends that."""
    key, stream, stage, subject, reason, opened_at, attempts, *rest = columns
    redrive_at, closed_at, resolution, note, fingerprint, *_ = rest  # PostgreSQL appends the sort key to a list
    with _mended_by_a_rebuild(f"the dead letter {key}"):
        return DeadLetter(
            key,
            Stream.parse(stream),
            Stage(stage),
            subject,
            reason,
            datetime.fromisoformat(opened_at),
            attempts,
            datetime.fromisoformat(redrive_at) if redrive_at else None,
            datetime.fromisoformat(closed_at) if closed_at else None,
            Resolution(resolution) if resolution else None,
            note,
            fingerprint,
        )


def with_payloads(found: Iterable[tuple[Any, ...]]) -> tuple[DueDeadLetter, ...]:
    """Return dead letters, each with its payload in the last column. Raises as `dead_letter` does."""
    return tuple(DueDeadLetter(dead_letter(columns[:-1]), columns[-1]) for columns in found)


def queue_of(gap: Gap) -> int:
    """Return a gap's queue: 0 for one between two sweeps, 1 for a history, 2 for a history at its limit."""
    return gap.is_history + gap.is_at_limit


def gap_tuple(stream: Stream, gap: Gap) -> tuple[Any, ...]:
    """Return the columns of a gap's projection: those that people query, then the whole as JSON."""
    return (
        gap.gap_id,
        stream.key,
        gap.conversation_id,
        queue_of(gap),
        instant_text(gap.owed_since),
        instant_text(gap.newest_at),
        instant_text(gap.reached_at),
        gap.stored,
        gap.attempts,
        optional_text(gap.retry_at),
        encode(gap).decode(),
    )


def gap(state: str) -> Gap:
    """Return a stored gap. Raises JournalDamaged if it cannot be read: it can be rebuilt from the journal."""
    with _mended_by_a_rebuild("a row of message_backlog"):
        return _decode_gap(state)


def json_list(ids: Iterable[object]) -> str:
    """Return ids, or lists of texts, as a JSON array for `json_each`: one parameter for any number of them."""
    return encode(list(ids)).decode()
