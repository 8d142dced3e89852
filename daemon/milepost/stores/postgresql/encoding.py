"""How values go into PostgreSQL: many rows as one JSON array, and lists of keys; with any number, one parameter each.

A text can be anything but the NUL character and half of a surrogate pair.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg.adapt import Dumper

from milepost.core.events import Entry
from milepost.core.journal import instant_text

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

_encode = msgspec.json.Encoder().encode


class Texts(list[str]):
    """A parameter of the type text[]: keys that a row can have."""


class _TextsDumper(Dumper):
    """Writes an array at once. psycopg writes element by element: for the keys of a batch, twenty times as long."""

    oid = psycopg.postgres.types["text"].array_oid

    def dump(self, obj: Texts) -> bytes:
        """Return the array as PostgreSQL reads it; its elements hold no NUL, which separates them meanwhile."""
        if not obj:
            return b"{}"
        escaped = "\0".join(obj).replace("\\", "\\\\").replace('"', '\\"')
        return ('{"' + escaped.replace("\0", '","') + '"}').encode()


psycopg.adapters.register_dumper(Texts, _TextsDumper)


def searchable(keys: Iterable[str]) -> Texts:
    """Return those of the keys that a row can have."""
    return Texts(key for key in keys if "\0" not in key and _is_utf8(key))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(text: str) -> str:
    """Return a text with U+FFFD for NUL. For words about rows; a row itself is refused."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


def storable_row(columns: Iterable[Any]) -> tuple[Any, ...]:
    """Return columns whose texts are storable."""
    return tuple(storable(value) if isinstance(value, str) else value for value in columns)


def array_text(values: Iterable[int]) -> str:
    """Return numbers or booleans as the text of an array, whose type the statement names."""
    return f"{{{','.join(map(str, values))}}}"


def json_rows(offered: object) -> str:
    """Return rows as the JSON array that `json_to_recordset` reads. Raises UnicodeEncodeError, OverflowError."""
    return _encode(offered).decode()


def json_projection(table: str, projected: Iterable[tuple[Any, ...]]) -> str:
    """Return rows of a projection as JSON. Where a key comes twice, its last row counts: a statement writes it once."""
    names, key_size = COLUMNS[table], 2 if table == "page" else 1
    latest = {columns[:key_size]: columns for columns in projected}
    return json_rows([dict(zip(names, storable_row(latest[key]), strict=True)) for key in sorted(latest)])


def json_entries(entries: Sequence[Entry]) -> str:
    """Return journal entries as JSON, in their order."""
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
