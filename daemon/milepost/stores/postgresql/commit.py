"""What a group of commits does to the tables of PostgreSQL, and which of its rows they refuse.

A group takes one statement for each table and two round trips: one to read, one to write.
"""

from collections import ChainMap
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any

import msgspec
import psycopg
from psycopg import AsyncPipeline
from psycopg.rows import TupleRow

from milepost.core.checkpoint import DeadLetter
from milepost.core.journal import dead_letter_after, since_removal
from milepost.core.model import Changes, RefusedRow, Stream, Table
from milepost.core.ports import Commit, Committed
from milepost.core.revisions import erased_in, unsent_in
from milepost.stores import rows
from milepost.stores.commit import (
    DELETIONS,
    MOVES,
    OWN,
    Outdated,
    Writer,
    commit_parameters,
    demand_known,
    gaps_of,
    ids_of,
    payloads_of,
    without_forgotten,
    written_of,
)
from milepost.stores.postgresql.connection import Connection, Database
from milepost.stores.postgresql.encoding import (
    CONTACTS,
    CONVERSATIONS,
    INTERACTION_EVENTS,
    Offered,
    Prepared,
    RowTable,
    array_text,
    columns_text,
    contacts_of,
    conversations_of,
    entries_text,
    in_order,
    interaction_events_of,
    json_projection,
    pages_of,
    parts,
    revised_of,
    searchable,
    versioned,
)
from milepost.stores.postgresql.errors import REFUSALS, reason_of
from milepost.stores.postgresql.queries import PostgresqlSession
from milepost.stores.reader import Parameters, stream_parameters

_decode_states = msgspec.json.Decoder(list[tuple[str, str, str]]).decode


class PostgresqlWriter(PostgresqlSession, Writer):
    """A session that writes, over a connection inside a transaction."""

    def __init__(
        self,
        database: Database,
        connection: Connection,
        pipelined: AsyncExitStack | None = None,
        *,
        trusts_known: bool = False,
    ) -> None:
        super().__init__(self._fetch)
        self.connection = connection
        self._database = database
        self._trusts_known = trusts_known  # then new rows are inserted, so that a row stored meanwhile is a violation
        self._pipelined = pipelined or AsyncExitStack()  # keeps the pipeline open until the end of `write`
        self._pipeline: AsyncPipeline | None = None

    async def execute(self, statement: str, parameters: Parameters = ()) -> psycopg.AsyncCursor[TupleRow]:
        """Run a named statement; in a pipeline, do not wait for its result."""
        return await self.connection.execute(self._database.sql[statement], parameters)

    async def _fetch(self, statement: str, parameters: Parameters = ()) -> list[TupleRow]:
        """Run a named statement and return its rows.

        In a pipeline, a Sync has to follow. psycopg itself sends only a Flush to fetch rows. After that PostgreSQL does
        not regard the transaction as idle, and a worker that is suspended here would hold its locks forever.
        """
        cursor = await self.execute(statement, parameters)
        if self._pipeline is not None:
            await self._pipeline.sync()
        return await cursor.fetchall() if cursor.description else []

    async def keep_others_out(self) -> None:
        """Block other commits until this transaction ends."""
        await self.execute("lock_commits")

    async def keep_webhook_events_out(self) -> None:
        """Block new webhook events until this transaction ends."""
        await self.execute("lock_webhook_events")

    async def _enter_pipeline(self) -> None:
        if self._pipeline is None:
            self._pipeline = await self._pipelined.enter_async_context(self.connection.pipeline())

    # --- reading ---

    async def prepare(self, commits: Sequence[Commit]) -> list[Prepared]:
        """Begin the transaction of a group: take its locks, and read the stored rows that the writes depend on."""
        streams = sorted({commit.checkpoint.stream.key for commit in commits})  # the same order everywhere: no deadlock
        await self._enter_pipeline()
        await self._database.begin(self.connection)
        await self.execute("lock_streams", {"streams": streams})
        has_forgotten = await self._demand_known(commits)
        stored = await self._stored_dead_letters(commits)
        unsent = await self.unsent_messages(commits)
        group = []
        for commit in commits:
            dead_letters = _dead_letters_after(commit, stored)
            stored |= dead_letters
            group.append(await self._prepare(commit, dead_letters, unsent, has_forgotten=has_forgotten))
        return group

    async def _demand_known(self, commits: Sequence[Commit]) -> bool:
        """Return whether anybody was erased. Raises Outdated if a conversation is no longer as a commit knew it."""
        written = [written_of(commit) for commit in commits]
        wanted = {key for each in written for key in each}
        ((has_forgotten, found),) = await self.fetch("before_commit", {"conversations": searchable(wanted)})
        if len(wanted) < sum(map(len, written)):  # two commits write the same conversation: not together
            raise Outdated
        states = {state[0]: state for state in _decode_states(found)}
        for commit, keys in zip(commits, written, strict=True):
            demand_known(commit, keys, [states[key] for key in keys if key in states])
        return bool(has_forgotten)

    async def _prepare(
        self, commit: Commit, dead_letters: dict[str, DeadLetter], unsent: Sequence[str], *, has_forgotten: bool
    ) -> Prepared:
        stream, changes = commit.checkpoint.stream, commit.changes
        if changes.moved:
            await self.link(commit)
        if has_forgotten:
            changes = without_forgotten(changes, await self.forgotten_among(stream, *ids_of(changes)))
        payloads = [
            (dead_letter_id, payload)
            for dead_letter_id, payload in payloads_of(commit, unsent)
            if not (has_forgotten and await self._is_of_forgotten(stream, dead_letter_id, payload, dead_letters))
        ]
        erased = await self._without_unsent(stream, changes)
        return Prepared(commit, changes, tuple(dead_letters.values()), (*erased, *payloads))

    async def _is_of_forgotten(
        self, stream: Stream, dead_letter_id: str, payload: str, dead_letters: dict[str, DeadLetter]
    ) -> bool:
        known = dead_letters.get(dead_letter_id) or await self.find_dead_letter(dead_letter_id)
        return await self.is_about_forgotten(stream, known.subject if known else "", payload)

    async def _without_unsent(self, stream: Stream, changes: Changes) -> list[tuple[str, str]]:
        """Return the payloads of dead letters about unsent messages, with the messages' content removed."""
        event_ids = unsent_in(changes)
        if not event_ids:
            return []
        found = await self.fetch("payloads_about", {"stream": stream.key, "event_ids": searchable(event_ids)})
        return [(dead_letter_id, erased_in(payload, event_ids)) for dead_letter_id, payload in found]

    async def _stored_dead_letters(self, commits: Iterable[Commit]) -> dict[str, DeadLetter]:
        """Return the stored dead letters that the commits change."""
        events = [entry.event for commit in commits for entry in commit.entries]
        keys = {key for event in events if isinstance(key := getattr(event, "dead_letter_id", None), str)}
        if not keys:
            return {}
        found = map(rows.dead_letter, await self.fetch("stored_dead_letters", (searchable(keys),)))
        return {dead_letter.dead_letter_id: dead_letter for dead_letter in found}

    # --- writing ---

    async def write(self, group: Sequence[Prepared], events_chunk_size: int) -> list[Committed]:
        """Write a group and commit it. The journal comes last, so that its lock is held as briefly as possible."""
        began = perf_counter()
        async with self._pipelined:
            await self._enter_pipeline()
            rows_began = await self.execute("moment")
            for part in parts(group):
                await self._write_rows(part)
            events_began = await self.execute("moment")
            await self._write_events(group, events_chunk_size)
            await self.execute("lock_journal")
            entries = [entry for each in group for entry in each.commit.entries]
            cursor = await self.execute("insert_entries", entries_text(entries))
            await self.execute("announce", {"channel": self._database.store_url.channel})
            await self._database.commit(self.connection)
        seconds = perf_counter() - began
        first_seq = min(seq for (seq,) in await cursor.fetchall())
        rows_seconds = min(await _moment(events_began) - await _moment(rows_began), seconds)
        return _committed(group, first_seq, rows_seconds, seconds - rows_seconds)

    async def _write_rows(self, part: Sequence[Prepared]) -> None:
        for each in part:
            await self._make_way(each)
        await self._project("page", map(rows.page_tuple, pages_of(part)))
        await self._put(CONTACTS, in_order(contacts_of(part)))
        await self._put(CONVERSATIONS, in_order(conversations_of(part)))
        for each in part:
            await self.write_notes(each.commit, each.changes)
        await self._write_dead_letters(part)
        await self._write_gaps(part)
        await self._project("checkpoint", (rows.checkpoint_tuple(each.commit.checkpoint) for each in part))
        runs = ((each.stream, each.commit.run) for each in part)
        await self._project("run", (rows.run_tuple(stream, run) for stream, run in runs if run is not None))

    async def _put(self, table: RowTable, offered: Offered) -> None:
        """Insert or upsert the rows of a table."""
        new, others = table.parted(offered) if self._trusts_known else ((), offered)
        for statement, rows_of_it in ((table.insert, new), (table.upsert, others)):
            if rows_of_it:
                await self.execute(statement, table.parameters(rows_of_it))

    async def _make_way(self, each: Prepared) -> None:
        """Delete or move stored rows where a commit does that before its own rows are written."""
        if each.is_removal:
            for statement in DELETIONS:
                await self.execute(statement, stream_parameters(each.stream))
        if each.commit.changes.moved:
            await self.move(MOVES, each.commit)
        if each.changes.own_id is not None:
            for statement in OWN:
                await self.execute(statement, commit_parameters(each.commit) | {"own_id": each.changes.own_id})

    async def _project(self, table: str, projected: Iterable[tuple[Any, ...]]) -> None:
        if found := list(projected):
            await self.execute(f"upsert_{table}", {"rows": json_projection(table, found)})

    async def _write_dead_letters(self, part: Sequence[Prepared]) -> None:
        dead_letters = {letter.dead_letter_id: letter for each in part for letter in each.dead_letters}
        await self._project("dead_letter", map(rows.dead_letter_tuple, dead_letters.values()))
        await self._project("payload", (payload for each in part for payload in each.payloads))
        closed = [key for key, letter in dead_letters.items() if letter.closed_at is not None]
        if closed:  # a payload is kept while its dead letter is open
            await self.execute("delete_payload", (searchable(closed),))

    async def _write_gaps(self, part: Sequence[Prepared]) -> None:
        """Write the backlog's changes in bulk: a batch of a first copy may open a gap for each conversation."""
        found = [(each.stream, gap) for each in part for gap in gaps_of(each.commit)]
        gaps = {gap.gap.gap_id: (stream, gap) for stream, gap in found}
        kept = ((stream, gap.gap) for stream, gap in gaps.values() if gap.is_kept)
        await self._project("gap", (rows.gap_tuple(stream, gap) for stream, gap in kept))
        ended = [key for key, (_, gap) in gaps.items() if not gap.is_kept]
        if ended:
            await self.execute("delete_gap", (searchable(ended),))

    async def _write_events(self, group: Sequence[Prepared], chunk_size: int) -> None:
        events = interaction_events_of(group)
        for start in range(0, len(events), chunk_size):
            await self._put(INTERACTION_EVENTS, events[start : start + chunk_size])
        revised = revised_of(group)
        if revised:
            await self.execute("revise_interaction_events", versioned(in_order(revised)))
        for each in group:
            if each.changes.named:
                named = {"named": searchable(each.changes.named), "version": each.commit.checkpoint.version}
                await self.execute("name_messages", named)
        settled = [key for each in group for key in each.changes.settled]
        if settled:
            await self.execute("settle_facts", (searchable(settled),))

    # --- refused rows ---

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
        """Try to write all rows and, if they are refused, each half. Every trial is rolled back."""
        if not offered:
            return []
        try:
            async with self.connection.transaction(force_rollback=True):
                anything = {"versions": array_text(0 for _ in offered), "history": array_text(False for _ in offered)}
                await self.execute(statement, columns_text(offered) | anything)
        except REFUSALS as error:
            if len(offered) == 1:
                return [(offered[0], reason_of(error))]
            middle = len(offered) // 2
            return [
                *await self._refused_among(statement, offered[:middle]),
                *await self._refused_among(statement, offered[middle:]),
            ]
        return []


def _dead_letters_after(commit: Commit, stored: dict[str, DeadLetter]) -> dict[str, DeadLetter]:
    """Return the dead letters that the entries of a commit change, as the commit leaves them."""
    entries = since_removal(commit.entries)
    changed: dict[str, DeadLetter] = {}
    known = ChainMap(changed, {} if len(entries) < len(commit.entries) else stored)
    for entry in entries:
        dead_letter = dead_letter_after(entry, known.get)
        if dead_letter is not None:
            changed[dead_letter.dead_letter_id] = dead_letter
    return changed


async def _moment(cursor: psycopg.AsyncCursor[TupleRow]) -> float:
    (moment,) = await cursor.fetchone() or (0.0,)
    return float(moment)


def _committed(
    group: Sequence[Prepared], first_seq: int, rows_seconds: float, events_seconds: float
) -> list[Committed]:
    committed = []
    for each in group:
        committed.append(Committed(first_seq, rows_seconds, events_seconds))
        first_seq += len(each.commit.entries)
    return committed
