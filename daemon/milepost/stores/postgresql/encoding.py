"""Encodes the rows of a group of commits for PostgreSQL: as one array for each column or as one JSON array.

Lists of keys are arrays as well. PostgreSQL stores any text that holds no NUL character and no unpaired surrogate.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import psycopg
from msgspec import Struct
from msgspec.structs import replace
from psycopg.adapt import Dumper
from psycopg.errors import UntranslatableCharacter

from milepost.core.checkpoint import DeadLetter
from milepost.core.events import Entry
from milepost.core.journal import since_removal
from milepost.core.model import Changes, PageRow, Stream
from milepost.core.ports import Commit
from milepost.stores.rows import entry_tuple, is_history

# The columns of each projection, in the order of its tuples in stores/rows.py.
COLUMNS = {
    "page": ("platform", "page_id", "name", "username", "first_seen_at", "last_seen_at"),
    "checkpoint": (
        *("stream", "version", "hash", "mode", "phase", "cursor", "watermark", "last_success_at"),
        *("last_full_sweep_at", "open_dead_letters", "updated_at", "state"),
    ),
    "run": (
        *("run_id", "stream", "mode", "status", "reason", "started_at", "ended_at", "batches", "inserted", "updated"),
        *("unchanged", "dead_lettered", "contacts", "interaction_events", "retries", "failed_batches", "problem"),
    ),
    "dead_letter": (
        *("dead_letter_id", "stream", "stage", "subject", "reason", "opened_at", "attempts", "redrive_at"),
        *("closed_at", "resolution", "note", "fingerprint"),
    ),
    "payload": ("dead_letter_id", "payload"),
    "gap": (
        *("gap_id", "stream", "conversation_id", "queue", "owed_since", "newest_at", "reached_at", "stored"),
        *("attempts", "retry_at", "state"),
    ),
}

ENTRY_COLUMNS = ("stream", "version", "run_id", "recorded_at", "type", "data", "hash")
_ESCAPED = re.compile(r"\\(?:u[0-9a-f]{4}|[bfnrt])")
_encode = msgspec.json.Encoder().encode


class Texts(list[str]):
    """A parameter of type text[] with keys that a row can have."""


class _TextsDumper(Dumper):
    """Writes an array in one go. psycopg writes it element by element, which takes twenty times as long for a batch."""

    oid = psycopg.postgres.types["text"].array_oid

    def dump(self, obj: Texts) -> bytes:
        """Return the array as PostgreSQL reads it. Elements hold no NUL, so NUL can separate them for escaping."""
        if not obj:
            return b"{}"
        escaped = "\0".join(obj).replace("\\", "\\\\").replace('"', '\\"')
        return ('{"' + escaped.replace("\0", '","') + '"}').encode()


psycopg.adapters.register_dumper(Texts, _TextsDumper)


def searchable(keys: Iterable[str]) -> Texts:
    """Return the keys that a stored row can have."""
    texts = Texts(keys)
    return texts if _is_storable("".join(texts)) else Texts(filter(_is_storable, texts))


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def storable(text: str) -> str:
    """Return a text with U+FFFD for NUL. For texts about rows only: a row with a NUL is refused."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


def storable_row(columns: Iterable[Any]) -> tuple[Any, ...]:
    """Return columns with their texts made storable."""
    return tuple(storable(value) if isinstance(value, str) else value for value in columns)


def array_text(values: Iterable[int]) -> str:
    """Return numbers or booleans as the text of an array; the statement casts it to a type."""
    return f"{{{','.join(map(str, values))}}}"


def columns_text(offered: Sequence[Any]) -> dict[str, str]:
    """Return rows as parameters, one for each column: the text of an array.

    The server parses arrays faster than JSON. Raises as `json_rows` does, and UntranslatableCharacter for a NUL.
    """
    return {name: _array_of(list(map(attrgetter(name), offered))) for name in offered[0].__struct_fields__}


def _array_of(values: list[Any]) -> str:
    """Return values as the text of an array: a JSON array with other brackets and other escapes.

    In an array, a backslash makes the next character literal, whichever it is. In JSON it does so only before a
    quotation mark and another backslash.
    """
    text = _encode(values).decode()[1:-1]
    if text.count("\\") > text.count('\\"'):
        text = _ESCAPED.sub(_unescaped, text.replace("\\\\", "\0")).replace("\0", "\\\\")
    return f"{{{text}}}"


def _unescaped(escaped: re.Match[str]) -> str:
    character: str = msgspec.json.decode(f'"{escaped[0]}"')
    if character == "\0":
        raise UntranslatableCharacter
    return character


def json_rows(offered: object) -> str:
    """Return rows as a JSON array for `json_to_recordset`. Raises UnicodeEncodeError or OverflowError."""
    return _encode(offered).decode()


def json_projection(table: str, projected: Iterable[tuple[Any, ...]]) -> str:
    """Return rows of a projection as JSON, only the last one of each key: a statement may write a key only once."""
    names, key_size = COLUMNS[table], 2 if table == "page" else 1
    latest = {columns[:key_size]: columns for columns in projected}
    return json_rows([dict(zip(names, storable_row(latest[key]), strict=True)) for key in sorted(latest)])


def entries_text(entries: Sequence[Entry]) -> dict[str, str]:
    """Return journal entries as parameters, in their order; see `columns_text`."""
    columns = zip(*map(entry_tuple, entries), strict=True)
    return {name: _array_of(list(column)) for name, column in zip(ENTRY_COLUMNS, columns, strict=True)}


# --- groups of commits ------------------------------------------------------------------------------------------------

# What was read for each commit of a group, and the rows of all of them as parameters.


class Prepared(Struct, frozen=True):
    """A commit, and what was read for it in the same transaction, under its locks, before writing."""

    commit: Commit
    changes: Changes
    dead_letters: tuple[DeadLetter, ...]
    payloads: tuple[tuple[str, str], ...]

    @property
    def is_removal(self) -> bool:
        """Whether the commit removes the stream with all its rows."""
        return len(since_removal(self.commit.entries)) < len(self.commit.entries)

    @property
    def stream(self) -> Stream:
        """The stream of the commit."""
        return self.commit.checkpoint.stream


Offered = Sequence[tuple[Any, Prepared]]
"""Rows of one table, each with the commit that brings it."""


def parts(group: Sequence[Prepared]) -> Sequence[Sequence[Prepared]]:
    """Return the parts of a group to write one after the other, each with one statement for each table.

    A commit that does more than write rows may depend on the rows of earlier commits: then each is a part of its own.
    """
    return [group] if all(map(_only_writes, group)) else [[each] for each in group]


def _only_writes(each: Prepared) -> bool:
    changes = each.changes
    moves = each.is_removal or changes.moved or changes.own_id is not None
    judges = changes.found or changes.missed or changes.missed_are_deleted_at or changes.forgets_missed
    return not (moves or judges)


def pages_of(part: Iterable[Prepared]) -> Iterable[PageRow]:
    """Return the pages of successive commits, each once: later values win, except for missing ones."""
    pages: dict[tuple[str, str], PageRow] = {}
    for page in (each.changes.page for each in part if each.changes.page is not None):
        key = (page.platform, page.page_id)
        first = pages.get(key, page)
        name, username = page.name or first.name, page.username or first.username
        pages[key] = replace(page, name=name, username=username, first_seen_at=first.first_seen_at)
    return pages.values()


Rows = Mapping[Any, tuple[Any, Prepared]]
"""Rows of one table by key, each with the commit that brings it."""


def contacts_of(part: Iterable[Prepared]) -> Rows:
    """Return the contacts that commits write, each from the last commit that has it."""
    return {(row.platform, row.page_id, row.contact_id): (row, each) for each in part for row in each.changes.contacts}


def conversations_of(part: Iterable[Prepared]) -> Rows:
    """Return the conversations that commits write, each from the last commit that has it."""
    return {row.conversation_id: (row, each) for each in part for row in each.changes.conversations}


def revised_of(group: Iterable[Prepared]) -> Rows:
    """Return the stored messages that commits change, each from the last commit that has it."""
    return {row.event_id: (row, each) for each in group for row in each.changes.revised}


def interaction_events_of(group: Iterable[Prepared]) -> Offered:
    """Return the messages that commits bring, each from the first commit that has it: a conversation may come twice."""
    found: dict[str, tuple[Any, Prepared]] = {}
    for each in group:
        for row in each.changes.interaction_events:
            found.setdefault(row.event_id, (row, each))
    return list(found.values())


def in_order(offered: Rows) -> Offered:
    """Return rows in the order of their keys: as every writer uses it, two writers do not deadlock."""
    return [offered[key] for key in sorted(offered)]


def versioned(offered: Offered) -> dict[str, str]:
    """Return rows as parameters of the statement that writes them, each with the version of its commit."""
    versions = array_text(each.commit.checkpoint.version for _, each in offered)
    return columns_text([row for row, _ in offered]) | {"versions": versions}


def with_history(offered: Offered) -> dict[str, str]:
    """Return messages as `versioned` does, each with a flag that says whether it is history."""
    history = array_text(is_history(row, each.changes.news_after) for row, each in offered)
    return versioned(offered) | {"history": history}


class RowTable(Struct, frozen=True):
    """A table of rows: how to write them, its key column, and the field of Known that has the stored keys."""

    upsert: str
    key: str
    known: str
    parameters: Callable[[Offered], dict[str, str]] = versioned

    @property
    def insert(self) -> str:
        """The statement that inserts new rows: `upsert` without the search for conflicts, a sixth of its time."""
        return f"{self.upsert}, all new"

    def parted(self, offered: Offered) -> tuple[Offered, Offered]:
        """Return the rows that their commits take for new, and the other rows."""
        new: list[tuple[Any, Prepared]] = []
        others: list[tuple[Any, Prepared]] = []
        for row, each in offered:
            known = each.commit.known
            is_new = (
                known is not None
                and not (each.changes.moved or known.contacts_elsewhere)
                and getattr(row, self.key) not in getattr(known, self.known)
            )
            (new if is_new else others).append((row, each))
        return new, others


CONTACTS = RowTable("upsert_contacts", "contact_id", "contacts")
CONVERSATIONS = RowTable("upsert_conversations", "conversation_id", "conversations")
INTERACTION_EVENTS = RowTable("insert_interaction_events", "event_id", "interaction_events", with_history)


def with_inserts(sql: Mapping[str, str]) -> dict[str, str]:
    """Return the statements, and with them the derived ones that insert new rows."""
    tables = (CONTACTS, CONVERSATIONS, INTERACTION_EVENTS)
    return {**sql, **{table.insert: sql[table.upsert].partition("\nON CONFLICT")[0] for table in tables}}
