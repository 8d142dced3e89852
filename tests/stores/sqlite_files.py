"""SQLite databases as anybody finds them on the disk: read, dumped and tampered with beside the store."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from contracts.store_contract import JournalRow, Tables
from milepost.core.checkpoint import Checkpoint
from milepost.core.model import InteractionEventRow
from milepost.stores import rows

PROJECTIONS = ("checkpoints", "runs", "dead_letters")
DROP_TRIGGERS = "".join(f"DROP TRIGGER journal_refuses_{what};" for what in ("gaps", "update", "delete"))


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Connect as the sqlite3 shell would: each statement a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def execute(path: Path, script: str) -> None:
    with raw(path) as connection:
        connection.executescript(script)


def rows_of(path: Path, query: str) -> list[tuple[Any, ...]]:
    with raw(path) as connection:
        return connection.execute(query).fetchall()


def names_in(directory: Path) -> set[str]:
    return {each.name for each in directory.iterdir()}


def projections(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Dump the projections, each table in the order of its key."""
    return {table: rows_of(path, f"SELECT * FROM {table} ORDER BY 1") for table in PROJECTIONS}


def tables_of(path: Path) -> Tables:
    """Read everything in a database."""
    contacts = [rows.contact_row(each) for each in rows_of(path, "SELECT * FROM contacts")]
    conversations = [rows.conversation_row(each) for each in rows_of(path, "SELECT * FROM conversations")]
    events = [_interaction_event(each) for each in rows_of(path, "SELECT * FROM contact_interaction_events")]
    letters = [rows.dead_letter(each) for each in rows_of(path, "SELECT * FROM dead_letters")]
    states = rows_of(path, "SELECT stream, state FROM checkpoints")
    return Tables(
        tuple(JournalRow(*each) for each in rows_of(path, "SELECT * FROM journal ORDER BY seq")),
        {key: msgspec.json.decode(state, type=Checkpoint) for key, state in states},
        {each[0]: rows.run(each).run for each in rows_of(path, "SELECT * FROM runs")},
        {row.conversation_id: row for row in conversations},
        {(row.platform, row.page_id, row.contact_id): row for row in contacts},
        {row.event_id: row for row in events},
        {letter.dead_letter_id: letter for letter in letters},
        dict(rows_of(path, "SELECT dead_letter_id, payload FROM dead_letter_payloads")),
    )


def _interaction_event(columns: tuple[Any, ...]) -> InteractionEventRow:
    event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, at = columns
    at = datetime.fromisoformat(at)
    return InteractionEventRow(
        event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, attachments, at
    )
