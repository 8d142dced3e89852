"""What a group of commits does to the tables of PostgreSQL: one statement a table and batch, in three round trips."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import msgspec
from msgspec import Struct

from milepost.core.checkpoint import DeadLetter
from milepost.core.events import Entry
from milepost.core.journal import dead_letter_after, instant_text, since_removal
from milepost.core.model import Changes, ConversationRow, InteractionEventRow, Stream
from milepost.core.ports import Commit, Committed
from milepost.stores import rows
from milepost.stores.erasure import remembered
from milepost.stores.postgresql.connection import Connection, Database
from milepost.stores.postgresql.encoding import askable, storable
from milepost.stores.postgresql.queries import stretch_of
from milepost.stores.removal import DELETIONS, names_of

_encode = msgspec.json.Encoder().encode


class Prepared(Struct, frozen=True):
    """A commit, and what has to be read before it can be written: in the same transaction, whose locks are held."""

    commit: Commit
    changes: Changes
    dead_letters: tuple[DeadLetter, ...]
    payloads: tuple[tuple[str, str], ...]

    @property
    def is_removal(self) -> bool:
        """Whether the stream is removed, with all that was stored of it before."""
        return len(since_removal(self.commit.entries)) < len(self.commit.entries)

    @property
    def stream(self) -> Stream:
        """The stream."""
        return Stream.parse(self.commit.checkpoint.stream)


async def prepare(database: Database, connection: Connection, commits: Sequence[Commit]) -> list[Prepared]:
    """Begin the transaction of a group: take its locks, and read what depends on what is stored."""
    streams = sorted({commit.checkpoint.stream for commit in commits})  # in one order: nobody waits in a circle
    async with connection.pipeline():
        await database.begin(connection)
        await connection.execute(database.sql["lock_streams"], {"streams": streams})
    # Not in the pipeline: the Flush that may be its last message has PostgreSQL forget that the transaction idles, and
    # then a worker that is suspended here would hold its locks for ever.
    cursor = await connection.execute(database.sql["has_forgotten"])
    found = await cursor.fetchone()
    has_forgotten = found is not None and bool(found[0])
    return [await _prepared(database, connection, commit, has_forgotten=has_forgotten) for commit in commits]


async def _prepared(database: Database, connection: Connection, commit: Commit, *, has_forgotten: bool) -> Prepared:
    stream = Stream.parse(commit.checkpoint.stream)
    changes = await _remembered(database, connection, stream, commit.changes) if has_forgotten else commit.changes
    dead_letters: dict[str, DeadLetter] = {}
    entries = since_removal(commit.entries)
    for entry in entries:
        is_first = len(entries) < len(commit.entries)
        before = dead_letters if is_first else await _letter_before(database, connection, entry, dead_letters)
        dead_letter = dead_letter_after(entry, before.get)
        if dead_letter is not None:
            dead_letters[dead_letter.dead_letter_id] = dead_letter
    payloads = []
    for each in changes.payloads:
        known = dead_letters.get(each.dead_letter_id) or await _stored_letter(database, connection, each.dead_letter_id)
        about = _page_of(stream) | {"subject": storable(known.subject) if known else "", "payload": each.payload}
        if not (has_forgotten and await _is(database, connection, "is_about_forgotten", about)):
            payloads.append((each.dead_letter_id, each.payload))
    return Prepared(commit, changes, tuple(dead_letters.values()), tuple(payloads))


async def write(
    database: Database, connection: Connection, group: Sequence[Prepared], events_chunk_size: int
) -> list[Committed]:
    """Write a group and commit it. The journal comes last: its lock is held for as short as can be."""
    began = perf_counter()
    events_began: float | None = None
    async with connection.pipeline() as pipeline:
        for each in group:
            await _write_rows(database, connection, each)
        if any(each.changes.interaction_events for each in group):
            await pipeline.sync()
            events_began = perf_counter()
            for each in group:
                await _write_events(database, connection, each.changes, events_chunk_size)
        await connection.execute(database.sql["lock_journal"])
        entries = [entry for each in group for entry in each.commit.entries]
        cursor = await connection.execute(database.sql["insert_entries"], {"entries": _as_json(entries)})
        await connection.execute(database.sql["announce"], {"channel": database.dsn.channel})
        await connection.commit()
    done = perf_counter()
    rows_seconds = (events_began or done) - began
    seq = min(seq for (seq,) in await cursor.fetchall())
    committed = []
    for each in group:
        committed.append(Committed(seq, rows_seconds, done - events_began if events_began else 0.0))
        seq += len(each.commit.entries)
    return committed


async def _write_rows(database: Database, connection: Connection, each: Prepared) -> None:
    sql, changes, checkpoint = database.sql, each.changes, each.commit.checkpoint
    if each.is_removal:
        for statement in DELETIONS:
            await connection.execute(sql[statement], names_of(each.stream))
    if changes.conversations:
        latest = {row.conversation_id: row for row in changes.conversations}  # a row may be changed once a statement
        await connection.execute(sql["upsert_conversations"], {"rows": json_rows(_sorted(latest))})
    if changes.contacts:
        persons = {(row.platform, row.page_id, row.contact_id): row for row in changes.contacts}
        await connection.execute(sql["upsert_contacts"], {"rows": json_rows(_sorted(persons))})
    await _write_notes(sql, connection, each.stream, changes)
    for dead_letter in each.dead_letters:
        await connection.execute(sql["upsert_dead_letter"], _storable(rows.dead_letter_tuple(dead_letter)))
    for payload in each.payloads:
        await connection.execute(sql["upsert_payload"], payload)
    for dead_letter in each.dead_letters:
        if dead_letter.closed_at is not None:  # a payload is kept as long as its letter is open
            await connection.execute(sql["delete_payload"], (dead_letter.dead_letter_id,))
    await connection.execute(sql["upsert_checkpoint"], _storable(rows.checkpoint_tuple(checkpoint)))
    if each.commit.run is not None:
        await connection.execute(sql["upsert_run"], rows.run_tuple(checkpoint.stream, each.commit.run))


async def _write_notes(sql: Mapping[str, str], connection: Connection, stream: Stream, changes: Changes) -> None:
    """Keep the notes of what a full sweep misses, after the rows that it brought."""
    if changes.found:
        await connection.execute(sql["drop_found_notes"], (stream.key, askable(changes.found)))
    if changes.missed is not None:
        stretch = stretch_of(stream, changes.missed)
        await connection.execute(sql["drop_notes_of_other_sweeps"], (stream.key, stretch["sweep_started_at"]))
        await connection.execute(sql["note_missed"], stretch)
    if changes.missed_are_deleted_at is not None:
        at = instant_text(changes.missed_are_deleted_at)
        await connection.execute(sql["mark_missed_as_deleted"], (at, stream.key))
    if changes.missed_are_deleted_at is not None or changes.forgets_missed:
        await connection.execute(sql["drop_notes"], (stream.key,))


async def _write_events(database: Database, connection: Connection, changes: Changes, chunk_size: int) -> None:
    events = changes.interaction_events
    for start in range(0, len(events), chunk_size):
        chunk = json_rows(events[start : start + chunk_size])
        await connection.execute(database.sql["insert_interaction_events"], {"rows": chunk})


def json_rows(offered: object) -> str:
    """Write rows as the JSON array that `json_to_recordset` reads. Raises UnicodeEncodeError, OverflowError."""
    return _encode(offered).decode()


def _sorted(offered: dict[Any, Any]) -> list[Any]:
    """In the order of their keys, as every writer: two that meet wait for each other in one direction only."""
    return [offered[key] for key in sorted(offered)]


def _as_json(entries: Sequence[Entry]) -> str:
    return json_rows(
        [
            {
                "place": place,
                "stream": entry.stream,
                "version": entry.version,
                "run_id": entry.run_id,
                "recorded_at": instant_text(entry.recorded_at),
                "type": entry.type,
                "data": entry.data,
                "hash": entry.hash,
            }
            for place, entry in enumerate(entries, start=1)
        ]
    )


def _storable(columns: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(storable(value) if isinstance(value, str) else value for value in columns)


# --- what is read first -----------------------------------------------------------------------------------------------


def _page_of(stream: Stream) -> dict[str, Any]:
    return {"platform": stream.platform.value, "page_id": stream.page_id}


async def _remembered(database: Database, connection: Connection, stream: Stream, changes: Changes) -> Changes:
    """Leave out the rows of people who were erased while the commit was under way."""
    of_conversations: tuple[ConversationRow | InteractionEventRow, ...]
    of_conversations = (*changes.conversations, *changes.interaction_events)
    contacts = (row.contact_id for row in (*changes.contacts, *of_conversations) if row.contact_id is not None)
    asked = _page_of(stream) | {
        "conversations": askable(row.conversation_id for row in of_conversations),
        "contacts": askable(contacts),
    }
    cursor = await connection.execute(database.sql["forgotten_among"], asked)
    return remembered(changes, frozenset(key for (key,) in await cursor.fetchall()))


async def _letter_before(
    database: Database, connection: Connection, entry: Entry, dead_letters: dict[str, DeadLetter]
) -> dict[str, DeadLetter]:
    """Give the letter that an entry changes, as it is stored, or as the entries before have left it."""
    key = getattr(entry.event, "dead_letter_id", None)
    if not isinstance(key, str) or key in dead_letters:
        return dead_letters
    stored = await _stored_letter(database, connection, key)
    return dead_letters if stored is None else {**dead_letters, key: stored}


async def _stored_letter(database: Database, connection: Connection, dead_letter_id: str) -> DeadLetter | None:
    cursor = await connection.execute(database.sql["dead_letter"], (storable(dead_letter_id),))
    columns = await cursor.fetchone()
    return None if columns is None else rows.dead_letter(columns)


async def _is(database: Database, connection: Connection, question: str, about: dict[str, Any]) -> bool:
    cursor = await connection.execute(database.sql[question], about)
    found = await cursor.fetchone()
    return found is not None and bool(found[0])
