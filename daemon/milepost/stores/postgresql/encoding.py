"""Encodes values for PostgreSQL: rows as one array for each column or as one JSON array, lists of keys as arrays.

PostgreSQL stores any text that holds no NUL character and no unpaired surrogate.
"""

import re
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import psycopg
from psycopg.adapt import Dumper
from psycopg.errors import UntranslatableCharacter

from milepost.core.events import Entry
from milepost.stores.rows import entry_tuple

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
