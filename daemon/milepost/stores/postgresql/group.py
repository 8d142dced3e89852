"""A group of commits to write to PostgreSQL: what was read for each, and their rows as parameters."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import DeadLetter
from milepost.core.journal import since_removal
from milepost.core.model import Changes, PageRow, Stream
from milepost.core.ports import Commit
from milepost.stores.postgresql.encoding import array_text, columns_text
from milepost.stores.rows import is_history


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
                and not each.changes.moved
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
