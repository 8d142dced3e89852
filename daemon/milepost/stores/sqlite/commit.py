"""What a commit does to the tables of SQLite, and which of its rows they refuse."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, repeat
from time import perf_counter

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
    Writer,
    commit_parameters,
    conversations_of,
    demand_known,
    gaps_of,
    ids_of,
    payloads_of,
    without_forgotten,
)
from milepost.stores.reader import Parameters, stream_parameters
from milepost.stores.sqlite.errors import REFUSALS, reason_of
from milepost.stores.sqlite.queries import SqliteSession, StoredIds, at_once

UPSERTS = ("upsert_contacts", "upsert_conversations")
ALL_NEW = ", all new"


def with_inserts(sql: Mapping[str, str]) -> dict[str, str]:
    """Return the statements, and with them the derived ones that insert new rows.

    An upsert may fire the triggers of an update, so SQLite copies each page that it writes to, in order to undo it: a
    fifth of its time.
    """
    return {**sql, **{f"{each}{ALL_NEW}": sql[each].partition("\nON CONFLICT")[0] for each in UPSERTS}}


class SqliteWriter(SqliteSession, Writer):
    """A session that writes. The caller begins the transaction and ends it.

    With `trusts_known`, a row that its commit takes for new is refused if it is stored.
    """

    def __init__(
        self,
        sql: Mapping[str, str],
        connection: sqlite3.Connection,
        stored_ids: StoredIds | None = None,
        *,
        trusts_known: bool = False,
    ) -> None:
        super().__init__(sql, connection, stored_ids)
        self._trusts_known = trusts_known

    async def execute(self, statement: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Run a named statement."""
        return self.ask(statement, parameters)

    def write(self, group: Sequence[Commit], events_chunk_size: int) -> list[Committed]:
        """Write a group of commits. Raises one of REFUSALS, or Outdated."""
        self.stored_ids.observe(self.connection)
        return [self._write(commit, events_chunk_size) for commit in group]

    def _write(self, commit: Commit, events_chunk_size: int) -> Committed:
        began = perf_counter()
        stream = commit.checkpoint.stream
        conversation_ids = conversations_of(commit.changes)
        if commit.known is not None and (written := self.stored_ids.among(conversation_ids)):
            demand_known(commit, written, self.ask("conversation_states", (rows.json_list(written),)))
        self.stored_ids.add(conversation_ids, commit.changes)
        if commit.changes.moved:
            at_once(self.link(commit))
        changes = self._without_forgotten(stream, commit.changes)
        last_seq = self._write_entries(stream, commit)
        if commit.changes.moved:
            at_once(self.move(MOVES, commit))
        if changes.own_id is not None:
            for statement in OWN:
                self.ask(statement, commit_parameters(commit) | {"own_id": changes.own_id})
        if changes.page is not None:
            self.ask("upsert_page", rows.page_tuple(changes.page))
        self._write_threads(commit, changes)
        at_once(self.write_notes(commit, changes))
        self._write_dead_letters(stream, commit)
        self._write_gaps(commit)
        self.ask("upsert_checkpoint", rows.checkpoint_tuple(commit.checkpoint))
        if commit.run is not None:
            self.ask("upsert_run", rows.run_tuple(commit.checkpoint.stream, commit.run))
        rows_done = perf_counter()
        version = commit.checkpoint.version
        self._write_events(changes, version, events_chunk_size)
        if changes.revised:
            self._write_all("revise_interaction_events", (rows.revision(row, version) for row in changes.revised))
            self._erase_unsent(stream, changes)
        if changes.settled:
            self.ask("settle_facts", (rows.json_list(changes.settled),))
        events_done = perf_counter()
        return Committed(last_seq - len(commit.entries) + 1, rows_done - began, events_done - rows_done)

    def _without_forgotten(self, stream: Stream, changes: Changes) -> Changes:
        if not (changes.conversations or changes.contacts or changes.interaction_events):
            return changes
        return without_forgotten(changes, self.forgotten_among(stream, *ids_of(changes)))

    def _write_threads(self, commit: Commit, changes: Changes) -> None:
        """Upsert the contacts and conversations. A quiet sweep has none, and then each statement would cost time."""
        version = commit.checkpoint.version
        suffix = ALL_NEW if self._trusts_known and _is_all_new(commit) else ""
        if changes.contacts:
            contacts = map(rows.contact_tuple, changes.contacts, repeat(version), self._numbers())
            self._write_all(f"upsert_contacts{suffix}", contacts)
        if changes.conversations:
            conversations = map(rows.conversation_tuple, changes.conversations, repeat(version), self._numbers())
            self._write_all(f"upsert_conversations{suffix}", conversations)

    def _write_all(self, statement: str, columns: Iterator[Parameters]) -> None:
        self.connection.executemany(self.sql[statement], columns)

    def _numbers(self) -> Iterator[int]:
        """Yield the next numbers of the change feed, for all rows of one statement; the next statement calls again."""
        ((last,),) = self.ask("last_change")
        return count(last + 1)

    def _write_entries(self, stream: Stream, commit: Commit) -> int:
        """Append the entries and return the last seq. If they remove the stream, delete all its rows first."""
        if len(since_removal(commit.entries)) < len(commit.entries):
            for statement in DELETIONS:
                self.ask(statement, stream_parameters(stream))
        last_seq = 0
        for entry in commit.entries:
            last_seq = self.ask("insert_entries", rows.entry_tuple(entry)).lastrowid or 0
        return last_seq

    def _write_events(self, changes: Changes, version: int, chunk_size: int) -> None:
        events = changes.interaction_events
        for start in range(0, len(events), chunk_size):
            chunk, numbers = events[start : start + chunk_size], self._numbers()
            columns = map(rows.interaction_event_tuple, chunk, repeat(changes.news_after), repeat(version), numbers)
            self._write_all("insert_interaction_events", columns)
        if changes.named:
            self.ask("name_messages", {"named": rows.json_list(changes.named), "version": version})

    def _erase_unsent(self, stream: Stream, changes: Changes) -> None:
        """Erase the content of unsent messages from the payloads of dead letters."""
        event_ids = unsent_in(changes)
        if event_ids:
            about = {"stream": stream.key, "event_ids": rows.json_list(event_ids)}
            for dead_letter_id, payload in self.ask("payloads_about", about).fetchall():
                self.ask("upsert_payload", (dead_letter_id, erased_in(payload, event_ids)))

    def _write_dead_letters(self, stream: Stream, commit: Commit) -> None:
        """Apply the entries to the dead letters. A payload is kept while its dead letter is open."""

        def find(dead_letter_id: str) -> DeadLetter | None:
            return at_once(self.find_dead_letter(dead_letter_id))

        dead_letters: dict[str, DeadLetter] = {}
        for entry in since_removal(commit.entries):
            dead_letter = dead_letter_after(entry, find)
            if dead_letter is not None:
                dead_letters[dead_letter.dead_letter_id] = dead_letter
                self.ask("upsert_dead_letter", rows.dead_letter_tuple(dead_letter))
        if not (dead_letters or commit.changes.payloads):
            return
        for dead_letter_id, payload in payloads_of(commit, at_once(self.unsent_messages((commit,)))):
            dead_letter = dead_letters.get(dead_letter_id) or find(dead_letter_id)
            if not self.is_about_forgotten(stream, dead_letter.subject if dead_letter else "", payload):
                self.ask("upsert_payload", (dead_letter_id, payload))
        closed = ((key,) for key, dead_letter in dead_letters.items() if dead_letter.closed_at is not None)
        self._write_all("delete_payload", closed)

    def _write_gaps(self, commit: Commit) -> None:
        """Write the backlog's changes in bulk: a batch of a first copy may open a gap for each conversation."""
        if not (gaps := gaps_of(commit)):
            return
        kept = (rows.gap_tuple(commit.checkpoint.stream, each.gap) for each in gaps if each.is_kept)
        self._write_all("upsert_gap", kept)
        self._write_all("delete_gap", ((each.gap.gap_id,) for each in gaps if not each.is_kept))

    def refused_rows(self, changes: Changes) -> tuple[RefusedRow, ...]:
        """Return the rows at fault, found by trying each alone, outside a transaction. Nothing is stored."""
        refused = []
        for table, key, statement, columns in _each_row(changes):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                self.ask(statement, columns())
            except REFUSALS as error:
                refused.append(RefusedRow(table, key, reason_of(error)))
            finally:
                if self.connection.in_transaction:  # SQLite itself rolls back after some failures
                    self.connection.execute("ROLLBACK")
        return tuple(refused)


def _is_all_new(commit: Commit) -> bool:
    """Return whether a commit takes all its contacts and conversations for new."""
    known = commit.known
    if known is None or commit.changes.moved:
        return False
    return not (known.contacts or known.contacts_elsewhere or known.conversations)


def _each_row(changes: Changes) -> Iterator[tuple[Table, str, str, Callable[[], Parameters]]]:
    """Yield each row with its table, key and statement, and its columns with an arbitrary version and number."""
    for row in changes.conversations:
        columns = partial(rows.conversation_tuple, row, 0, 0)
        yield Table.CONVERSATIONS, row.conversation_id, "upsert_conversations", columns
    for contact in changes.contacts:
        columns = partial(rows.contact_tuple, contact, 0, 0)
        yield Table.CONTACTS, contact.contact_id, "upsert_contacts", columns
    for event in changes.interaction_events:
        columns = partial(rows.interaction_event_tuple, event, None, 0, 0)
        yield Table.INTERACTION_EVENTS, event.event_id, "insert_interaction_events", columns
    for event in changes.revised:
        revision = partial(rows.revision, event, 0)
        yield Table.INTERACTION_EVENTS, event.event_id, "revise_interaction_events", revision
