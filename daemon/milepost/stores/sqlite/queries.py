"""What a SQLite store can be asked: checkpoints, rows, dead letters and notes by key, and positions in the journal."""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, DeadLetter
from milepost.core.evolve import fold
from milepost.core.gaps import Gap, ThreadsSearched
from milepost.core.journal import Codec, RunOf, instant_text
from milepost.core.model import (
    ConversationRow,
    DataSource,
    InteractionEventRow,
    Keys,
    Known,
    KnownDeadLetter,
    Stream,
)
from milepost.core.ports import DueDeadLetter, OpenGap
from milepost.core.position import Stretch
from milepost.core.retry import latest_redrive
from milepost.core.revisions import to_look_up
from milepost.core.webhooks import DueFact
from milepost.stores import messages, rows
from milepost.stores.erasure import StreamRows
from milepost.stores.moves import pages_by_contact, pages_elsewhere
from milepost.stores.reader import DeadLetterState, StoredEntry, Thread
from milepost.stores.sql import stream_parameters
from milepost.stores.sqlite.stored_ids import StoredIds

Parameters = Mapping[str, Any] | tuple[Any, ...]

# Before and after every instant, as text: the ends of the inbox. After every run id, too.
BEFORE_ALL, AFTER_ALL = "", "~"


class SqliteSession:
    """The questions of a store, asked over a connection in that connection's thread.

    Its methods are those of PostgresqlSession. Several answers are of one moment only inside a transaction.
    """

    def __init__(
        self,
        sql: Mapping[str, str],
        codec: Codec,
        connection: sqlite3.Connection,
        stored_ids: StoredIds | None = None,
    ) -> None:
        self.sql = sql
        self.codec = codec
        self.connection = connection
        self.stored_ids = stored_ids or StoredIds()

    def ask(self, statement: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Run a statement, by its name."""
        return self.connection.execute(self.sql[statement], parameters)

    # --- the store itself ---

    def answers(self) -> None:
        """Read anything."""
        self.ask("answers").fetchone()

    def size_bytes(self) -> int:
        """Return the size of the database."""
        (size_bytes,) = self.ask("size").fetchone()
        return int(size_bytes)

    def write_nothing(self) -> None:
        """Write without changing anything. The caller begins the transaction and ends it."""
        self.ask("demand_writable")
        self.ask("write_nothing")

    def source(self) -> DataSource | None:
        """Return where the rows come from; None until that is on record."""
        found = self.ask("source").fetchone()
        return DataSource(*found) if found else None

    def record_source(self, source: DataSource) -> None:
        """Record where the rows come from, unless that is on record."""
        self.ask("record_source", (source.kind, source.base_url))

    def replace_source(self, source: DataSource) -> None:
        """Record where the rows come from, whatever was on record."""
        self.ask("replace_source", (source.kind, source.base_url))

    # --- checkpoints and rows ---

    def load(self, stream: Stream) -> Checkpoint:
        """Return a stream's checkpoint: its snapshot, and the entries since."""
        stored = self.ask("checkpoint", (stream.key,)).fetchone()
        checkpoint = rows.checkpoint(stored[0]) if stored else Checkpoint(stream)
        tail = self.ask("entries_since", (stream.key, checkpoint.version))
        return fold((rows.entry(columns, self.codec) for columns in tail), checkpoint)

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoint of every stream, ordered by stream."""
        return [rows.checkpoint(state) for (state,) in self.ask("checkpoints")]

    def page_names(self) -> dict[str, str]:
        """Return the names of pages by id, as far as they are known."""
        return dict(self.ask("page_names"))

    def known(self, keys: Keys) -> Known:
        """Return what is stored under the keys."""
        stream = keys.stream
        self.stored_ids.observe(self.connection)
        conversation_ids = self.stored_ids.among(keys.conversations)
        found = map(rows.conversation_row, self._ask_of(conversation_ids, "known_conversations"))
        conversations = {row.conversation_id: row for row in found}
        page = stream.platform.value, stream.page_id
        contacts = self._ask_of(self.stored_ids.among(keys.contacts), "known_contacts", *page)
        events = self._ask_of(self.stored_ids.among(keys.interaction_events), "known_interaction_events")
        unseen, missed, all_missed = self._known_of_sweep(keys)
        known = Known(
            conversations,
            {row.contact_id: row for row in map(rows.contact_row, contacts)},
            frozenset(event_id for (event_id,) in events),
            self._known_dead_letters(keys) if keys.subjects else {},
            self.forgotten_among(stream, keys.conversations, keys.contacts),
            unseen,
            missed,
            all_missed,
            self._count_stored(keys),
            *self._count_messages(keys),
            self._known_messages(keys, conversations),
            left_behind=self._left_behind(stream, [key for key in conversation_ids if key not in conversations]),
        )
        pages = pages_elsewhere(known, stream)
        return self._with_elsewhere(known, keys, pages) if pages or keys.locates_contacts else known

    def _ask_of(self, ids: Sequence[str], statement: str, *parameters: str) -> Iterable[tuple[Any, ...]]:
        return self.ask(statement, (*parameters, rows.json_list(ids))) if ids else ()

    def _left_behind(self, stream: Stream, without_row: Sequence[str]) -> dict[str, str]:
        """Return the conversations without a row whose messages stand under another page."""
        if not without_row:
            return {}
        page = stream_parameters(stream)
        return dict(self.ask("left_behind", page | {"conversations": rows.json_list(without_row)}).fetchall())

    def _with_elsewhere(self, known: Known, keys: Keys, pages: frozenset[str]) -> Known:
        """Add what is known of the other pages under which some of the conversations stand."""
        page = stream_parameters(keys.stream)
        moved_to = self.ask("moved_to", page).fetchall()
        wanted = page | {
            "contacts": rows.json_list(keys.contacts),
            "conversations": rows.json_list(keys.conversations),
        }
        of_contacts = self.ask("contact_pages", wanted) if keys.locates_contacts and moved_to else ()
        contact_pages = pages_by_contact(of_contacts)
        pages = pages.union(*contact_pages.values()) - {keys.stream.page_id}
        there = wanted | {"pages": rows.json_list(pages)}
        contacts = map(rows.contact_row, self.ask("contacts_elsewhere", there))
        return replace(
            known,
            owed_elsewhere=tuple(rows.gap(state) for (state,) in self.ask("owed_elsewhere", there)),
            left_out_elsewhere=rows.left_out(self.ask("checkpoints_elsewhere", there)),
            contacts_elsewhere={(row.page_id, row.contact_id): row for row in contacts},
            moved_to={page_id: datetime.fromisoformat(at) for page_id, at in moved_to},
            contact_pages=contact_pages,
        )

    def linked_pages(self, stream: Stream) -> tuple[str, ...]:
        """Return the page and those that rows have moved from or to."""
        return tuple(page_id for (page_id,) in self.ask("linked_pages", stream_parameters(stream)))

    def _known_dead_letters(self, keys: Keys) -> dict[str, KnownDeadLetter]:
        found = self.ask("known_dead_letters", (keys.stream.key, rows.json_list(keys.subjects)))
        oldest_first = sorted(found, key=lambda columns: columns[1:3])
        return {
            subject: KnownDeadLetter(dead_letter_id, fingerprint, bool(is_open))
            for subject, _, dead_letter_id, fingerprint, is_open in oldest_first
        }

    def _known_of_sweep(self, keys: Keys) -> tuple[int, frozenset[str], int]:
        """Return `unseen`, `missed` and `all_missed` of Known, which are about a full sweep."""
        if keys.full_sweep_at is None:
            return 0, frozenset(), 0
        sweep = (keys.stream.key, instant_text(keys.full_sweep_at))
        missed = self.ask("missed_among", (*sweep, rows.json_list(keys.conversations)))
        (all_missed,) = self.ask("count_missed", sweep).fetchone()
        unseen = 0
        if keys.stretch is not None:
            (unseen,) = self.ask("count_unseen", stretch_parameters(keys.stream, keys.stretch)).fetchone()
        return unseen, frozenset(conversation_id for (conversation_id,) in missed), all_missed

    def _count_stored(self, keys: Keys) -> int:
        if not keys.counts_stored:
            return 0
        (stored,) = self.ask("count_stored", stream_parameters(keys.stream)).fetchone()
        return int(stored)

    def _count_messages(self, keys: Keys) -> tuple[int, int]:
        """Return `stored_messages` and `stored_below` of Known."""
        if keys.counts_messages is None:
            return 0, 0
        stored, below = self.ask("count_messages", messages.span_parameters(keys.counts_messages)).fetchone()
        return stored, below

    def _known_messages(
        self, keys: Keys, conversations: Mapping[str, ConversationRow]
    ) -> dict[str, InteractionEventRow]:
        wanted = to_look_up(keys, conversations)
        if not wanted:
            return {}
        spans = [(each.conversation_id, instant_text(each.oldest_at), instant_text(each.newest_at)) for each in wanted]
        found = map(messages.interaction_event_row, self.ask("known_messages", (rows.json_list(spans),)))
        return {row.event_id: row for row in found}

    def conversations_after(self, conversation_id: str, limit: int) -> list[tuple[str, str, str]]:
        """Return the id, platform and page of up to `limit` conversations whose ids follow, in the order of the ids."""
        return self.ask("conversations_after", (conversation_id, limit)).fetchall()

    def count_rows(self, stream: Stream) -> StreamRows:
        """Count what is stored of a stream."""
        return StreamRows(*self.ask("count_stream_rows", stream_parameters(stream)).fetchone())

    # --- people who were erased ---

    def forgotten_among(
        self, stream: Stream, conversation_ids: Iterable[str], contact_ids: Iterable[str]
    ) -> frozenset[str]:
        """Return those of these conversations and contacts of a stream that were erased."""
        page = stream_parameters(stream)
        if self.ask("has_forgotten", page).fetchone() is None:  # as on most pages
            return frozenset()
        keys = {"conversations": rows.json_list(conversation_ids), "contacts": rows.json_list(contact_ids)}
        return frozenset(key for (key,) in self.ask("forgotten_among", page | keys))

    def is_about_forgotten(self, stream: Stream, subject: str, payload: str) -> bool:
        """Return whether a dead letter is about a contact or a conversation that was erased."""
        about = stream_parameters(stream) | {"subject": subject, "payload": payload}
        return self.ask("is_about_forgotten", about).fetchone() is not None

    # --- the journal ---

    def entry_at(self, stream: Stream, version: int) -> tuple[int, str] | None:
        """Return the seq and the hash of an entry, if there is one of this version."""
        found: tuple[int, str] | None = self.ask("entry_at", (stream.key, version)).fetchone()
        return found

    def entries(self, *, after: int, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Return up to `limit` entries with a seq greater than `after`, oldest first."""
        statement = "entries_after" if stream is None else "stream_entries_after"
        return self._entries(statement, {"stream": stream, "after": after, "limit": limit})

    def latest(self, *, limit: int, stream: str | None = None) -> list[StoredEntry]:
        """Return the newest `limit` entries, oldest first."""
        statement = "latest_entries" if stream is None else "latest_stream_entries"
        return self._entries(statement, {"stream": stream, "limit": limit})[::-1]

    def _entries(self, statement: str, parameters: Mapping[str, Any]) -> list[StoredEntry]:
        found = self.ask(statement, parameters)
        return [StoredEntry(columns[0], rows.entry(columns, self.codec)) for columns in found]

    def within_runs(self, versions: Mapping[Stream, int]) -> dict[Stream, Checkpoint]:
        """Return each stream's checkpoint just before the given version, folded from its latest run until then."""
        before: dict[Stream, Checkpoint] = {}
        for stream, version in versions.items():
            found = self.ask("entries_of_run_before", {"stream": stream.key, "version": version})
            before[stream] = fold((rows.entry(columns, self.codec) for columns in found), Checkpoint(stream))
        return before

    def seq_before(self, instant: datetime) -> int:
        """Return the seq of the last entry before an instant; 0 if there is none.

        Streams that commit together may differ by a moment, and a clock that was set back by more: then it is one of
        the seqs at which the instant was passed.
        """
        (last,) = self.ask("last_seq").fetchone()

        def recorded_at(seq: int) -> str:
            (at,) = self.ask("recorded_at", (seq,)).fetchone()
            return str(at)

        return bisect_left(range(1, last + 1), instant_text(instant), key=recorded_at)

    # --- runs and dead letters ---

    def runs(self, *, before: str | None = None, limit: int, stream: str | None = None) -> list[RunOf]:
        """Return up to `limit` runs, newest first, starting with the one that precedes the run `before`."""
        parameters = {"stream": stream, "before": AFTER_ALL if before is None else before, "limit": limit}
        statement = "runs_before" if stream is None else "stream_runs_before"
        return [rows.run(columns) for columns in self.ask(statement, parameters)]

    def find_dead_letter(self, dead_letter_id: str) -> DeadLetter | None:
        """Return a dead letter, without its payload."""
        columns = self.ask("dead_letter", (dead_letter_id,)).fetchone()
        return rows.dead_letter(columns) if columns else None

    def dead_letters(
        self, state: DeadLetterState, *, stream: str | None = None, after: str | None = None, limit: int
    ) -> list[DeadLetter]:
        """Return up to `limit` dead letters, oldest first, starting with the one that follows `after`."""
        statement = "dead_letters_after" if stream is None else "stream_dead_letters_after"
        parameters = {**state.parameters(), "stream": stream, "after": after or "", "limit": limit}
        return [rows.dead_letter(columns) for columns in self.ask(statement, parameters)]

    def due_dead_letters(self, stream: Stream, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
        """Return open dead letters whose redrive is due, or whose payload was erased; oldest first."""
        times = {"now": instant_text(now), "latest": instant_text(latest_redrive(now))}
        return rows.with_payloads(self.ask("due_dead_letters", {"stream": stream.key, "limit": limit, **times}))

    def due_facts(self, stream: Stream, limit: int) -> tuple[DueFact, ...]:
        """Return up to `limit` facts whose messages are stored, the earliest first."""
        found = self.ask("due_facts", stream_parameters(stream) | {"limit": limit})
        return tuple(map(messages.due_fact, found))

    def open_gaps(self, stream: Stream, limit: int) -> tuple[OpenGap, ...]:
        """Return up to `limit` open gaps: those between two sweeps before histories, the newest first."""
        found = self.ask("open_gaps", stream_parameters(stream) | {"limit": limit})
        return tuple(OpenGap(rows.gap(state), bool(forgotten), bool(moved)) for state, forgotten, moved in found)

    def gaps_at_limit(self, stream: Stream, later_than: datetime, limit: int) -> tuple[Gap, ...]:
        """Return up to `limit` histories that are at their limit and were read no further back than `later_than`."""
        parameters = {"stream": stream.key, "newer_than": instant_text(later_than), "limit": limit}
        found = self.ask("gaps_at_limit", parameters)
        return tuple(rows.gap(state) for (state,) in found)

    def search_threads(self, stream: Stream, after: datetime | None, limit: int) -> ThreadsSearched:
        """Search the next conversations of the stream, about `limit`, by `updated_time`; those at `after` were."""
        span = stream_parameters(stream) | {"newer_than": instant_text(after) if after else BEFORE_ALL}
        last = self.ask("search_until", span | {"offset": limit - 1}).fetchone()
        found = self.ask("search_threads", span | {"until": last[0] if last else AFTER_ALL})
        return rows.threads_searched(found, last)

    def dead_letters_with_payloads(self, dead_letter_ids: Iterable[str]) -> tuple[DueDeadLetter, ...]:
        """Return these dead letters, open or closed."""
        return rows.with_payloads(self.ask("dead_letters_with_payloads", (rows.json_list(dead_letter_ids),)))

    def threads(self, conversation_ids: Iterable[str]) -> dict[str, Thread]:
        """Return who those of these conversations are with that are stored, and where Meta shows them."""
        found = self.ask("threads", (rows.json_list(conversation_ids),))
        return {conversation_id: Thread(*columns) for conversation_id, *columns in found}


def stretch_parameters(stream: Stream, stretch: Stretch) -> dict[str, str]:
    """Return the parameters of the statements that look through a stretch of the inbox."""
    return stream_parameters(stream) | {
        "sweep_started_at": instant_text(stretch.sweep_started_at),
        "newer_than": instant_text(stretch.newer_than) if stretch.newer_than else BEFORE_ALL,
        "older_than": instant_text(stretch.older_than) if stretch.older_than else AFTER_ALL,
        "seen": rows.json_list(stretch.seen),
    }
