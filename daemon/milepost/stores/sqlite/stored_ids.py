"""Which ids may be stored: known without a look at the tables, if the database was empty when it was opened.

A first copy asks of every batch what is stored of it, and nearly always that is nothing. To find nothing in the indexes
takes a tenth of its processor time.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Self

from milepost.core.model import Changes

# A byte each. After 300,000 ids, which are 100,000 conversations, 13 % of the ids that were never stored share their
# slot with one that was, and are looked up in vain.
SLOTS = 2**21
LAST_SLOT = SLOTS - 1


class StoredIds:
    """The ids of all rows that are stored or were, and of a few others. Used in the connection's thread only."""

    def __init__(self) -> None:
        """Know nothing: every id may be stored."""
        self._slots: bytearray | None = None
        self._others: int | None = None

    @classmethod
    def of(cls, connection: sqlite3.Connection, sql: Mapping[str, str]) -> Self:
        """Return what is known of the rows of a database that was just opened: that there are none, or nothing."""
        stored_ids = cls()
        stored_ids._others = _commits_of_others(connection)  # first: what is committed from now on is noticed
        (holds_rows,) = connection.execute(sql["holds_rows"]).fetchone()
        if not holds_rows:
            stored_ids._slots = bytearray(SLOTS)
        return stored_ids

    def observe(self, connection: sqlite3.Connection) -> None:
        """Know nothing any more if another connection has committed, say of somebody who mends rows by hand."""
        if self._slots is not None and _commits_of_others(connection) != self._others:
            self._slots = None

    def add(self, changes: Changes) -> None:
        """Take in the ids of rows that are about to be stored."""
        if self._slots is not None:
            _mark(self._slots, (row.conversation_id for row in changes.conversations))
            _mark(self._slots, (row.contact_id for row in changes.contacts))
            _mark(self._slots, (row.event_id for row in changes.interaction_events))
            _mark(self._slots, {row.conversation_id for row in changes.interaction_events})

    def among(self, ids: Iterable[str]) -> list[str]:
        """Return those of these ids that may be stored. The others surely are not."""
        slots = self._slots
        return list(ids) if slots is None else [each for each in ids if slots[hash(each) & LAST_SLOT]]


def _mark(slots: bytearray, ids: Iterable[str]) -> None:
    for each in ids:
        slots[hash(each) & LAST_SLOT] = 1


def _commits_of_others(connection: sqlite3.Connection) -> int:
    """Return a number that is another one once another connection has committed."""
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)
