"""Both stores have one shape: the same modules and named statements, and sessions with the same methods."""

import inspect
import pkgutil
import re
from types import ModuleType
from typing import Any

import pytest

from milepost.stores import postgresql, sqlite
from milepost.stores.postgresql.commit import PostgresqlWriter
from milepost.stores.reader import Session, load_statements
from milepost.stores.sqlite.commit import SqliteWriter

# Lookups cost PostgreSQL a round trip for each statement, so it has only two for a batch. SQLite has no round trips.
ONLY_IN_SQLITE = {
    "known_conversations",
    "known_contacts",
    "known_interaction_events",
    "known_dead_letters",
    "left_behind",
    "has_forgotten",
    "conversation_states",
    "count_unseen",
    "missed_among",
    "count_missed",
    "holds_rows",  # who fills an empty database knows what is in it; PostgreSQL has several workers
}
ONLY_IN_POSTGRESQL = {
    "known": "see above",
    "known_of_sweep": "see above",
    "before_commit": "see above",
    "moment": "SQLite's statements are waited for one by one, so that the client's clock will do",
    "settings": "SQLite's pragmas are those of the connection, not of a transaction",
    "lock_streams": "SQLite has one writer at a time, who holds the whole file",
    "lock_journal": "likewise",
    "lock_commits": "likewise",
    "lock_webhook_events": "likewise",
    "announce": "SQLite has no other worker to notify",
    "unfinished_copy": "SQLite's is read before the database is opened, by sqlite/migrate.py",
}
# PostgreSQL's statements for a group are pipelined, so everything that they depend on is read before (`prepare`).
ONLY_METHODS_OF_POSTGRESQL = {"prepare"}

MODULES_ONLY_OF_SQLITE = {
    "files": "a server keeps them",
}
MODULES_ONLY_OF_POSTGRESQL = {
    "encoding": "SQLite takes rows as they are, commit by commit, and lists of keys as JSON",
    "liveness": "SQLite answers in this process",
    "rights": "a file has permissions: see sqlite/files.py",
}

PARTS = ("statements", "webhooks", "copy")


def modules_of(store: ModuleType) -> set[str]:
    return {module.name for module in pkgutil.iter_modules(store.__path__)}


def test_each_shared_task_has_the_same_module_in_both_stores() -> None:
    assert modules_of(sqlite) - modules_of(postgresql) == MODULES_ONLY_OF_SQLITE.keys()
    assert modules_of(postgresql) - modules_of(sqlite) == MODULES_ONLY_OF_POSTGRESQL.keys()


def test_each_statement_has_its_counterpart() -> None:
    sqlite, postgresql = load_statements("sqlite").keys(), load_statements("postgresql").keys()

    assert sqlite - postgresql == ONLY_IN_SQLITE
    assert postgresql - sqlite == ONLY_IN_POSTGRESQL.keys()


WRITES_ROWS = re.compile(r"\b(INSERT INTO|UPDATE) (contacts|conversations|contact_interaction_events)\b")


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_each_statement_that_writes_rows_names_the_version_that_changes_them(store: str) -> None:
    """A trigger numbers what it changes, but knows no version; in SQLite, new rows take their numbers themselves."""
    writing = {name: text for part in PARTS for name, text in load_statements(store, part).items()}
    writing = {name: text for name, text in writing.items() if WRITES_ROWS.search(text)}

    assert len(writing) >= 9
    assert [name for name, text in writing.items() if "version" not in text] == []
    inserting = {name: text for name, text in writing.items() if "INSERT INTO" in text and store == "sqlite"}
    assert [name for name, text in inserting.items() if "change_seq" not in text] == []


def test_changes_are_read_by_the_same_statements() -> None:
    sqlite, postgresql = load_statements("sqlite", "changes").keys(), load_statements("postgresql", "changes").keys()

    assert sqlite - postgresql == set()
    assert postgresql - sqlite == {"last_number", "numbers_in_use"}, "SQLite has one writer at a time"


def methods_of(session: type) -> dict[str, list[str]]:
    """Return the names of the public methods that each store implements itself, with those of their parameters."""
    members: list[tuple[str, Any]] = inspect.getmembers(session, inspect.isfunction)
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in members
        if not name.startswith("_") and name != "ask" and not hasattr(Session, name)
    }


def test_the_sessions_of_both_stores_have_the_same_methods_with_the_same_parameters() -> None:
    sqlite, postgresql = methods_of(SqliteWriter), methods_of(PostgresqlWriter)

    assert postgresql.keys() - sqlite.keys() == ONLY_METHODS_OF_POSTGRESQL
    assert sqlite == {name: parameters for name, parameters in postgresql.items() if name in sqlite}


def test_webhook_events_have_the_same_statements() -> None:
    sqlite, postgresql = load_statements("sqlite", "webhooks").keys(), load_statements("postgresql", "webhooks").keys()

    assert sqlite - postgresql == {"add_webhook_event"}, "SQLite has no round trips: it adds one by one"
    assert postgresql - sqlite == {"add_webhook_events", "await_erasures"}


def test_deliveries_have_the_same_statements() -> None:
    parts = (load_statements(kind, "deliveries").keys() for kind in ("sqlite", "postgresql"))
    sqlite, postgresql = parts

    assert sqlite - postgresql == set()
    assert postgresql - sqlite == {"hold_delivery", "release_deliveries"}, "SQLite has one process, and no other worker"
