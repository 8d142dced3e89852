"""What a group of commits does to the tables of PostgreSQL, and which of its rows they refuse.

One statement for each table and batch, in three round trips.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import TupleRow

from milepost.core.checkpoint import DeadLetter
from milepost.core.events import Entry
from milepost.core.journal import Codec, dead_letter_after, instant_text, since_removal
from milepost.core.model import Changes, RefusedRow, Stream, Table
from milepost.core.ports import Commit, Committed
from milepost.core.revisions import erased_in, unsent_in
from milepost.stores import rows
from milepost.stores.erasure import DELETIONS, Forgotten, contact_parameters, ids_of, without_forgotten
from milepost.stores.moves import (
    LINKS,
    MOVES,
    OWN,
    Outdated,
    commit_parameters,
    demand_known,
    move_parameters,
    written_of,
)
from milepost.stores.postgresql.connection import Connection, Database, Parameters, searchable, storable
from milepost.stores.postgresql.errors import REFUSALS, reason_of
from milepost.stores.postgresql.queries import PostgresqlSession, stretch_parameters
from milepost.stores.sql import stream_parameters

_encode = msgspec.json.Encoder().encode
_decode_states = msgspec.json.Decoder(list[tuple[str, str, str]]).decode


class Prepared(Struct, frozen=True):
    """A commit, and what had to be read before it can be written: in the same transaction, whose locks are held."""

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
        """The stream that the commit is about."""
        return self.commit.checkpoint.stream


class PostgresqlWriter(PostgresqlSession):
    """A session that writes, over a connection inside a transaction."""

    def __init__(self, database: Database, codec: Codec, connection: Connection) -> None:
        super().__init__(partial(database.rows_on, connection), codec)
        self.connection = connection
        self._database = database

    async def execute(self, statement: str, parameters: Parameters = ()) -> psycopg.AsyncCursor[TupleRow]:
        """Run a statement, by its name, and do not wait for its result in a pipeline."""
        return await self.connection.execute(self._database.sql[statement], parameters)

    # --- what is read first ---

    async def prepare(self, commits: Sequence[Commit]) -> list[Prepared]:
        """Begin the transaction of a group: take its locks, and read what depends on what is stored."""
        streams = sorted({commit.checkpoint.stream.key for commit in commits})  # one order for all: no deadlock
        async with self.connection.pipeline():
            await self._database.begin(self.connection)
            await self.execute("lock_streams", {"streams": streams})
        # Not in the pipeline: the Flush that may be its last message makes PostgreSQL forget that the transaction is
        # idle, and then a worker that is suspended here would hold its locks for ever.
        has_forgotten = await self._demand_known(commits)
        return [await self._prepare(commit, has_forgotten=has_forgotten) for commit in commits]

    async def _demand_known(self, commits: Sequence[Commit]) -> bool:
        """Return whether anybody was erased. Raises Outdated if conversations are no longer as a commit knew them."""
        written = [written_of(commit) for commit in commits]
        wanted = {key for each in written for key in each}
        ((has_forgotten, found),) = await self.ask("before_commit", {"conversations": searchable(wanted)})
        if len(wanted) < sum(map(len, written)):  # two of the group write of the same one: each by itself, then
            raise Outdated
        states = {state[0]: state for state in _decode_states(found)}
        for commit, keys in zip(commits, written, strict=True):
            demand_known(commit, keys, [states[key] for key in keys if key in states])
        return bool(has_forgotten)

    async def _prepare(self, commit: Commit, *, has_forgotten: bool) -> Prepared:
        stream, changes = commit.checkpoint.stream, commit.changes
        await self._link(stream, commit)
        if has_forgotten:
            changes = without_forgotten(changes, await self.forgotten_among(stream, *ids_of(changes)))
        dead_letters = await self._dead_letters_after(commit)
        payloads = []
        for each in changes.payloads:
            known = dead_letters.get(each.dead_letter_id) or await self.find_dead_letter(each.dead_letter_id)
            subject = known.subject if known else ""
            if not (has_forgotten and await self.is_about_forgotten(stream, subject, each.payload)):
                payloads.append((each.dead_letter_id, each.payload))
        erased = await self._without_unsent(stream, changes)
        return Prepared(commit, changes, tuple(dead_letters.values()), (*erased, *payloads))

    async def _without_unsent(self, stream: Stream, changes: Changes) -> list[tuple[str, str]]:
        """Return the payloads of dead letters about unsent messages, without the content of those."""
        event_ids = unsent_in(changes)
        if not event_ids:
            return []
        found = await self.ask("payloads_about", {"stream": stream.key, "event_ids": searchable(event_ids)})
        return [(dead_letter_id, erased_in(payload, event_ids)) for dead_letter_id, payload in found]

    async def _dead_letters_after(self, commit: Commit) -> dict[str, DeadLetter]:
        """Return the dead letters that the entries change, as they leave them."""
        changed: dict[str, DeadLetter] = {}
        entries = since_removal(commit.entries)
        is_removal = len(entries) < len(commit.entries)
        for entry in entries:
            before = changed if is_removal else await self._with_stored(entry, changed)
            dead_letter = dead_letter_after(entry, before.get)
            if dead_letter is not None:
                changed[dead_letter.dead_letter_id] = dead_letter
        return changed

    async def _with_stored(self, entry: Entry, changed: dict[str, DeadLetter]) -> dict[str, DeadLetter]:
        """Return the changed dead letters and, unless it is one of them, the stored one that an entry is about."""
        key = getattr(entry.event, "dead_letter_id", None)
        if not isinstance(key, str) or key in changed:
            return changed
        stored = await self.find_dead_letter(key)
        return changed if stored is None else {**changed, key: stored}

    # --- what is written ---

    async def write(self, group: Sequence[Prepared], events_chunk_size: int) -> list[Committed]:
        """Write a group and commit it. The journal comes last, so that its lock is held as briefly as possible."""
        began = perf_counter()
        events_began: float | None = None
        async with self.connection.pipeline() as pipeline:
            for each in group:
                await self._write_rows(each)
            if any(each.changes.interaction_events or each.changes.revised for each in group):
                await pipeline.sync()
                events_began = perf_counter()
                for each in group:
                    await self._write_events(each, events_chunk_size)
            await self.execute("lock_journal")
            entries = [entry for each in group for entry in each.commit.entries]
            cursor = await self.execute("insert_entries", {"entries": _entries_as_json(entries)})
            await self.execute("announce", {"channel": self._database.dsn.channel})
            await self.connection.commit()
        done = perf_counter()
        first_seq = min(seq for (seq,) in await cursor.fetchall())
        rows_seconds = (events_began or done) - began
        return _committed(group, first_seq, rows_seconds, done - events_began if events_began else 0.0)

    async def _write_rows(self, each: Prepared) -> None:
        changes, checkpoint, run = each.changes, each.commit.checkpoint, each.commit.run
        if each.is_removal:
            for statement in DELETIONS:
                await self.execute(statement, stream_parameters(each.stream))
        await self._move(MOVES, each.commit)
        if changes.own_id is not None:
            for statement in OWN:
                await self.execute(statement, commit_parameters(each.commit) | {"own_id": changes.own_id})
        if changes.page is not None:
            await self.execute("upsert_page", _storable(rows.page_tuple(changes.page)))
        if changes.contacts:
            # A statement may change a row once.
            contacts = {(row.platform, row.page_id, row.contact_id): row for row in changes.contacts}
            await self.execute("upsert_contacts", _rows_of(each.commit, _sorted(contacts)))
        if changes.conversations:
            latest = {row.conversation_id: row for row in changes.conversations}
            await self.execute("upsert_conversations", _rows_of(each.commit, _sorted(latest)))
        await self._write_notes(each.commit, changes)
        await self._write_dead_letters(each)
        await self._write_gaps(each.commit)
        await self.execute("upsert_checkpoint", _storable(rows.checkpoint_tuple(checkpoint)))
        if run is not None:
            await self.execute("upsert_run", rows.run_tuple(checkpoint.stream, run))

    async def _link(self, stream: Stream, commit: Commit) -> None:
        """Record from which pages a commit moves rows, and erase there who was erased here before that was known."""
        if commit.changes.moved:
            links_before = await self.ask("count_links", stream_parameters(stream))
            await self._move(LINKS, commit)
            if await self.ask("count_links", stream_parameters(stream)) != links_before:
                linked = {"pages": list(await self.linked_pages(stream))}
                forgotten = await self.ask("forgotten_contacts", stream_parameters(stream) | linked)
                if forgotten:
                    await self.execute("lock_commits")  # or one of the other page might bring them back meanwhile
                for (contact_id,) in forgotten:
                    await self.erase(stream, contact_id)

    async def erase(self, stream: Stream, contact_id: str) -> Forgotten:
        """Erase a contact on the stream's page and all that are linked to it, and keep them out there."""
        pages = list(await self.linked_pages(stream))
        who: dict[str, object] = {**contact_parameters(stream, contact_id), "pages": pages}
        await self.execute("forget_contact", who)
        await self.execute("forget_conversations", who)
        await self.execute("erase_webhook_events", who)
        forgotten = Forgotten(
            contacts=(await self.execute("erase_contact", who)).rowcount,
            conversations=(await self.execute("erase_conversations", who)).rowcount,
            interaction_events=(await self.execute("erase_interaction_events", who)).rowcount,
            payloads=(await self.execute("erase_payloads", who)).rowcount,
            elsewhere=tuple(page_id for (page_id,) in await self.ask("contact_elsewhere", who)),
        )
        await self.execute("erase_notes", who)
        return forgotten

    async def _move(self, statements: Iterable[str], commit: Commit) -> None:
        """Take conversations over from other pages, before the rows that the batch brought."""
        if commit.changes.moved:
            moved = {**move_parameters(commit), "moved": searchable(commit.changes.moved)}
            for statement in statements:
                await self.execute(statement, moved)

    async def _write_notes(self, commit: Commit, changes: Changes) -> None:
        """Keep the notes of what a full sweep misses, after the rows that it brought."""
        stream = commit.checkpoint.stream
        if changes.found:
            await self.execute("drop_found_notes", (stream.key, searchable(changes.found)))
        if changes.missed is not None:
            stretch = stretch_parameters(stream, changes.missed)
            await self.execute("drop_notes_of_other_sweeps", (stream.key, stretch["sweep_started_at"]))
            await self.execute("note_missed", stretch)
        if changes.missed_are_deleted_at is not None:
            at = instant_text(changes.missed_are_deleted_at)
            await self.execute("mark_missed_as_deleted", commit_parameters(commit) | {"at": at})
        if changes.missed_are_deleted_at is not None or changes.forgets_missed:
            await self.execute("drop_notes", (stream.key,))

    async def _write_dead_letters(self, each: Prepared) -> None:
        for dead_letter in each.dead_letters:
            await self.execute("upsert_dead_letter", _storable(rows.dead_letter_tuple(dead_letter)))
        for payload in each.payloads:
            await self.execute("upsert_payload", payload)
        for dead_letter in each.dead_letters:
            if dead_letter.closed_at is not None:  # a payload is kept while its dead letter is open
                await self.execute("delete_payload", (dead_letter.dead_letter_id,))

    async def _write_gaps(self, commit: Commit) -> None:
        """Bring the backlog up to the entries: a batch of a first copy may open a gap for each conversation."""
        for each in rows.gaps_of(commit):
            if each.is_kept:
                await self.execute("upsert_gap", _storable(rows.gap_tuple(commit.checkpoint.stream, each.gap)))
            else:
                await self.execute("delete_gap", (each.gap.gap_id,))

    async def _write_events(self, each: Prepared, chunk_size: int) -> None:
        changes = each.changes
        events = changes.interaction_events
        for start in range(0, len(events), chunk_size):
            await self.execute("insert_interaction_events", _rows_of(each.commit, events[start : start + chunk_size]))
        if changes.revised:
            await self.execute("revise_interaction_events", _rows_of(each.commit, changes.revised))

    # --- what is refused ---

    async def refused_rows(self, changes: Changes) -> tuple[RefusedRow, ...]:
        """Return the rows at fault, and roll the transaction back: nothing is stored."""
        refused: list[RefusedRow] = []
        for table, statement, key, offered in (
            (Table.CONVERSATIONS, "upsert_conversations", "conversation_id", changes.conversations),
            (Table.CONTACTS, "upsert_contacts", "contact_id", changes.contacts),
            (Table.INTERACTION_EVENTS, "insert_interaction_events", "event_id", changes.interaction_events),
            (Table.INTERACTION_EVENTS, "revise_interaction_events", "event_id", changes.revised),
        ):
            found = await self._refused_among(statement, offered)
            refused += (RefusedRow(table, getattr(row, key), reason) for row, reason in found)
        await self.connection.rollback()
        return tuple(refused)

    async def _refused_among(self, statement: str, offered: Sequence[Any]) -> list[tuple[Any, str]]:
        """Try all rows or, where they are refused, each half; what is tried is undone."""
        if not offered:
            return []
        try:
            async with self.connection.transaction(force_rollback=True):
                await self.execute(statement, {"rows": json_rows(offered), "version": 0, "news_after": None})
        except REFUSALS as error:
            if len(offered) == 1:
                return [(offered[0], reason_of(error))]
            middle = len(offered) // 2
            return [
                *await self._refused_among(statement, offered[:middle]),
                *await self._refused_among(statement, offered[middle:]),
            ]
        return []


def _committed(
    group: Sequence[Prepared], first_seq: int, rows_seconds: float, events_seconds: float
) -> list[Committed]:
    committed = []
    for each in group:
        committed.append(Committed(first_seq, rows_seconds, events_seconds))
        first_seq += len(each.commit.entries)
    return committed


def json_rows(offered: object) -> str:
    """Return rows as the JSON array that `json_to_recordset` reads. Raises UnicodeEncodeError, OverflowError."""
    return _encode(offered).decode()


def _rows_of(commit: Commit, offered: object) -> dict[str, object]:
    """Return rows of a commit as parameters of the statement that writes them. Raises as `json_rows` does."""
    news_after = commit.changes.news_after
    return {
        "rows": json_rows(offered),
        "version": commit.checkpoint.version,
        "news_after": None if news_after is None else instant_text(news_after),
    }


def _sorted(offered: dict[Any, Any]) -> list[Any]:
    """Return rows in the order of their keys, as every writer does: so two that meet do not deadlock."""
    return [offered[key] for key in sorted(offered)]


def _entries_as_json(entries: Sequence[Entry]) -> str:
    return json_rows(
        [
            {
                "ordinal": ordinal,
                "stream": entry.stream.key,
                "version": entry.version,
                "run_id": entry.run_id,
                "recorded_at": instant_text(entry.recorded_at),
                "type": entry.type,
                "data": entry.data,
                "hash": entry.hash,
            }
            for ordinal, entry in enumerate(entries, start=1)
        ]
    )


def _storable(columns: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(storable(value) if isinstance(value, str) else value for value in columns)
