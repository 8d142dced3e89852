"""A group of commits on its way into the tables of PostgreSQL: what was read for each, and its rows as parameters."""

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
    """A commit, and what had to be read before it can be written: in the same transaction, whose locks are held."""

    commit: Commit
    changes: Changes
    dead_letters: tuple[DeadLetter, ...]
    payloads: tuple[tuple[str, str], ...]

    @property
    def is_removal(self) -> bool:
        """Whether the stream is removed, with all that was stored of it before."""
        return len(since_removal(self.commit.entries)) < len(self.commit.entries)

    @property
    def stream(self) -> Stream:
        """The stream that the commit is about."""
        return self.commit.checkpoint.stream


Offered = Sequence[tuple[Any, Prepared]]
"""Rows of one table, each with the commit that brings it."""


def parts(group: Sequence[Prepared]) -> Sequence[Sequence[Prepared]]:
    """Return the parts of a group that are written one after the other, each with one statement for a table.

    What a commit does besides writing rows may depend on the rows of those before it.
    """
    return [group] if all(map(_only_writes, group)) else [[each] for each in group]


def _only_writes(each: Prepared) -> bool:
    changes = each.changes
    moves = each.is_removal or changes.moved or changes.own_id is not None
    judges = changes.found or changes.missed or changes.missed_are_deleted_at or changes.forgets_missed
    return not (moves or judges)


def pages_of(part: Iterable[Prepared]) -> Iterable[PageRow]:
    """Return the pages of commits that follow one another, each once: what a later one leaves open stays."""
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
    """Return the contacts that commits write, each as the last of them has it."""
    return {(row.platform, row.page_id, row.contact_id): (row, each) for each in part for row in each.changes.contacts}


def conversations_of(part: Iterable[Prepared]) -> Rows:
    """Return the conversations that commits write, each as the last of them has it."""
    return {row.conversation_id: (row, each) for each in part for row in each.changes.conversations}


def revised_of(group: Iterable[Prepared]) -> Rows:
    """Return the stored messages that commits change, each as the last of them has it."""
    return {row.event_id: (row, each) for each in group for row in each.changes.revised}


def interaction_events_of(group: Iterable[Prepared]) -> Offered:
    """Return the messages that commits bring, each as the first of them has it: a conversation may come twice."""
    found: dict[str, tuple[Any, Prepared]] = {}
    for each in group:
        for row in each.changes.interaction_events:
            found.setdefault(row.event_id, (row, each))
    return list(found.values())


def in_order(offered: Rows) -> Offered:
    """Return rows in the order of their keys, as every writer does: so two that meet do not deadlock."""
    return [offered[key] for key in sorted(offered)]


def versioned(offered: Offered) -> dict[str, str]:
    """Return rows as parameters of the statement that writes them, with the version that each row's commit leads to."""
    versions = array_text(each.commit.checkpoint.version for _, each in offered)
    return columns_text([row for row, _ in offered]) | {"versions": versions}


def with_history(offered: Offered) -> dict[str, str]:
    """Return messages as `versioned` does, with whether each is history."""
    history = array_text(is_history(row, each.changes.news_after) for row, each in offered)
    return versioned(offered) | {"history": history}


class RowTable(Struct, frozen=True):
    """A table of rows: the statement that writes them, with which parameters, and where a key is if a row is stored."""

    upsert: str
    key: str
    known: str
    parameters: Callable[[Offered], dict[str, str]] = versioned

    @property
    def insert(self) -> str:
        """The statement that inserts new rows: `upsert`, but for the look for a conflict, a sixth of its time."""
        return f"{self.upsert}, all new"

    def parted(self, offered: Offered) -> tuple[Offered, Offered]:
        """Return the rows that are new as far as their commits know, and the others."""
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
    """Return statements together with those that insert new rows."""
    tables = (CONTACTS, CONVERSATIONS, INTERACTION_EVENTS)
    return {**sql, **{table.insert: sql[table.upsert].partition("\nON CONFLICT")[0] for table in tables}}
