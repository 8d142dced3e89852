"""Access to databases of either kind beside the store, as with other programs: reading, dumping, tampering."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest

from contracts.store_contract import JournalRow, Tables
from kit.postgres import Database
from milepost.core.model import InteractionEventRow, PageRow, Table
from milepost.stores import rows
from milepost.stores.url import StoreUrl
from stores.sqlite_files import DROP_TRIGGERS, execute, raw

PROJECTIONS = ("checkpoints", "runs", "dead_letters", "message_backlog")

KEYS = {
    Table.CONVERSATIONS: "conversation_id",
    Table.CONTACTS: "contact_id",
    Table.INTERACTION_EVENTS: "event_id",
}
RAISE_IN_SQLITE = "BEGIN SELECT RAISE(ABORT, 'not this one'); END"
# The message of a user's own trigger must not be shown anywhere.
REFUSE_IN_POSTGRESQL = """
CREATE FUNCTION refuses_{key}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'not this one: %', new USING ERRCODE = 'check_violation';
END
$$;
CREATE TRIGGER refuses_{key} BEFORE INSERT ON {table} FOR EACH ROW WHEN (new.{column} = '{key}')
EXECUTE FUNCTION refuses_{key}();
"""

Kind = Literal["sqlite", "postgresql"]
IN_SQLITE = pytest.mark.parametrize("kept", ["sqlite"], indirect=True)
IN_POSTGRESQL = pytest.mark.parametrize("kept", ["postgresql"], indirect=True)
Rows = list[tuple[Any, ...]]
Ask = Callable[[str], Rows]


class StoreDump(ABC):
    """A database and its content. Instants are texts, and so is JSON."""

    kind: Kind

    def __init__(self, store_url: StoreUrl) -> None:
        self.store_url = store_url

    @abstractmethod
    def execute(self, statements: str) -> None:
        """Run statements beside the store."""

    @abstractmethod
    def asking(self) -> AbstractContextManager[Ask]:
        """Run a query beside the store, repeatedly."""

    @abstractmethod
    def unguard(self) -> None:
        """Allow changes of the journal."""

    @abstractmethod
    def refuse(self, table: Table, key: str) -> None:
        """Refuse a row from now on: `not this one`."""

    @abstractmethod
    def refuse_deletes(self, table: str) -> None:
        """Refuse to delete rows of a table from now on: `not this one`."""

    @abstractmethod
    def columns(self, table: str, *, only_nullable: bool) -> dict[str, str]:
        """Name the columns of a table, each with a value that it is unlikely to hold, as SQL."""

    def rows(self, query: str) -> Rows:
        """Run a query beside the store."""
        with self.asking() as ask:
            return ask(query)

    def projections(self) -> dict[str, Rows]:
        """Dump the projections, each table in the order of its key."""
        with self.asking() as ask:
            return {table: ask(f"SELECT * FROM {table} ORDER BY 1") for table in PROJECTIONS}

    def tables(self) -> Tables:
        """Read everything."""
        with self.asking() as ask:
            contacts = [rows.contact_row(each[:8]) for each in ask("SELECT * FROM contacts")]
            conversations = [rows.conversation_row(each[:14]) for each in ask("SELECT * FROM conversations")]
            events = [_interaction_event(each[:15]) for each in ask("SELECT * FROM contact_interaction_events")]
            dead_letters = [rows.dead_letter(each) for each in ask("SELECT * FROM dead_letters")]
            states = ask("SELECT stream, state FROM checkpoints")
            return Tables(
                tuple(JournalRow(*each) for each in ask("SELECT * FROM journal ORDER BY seq")),
                {key: rows.checkpoint(state) for key, state in states},
                {each[0]: rows.run(each).run for each in ask("SELECT * FROM runs")},
                {row.conversation_id: row for row in conversations},
                {(row.platform, row.page_id, row.contact_id): row for row in contacts},
                {row.event_id: row for row in events},
                {dead_letter.dead_letter_id: dead_letter for dead_letter in dead_letters},
                dict(ask("SELECT dead_letter_id, payload FROM dead_letter_payloads")),
                {each[:2]: _page(each) for each in ask("SELECT * FROM pages")},
            )


class SqliteDump(StoreDump):
    """A SQLite database."""

    kind: Kind = "sqlite"

    def __init__(self, path: Path) -> None:
        super().__init__(StoreUrl(f"sqlite:///{path}"))
        self.path = path

    def execute(self, statements: str) -> None:
        execute(self.path, statements)

    @contextmanager
    def asking(self) -> Iterator[Ask]:
        with raw(self.path) as connection:
            yield lambda query: connection.execute(query).fetchall()

    def unguard(self) -> None:
        self.execute(DROP_TRIGGERS)

    def refuse(self, table: Table, key: str) -> None:
        condition = f"WHEN new.{KEYS[table]} = '{key}'"
        self.execute(f"CREATE TRIGGER refuses_{key} BEFORE INSERT ON {table} {condition} {RAISE_IN_SQLITE}")

    def refuse_deletes(self, table: str) -> None:
        self.execute(f"CREATE TRIGGER refuses BEFORE DELETE ON {table} {RAISE_IN_SQLITE}")

    def columns(self, table: str, *, only_nullable: bool) -> dict[str, str]:
        found = self.rows(f"PRAGMA table_info({table})")
        return {name: "7" for _, name, _, is_not_null, _, _ in found if not (only_nullable and is_not_null)}


class PostgresDump(StoreDump):
    """A PostgreSQL database."""

    kind: Kind = "postgresql"

    def __init__(self, database: Database, store_url: StoreUrl | None = None) -> None:
        super().__init__(store_url or database.store_url)
        self.database = database

    def execute(self, statements: str) -> None:
        self.database.sql(statements)

    @contextmanager
    def asking(self) -> Iterator[Ask]:
        with self.database.connect() as connection:
            yield lambda query: connection.execute(query.encode()).fetchall()

    def unguard(self) -> None:
        self.execute("ALTER TABLE journal DISABLE TRIGGER USER")

    def refuse(self, table: Table, key: str) -> None:
        self.execute(REFUSE_IN_POSTGRESQL.format(table=table, key=key, column=KEYS[table]))

    def refuse_deletes(self, table: str) -> None:
        self.execute(
            "CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'not this one' USING ERRCODE = 'restrict_violation'; END $$;"
            f"CREATE TRIGGER refuses BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuses()"
        )

    def columns(self, table: str, *, only_nullable: bool) -> dict[str, str]:
        found = self.rows(
            "SELECT column_name, is_nullable = 'YES', data_type LIKE 'timestamp%' FROM information_schema.columns "
            f"WHERE table_schema = 'milepost' AND table_name = '{table}'"
        )
        return {
            name: "'2001-01-01'" if is_instant else "'7'"
            for name, is_nullable, is_instant in found
            if is_nullable or not only_nullable
        }


def _interaction_event(columns: tuple[Any, ...]) -> InteractionEventRow:
    *texts, occurred_at, edited_at, deleted_at, reactions, referral, content_at = columns
    *times, as_of = (
        None if text is None else datetime.fromisoformat(text)
        for text in (occurred_at, edited_at, deleted_at, content_at)
    )
    values: tuple[Any, ...] = (*texts, *times, reactions, referral, as_of)
    return InteractionEventRow(*values)


def _page(columns: tuple[Any, ...]) -> PageRow:
    platform, page_id, name, username, first_seen_at, last_seen_at = columns
    seen = (datetime.fromisoformat(first_seen_at), datetime.fromisoformat(last_seen_at))
    return PageRow(platform, page_id, name, username, *seen)
