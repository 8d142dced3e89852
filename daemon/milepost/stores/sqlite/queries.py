"""The queries of a SQLite store over its connection: those of stores/reader.py, and those that differ for SQLite."""

import sqlite3
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

from milepost.core.journal import instant_text
from milepost.core.model import Changes, ConversationRow, InteractionEventRow, Keys, Known, KnownDeadLetter, Stream
from milepost.core.revisions import read_before, to_look_up
from milepost.stores import rows
from milepost.stores.reader import Dialect, Parameters, Session, span_parameters, stream_parameters

Answer = TypeVar("Answer")

# `before_all` and `after_all` sort before and after every instant as text.
DIALECT = Dialect(rows.json_list, str, before_all="", after_all="~")

# A bit for each of 2**24 hashes. After 2,200,000 ids, which is 100,000 conversations with 20 messages each, 12 % of the
# ids that were never stored share a bit with a stored one, and are looked up in vain.
FILTER_BYTES = 2**21
LAST_BYTE = FILTER_BYTES - 1


def at_once(question: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a session's coroutine to its end at once: nothing fetched over the session's connection waits."""
    try:
        question.send(None)
    except StopIteration as answered:
        answer: Answer = answered.value
        return answer
    raise AssertionError(f"{question} waits for something")


class SqliteSession(Session):
    """A session in the thread of its connection; see `at_once` for its coroutines."""

    def __init__(
        self,
        sql: Mapping[str, str],
        connection: sqlite3.Connection,
        stored_ids: "StoredIds | None" = None,
    ) -> None:
        super().__init__(self._fetch, DIALECT)
        self.sql = sql
        self.connection = connection
        self.stored_ids = stored_ids or StoredIds()

    def ask(self, statement: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Run a named statement."""
        return self.connection.execute(self.sql[statement], parameters)

    async def _fetch(self, statement: str, parameters: Parameters = ()) -> list[Any]:
        """Run a named statement and return its rows, without waiting."""
        return self.ask(statement, parameters).fetchall()

    def known(self, keys: Keys) -> Known:
        """Return what is stored under the keys."""
        stream = keys.stream
        self.stored_ids.observe(self.connection)
        conversation_ids = self.stored_ids.among(keys.conversations)
        found = map(rows.conversation_row, self._ask_of(conversation_ids, "known_conversations"))
        conversations = {row.conversation_id: row for row in found}
        page = stream.platform.value, stream.page_id
        contacts = self._ask_of(self.stored_ids.among(keys.contacts), "known_contacts", *page)
        read = read_before(keys, conversations)
        others = [each for each in keys.interaction_events if each not in read]
        events = self._ask_of(self.stored_ids.among(others), "known_interaction_events")
        unseen, missed, all_missed = self._known_of_sweep(keys)
        known = Known(
            conversations,
            {row.contact_id: row for row in map(rows.contact_row, contacts)},
            read.union([event_id for (event_id,) in events]),
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
        return at_once(self.with_elsewhere(known, keys))

    def _ask_of(self, ids: Sequence[str], statement: str, *parameters: str) -> Iterable[tuple[Any, ...]]:
        return self.ask(statement, (rows.json_list(ids), *parameters)) if ids else ()

    def _left_behind(self, stream: Stream, without_row: Sequence[str]) -> dict[str, str]:
        """Return those of the conversations `without_row` whose messages are stored under another page."""
        if not without_row:
            return {}
        page = stream_parameters(stream)
        return dict(self.ask("left_behind", page | {"conversations": rows.json_list(without_row)}).fetchall())

    def _known_dead_letters(self, keys: Keys) -> dict[str, KnownDeadLetter]:
        found = self.ask("known_dead_letters", (keys.stream.key, rows.json_list(keys.subjects)))
        oldest_first = sorted(found, key=lambda columns: columns[1:3])
        return {
            subject: KnownDeadLetter(dead_letter_id, fingerprint, rows.instant(opened_at), bool(is_open), payload)
            for subject, opened_at, dead_letter_id, fingerprint, is_open, payload in oldest_first
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
            (unseen,) = self.ask("count_unseen", DIALECT.stretch_parameters(keys.stream, keys.stretch)).fetchone()
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
        stored, below = self.ask("count_messages", span_parameters(keys.counts_messages)).fetchone()
        return stored, below

    def _known_messages(
        self, keys: Keys, conversations: Mapping[str, ConversationRow]
    ) -> dict[str, InteractionEventRow]:
        wanted = to_look_up(keys, conversations)
        if not wanted:
            return {}
        spans = [(each.conversation_id, instant_text(each.oldest_at), instant_text(each.newest_at)) for each in wanted]
        found = map(rows.interaction_event_row, self.ask("known_messages", (rows.json_list(spans),)))
        return {row.event_id: row for row in found}

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


class StoredIds:
    """A filter of the ids of all rows ever stored, with some false positives. Used in the connection's thread only.

    It works if the database was empty when it was opened, and saves looking into the tables. A first copy asks for the
    stored rows of every batch, and nearly always there are none: finding nothing in the indexes would take a tenth of
    its processor time.
    """

    def __init__(self) -> None:
        """Create an inactive filter: every id may be stored."""
        self._bits: bytearray | None = None
        self._others: int | None = None

    @classmethod
    def of(cls, connection: sqlite3.Connection, sql: Mapping[str, str]) -> Self:
        """Return a filter for a database that was just opened: active if the database holds no rows."""
        stored_ids = cls()
        stored_ids._others = _commits_of_others(connection)  # before the look at the rows, to miss no commit
        (holds_rows,) = connection.execute(sql["holds_rows"]).fetchone()
        if not holds_rows:
            stored_ids._bits = bytearray(FILTER_BYTES)
        return stored_ids

    def observe(self, connection: sqlite3.Connection) -> None:
        """Deactivate the filter if another connection has committed, as when somebody repairs rows by hand."""
        if self._bits is not None and _commits_of_others(connection) != self._others:
            self._bits = None

    def add(self, conversation_ids: Iterable[str], changes: Changes) -> None:
        """Add the ids of rows that are about to be stored, and of the conversations that they belong to."""
        if self._bits is not None:
            _mark(self._bits, conversation_ids)
            _mark(self._bits, [row.contact_id for row in changes.contacts])
            _mark(self._bits, [row.event_id for row in changes.interaction_events])

    def among(self, ids: Iterable[str]) -> list[str]:
        """Return the ids that may be stored. The others certainly are not."""
        bits = self._bits
        if bits is None:
            return list(ids)
        return [each for each in ids if bits[(hashed := hash(each)) >> 3 & LAST_BYTE] >> (hashed & 7) & 1]


def _mark(bits: bytearray, ids: Iterable[str]) -> None:
    for each in ids:
        hashed = hash(each)
        bits[hashed >> 3 & LAST_BYTE] |= 1 << (hashed & 7)


def _commits_of_others(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection commits."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)
