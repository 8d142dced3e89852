"""What a commit does to the tables of SQLite, and which of its rows they will not take."""

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter

from milepost.core.checkpoint import DeadLetter
from milepost.core.journal import dead_letter_after, instant_text, since_removal
from milepost.core.model import Changes, ConversationRow, InteractionEventRow, RefusedRow, Stream, Table
from milepost.core.ports import Commit, Committed
from milepost.stores import rows
from milepost.stores.erasure import remembered
from milepost.stores.removal import DELETIONS, names_of
from milepost.stores.sqlite.queries import forgotten_among, stretch_of

# How SQLite, its module and our rows say that they will not take a row.
REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeEncodeError, rows.KeyRefused)


def write(sql: dict[str, str], events_chunk_size: int, commit: Commit, connection: sqlite3.Connection) -> Committed:
    """Write a commit, inside a transaction. Raises one of REFUSALS."""
    began = perf_counter()
    cursor, stream = connection.cursor(), Stream.parse(commit.checkpoint.stream)
    changes = _remembered(sql, stream, commit.changes, connection)
    if len(since_removal(commit.entries)) < len(commit.entries):
        for statement in DELETIONS:
            cursor.execute(sql[statement], names_of(stream))
    for entry in commit.entries:
        cursor.execute(sql["insert_entries"], rows.entry_tuple(entry))
    last_seq = cursor.lastrowid or 0
    cursor.executemany(sql["upsert_conversations"], map(rows.conversation_tuple, changes.conversations))
    cursor.executemany(sql["upsert_contacts"], map(rows.contact_tuple, changes.contacts))
    _write_notes(sql, stream, changes, cursor)
    _write_letters(sql, stream, commit, cursor)
    cursor.execute(sql["upsert_checkpoint"], rows.checkpoint_tuple(commit.checkpoint))
    if commit.run is not None:
        cursor.execute(sql["upsert_run"], rows.run_tuple(commit.checkpoint.stream, commit.run))
    rows_done = perf_counter()
    _write_events(sql, events_chunk_size, changes.interaction_events, cursor)
    events_done = perf_counter()
    return Committed(last_seq - len(commit.entries) + 1, rows_done - began, events_done - rows_done)


def _write_events(
    sql: dict[str, str], chunk_size: int, events: tuple[InteractionEventRow, ...], cursor: sqlite3.Cursor
) -> None:
    for start in range(0, len(events), chunk_size):
        chunk = events[start : start + chunk_size]
        cursor.executemany(sql["insert_interaction_events"], map(rows.interaction_event_tuple, chunk))


def _write_notes(sql: dict[str, str], stream: Stream, changes: Changes, cursor: sqlite3.Cursor) -> None:
    """Keep the notes of what a full sweep misses, after the rows that it brought."""
    if changes.found:
        cursor.execute(sql["drop_found_notes"], (stream.key, rows.json_list(changes.found)))
    if changes.missed is not None:
        stretch = stretch_of(stream, changes.missed)
        cursor.execute(sql["drop_notes_of_other_sweeps"], (stream.key, stretch["sweep_started_at"]))
        cursor.execute(sql["note_missed"], stretch)
    if changes.missed_are_deleted_at is not None:
        cursor.execute(sql["mark_missed_as_deleted"], (instant_text(changes.missed_are_deleted_at), stream.key))
    if changes.missed_are_deleted_at is not None or changes.forgets_missed:
        cursor.execute(sql["drop_notes"], (stream.key,))


def _write_letters(sql: dict[str, str], stream: Stream, commit: Commit, cursor: sqlite3.Cursor) -> None:
    """Bring the dead letters after the entries. A payload is kept as long as its letter is open."""

    def stored(dead_letter_id: str) -> DeadLetter | None:
        columns = cursor.execute(sql["dead_letter"], (dead_letter_id,)).fetchone()
        return rows.dead_letter(columns) if columns else None

    dead_letters: dict[str, DeadLetter] = {}
    for entry in since_removal(commit.entries):
        dead_letter = dead_letter_after(entry, stored)
        if dead_letter is not None:
            dead_letters[dead_letter.dead_letter_id] = dead_letter
            cursor.execute(sql["upsert_dead_letter"], rows.dead_letter_tuple(dead_letter))
    page = {"platform": stream.platform.value, "page_id": stream.page_id}
    for each in commit.changes.payloads:
        dead_letter = dead_letters.get(each.dead_letter_id) or stored(each.dead_letter_id)
        about = page | {"subject": dead_letter.subject if dead_letter else "", "payload": each.payload}
        if cursor.execute(sql["is_about_forgotten"], about).fetchone() is None:
            cursor.execute(sql["upsert_payload"], (each.dead_letter_id, each.payload))
    closed = ((key,) for key, dead_letter in dead_letters.items() if dead_letter.closed_at is not None)
    cursor.executemany(sql["delete_payload"], closed)


def _remembered(sql: dict[str, str], stream: Stream, changes: Changes, connection: sqlite3.Connection) -> Changes:
    """Leave out the rows of people who were erased while the commit was under way."""
    of_conversations: tuple[ConversationRow | InteractionEventRow, ...]
    of_conversations = (*changes.conversations, *changes.interaction_events)
    conversation_ids = (row.conversation_id for row in of_conversations)
    contact_ids = (row.contact_id for row in (*changes.contacts, *of_conversations) if row.contact_id is not None)
    gone = forgotten_among(sql, stream, conversation_ids, contact_ids, connection)
    return remembered(changes, gone)


# --- rows that are refused --------------------------------------------------------------------------------------------


def refused_rows(sql: dict[str, str], changes: Changes, connection: sqlite3.Connection) -> tuple[RefusedRow, ...]:
    """Find the rows at fault, by trying each alone. Nothing is stored."""
    refused = []
    for table, key, statement, columns in _alone(sql, changes):
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(statement, columns())
        except REFUSALS as error:
            refused.append(RefusedRow(table, key, reason_of(error)))
        finally:
            if connection.in_transaction:  # some failures have rolled back already
                connection.execute("ROLLBACK")
    return tuple(refused)


def _alone(
    sql: dict[str, str], changes: Changes
) -> Iterator[tuple[Table, str, str, Callable[[], tuple[str | int | None, ...]]]]:
    for conversation in changes.conversations:
        columns = partial(rows.conversation_tuple, conversation)
        yield Table.CONVERSATIONS, conversation.conversation_id, sql["upsert_conversations"], columns
    for contact in changes.contacts:
        yield Table.CONTACTS, contact.contact_id, sql["upsert_contacts"], partial(rows.contact_tuple, contact)
    for event in changes.interaction_events:
        columns = partial(rows.interaction_event_tuple, event)
        yield Table.INTERACTION_EVENTS, event.event_id, sql["insert_interaction_events"], columns


def reason_of(error: Exception) -> str:
    """Say why a row was refused, without any of its values."""
    if isinstance(error, UnicodeEncodeError):  # its message quotes the character
        return "a text in it cannot be written as UTF-8: it holds half of a surrogate pair"
    return str(error)
