"""Databases of either kind, filled through their stores, and read and changed beside them."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from kit.builders import at
from kit.postgres import MIGRATED, Database, Server, fresh_database
from milepost.core.model import Changes, Stream
from milepost.stores.open import open_store
from milepost.stores.url import StoreUrl
from stores.histories import commit_after, contact_row, conversation_row, live, stream
from stores.store_dump import Kind, PostgresDump, SqliteDump, StoreDump

Everything = dict[str, list[tuple[Any, ...]]]

KEYS = {
    "journal": "seq",
    "pages": "platform, page_id",
    "contacts": "platform, page_id, contact_id",
    "conversations": "conversation_id",
    "contact_interaction_events": "event_id",
    "deleted_rows": "change_seq",
    "dead_letter_payloads": "dead_letter_id",
    "missed_conversations": "stream, conversation_id",
    "forgotten": "platform, page_id, kind, id",
    "page_moves": "platform, previous_page_id, page_id",
    "webhook_events": "event_key",
    "deliveries": "destination",
    "source": "place",
    "checkpoints": "stream",
    "runs": "run_id",
    "dead_letters": "dead_letter_id",
}
STREAMS = 2
COMMITS = 9
FILLED = "template_copied"


class AnyDatabase:
    """A database, empty at first."""

    def __init__(self, store_url: StoreUrl, database: Database | None = None) -> None:
        self.store_url = store_url
        self._database = database
        self._dump: StoreDump = SqliteDump(self.file) if database is None else PostgresDump(database, store_url)

    @property
    def kind(self) -> Kind:
        return self._dump.kind

    @property
    def file(self) -> Path:
        assert self.store_url.file is not None
        return self.store_url.file

    @property
    def database(self) -> Database:
        assert self._database is not None
        return self._database

    def execute(self, statement: str) -> None:
        """Run one statement that both databases understand."""
        self._dump.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows with instants as text, as SQLite has them."""
        return self._dump.rows(query)

    def everything(self) -> Everything:
        """Return all rows of all tables, in the order of their keys."""
        with self._dump.asking() as ask:
            return {table: sorted(ask(f"SELECT * FROM {table}"), key=str) for table in KEYS}

    def has_tables(self) -> bool:
        if self._database is None:
            return self.file.exists()
        return self.rows("SELECT tablename FROM pg_tables WHERE tablename = 'journal'") != []

    def mark(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT source FROM unfinished_copy")

    async def fill(self, commits: int = COMMITS) -> None:
        """Add commits of a few streams, and rows to every table."""
        async with open_store(self.store_url, synchronous="normal") as store:
            for number in range(STREAMS):
                await live(store, stream(number), commits)
            checkpoint = await store.load(stream(0))
            more = some_rows(stream(0), checkpoint.version)
            await store.commit(
                commit_after(checkpoint, changes=more, run_id=f"rows-{checkpoint.version}", now=at(checkpoint.version))
            )
        noon, version = "2026-03-01T12:00:00.000Z", checkpoint.version
        webhook_events = (
            f"""('messenger:page-0 message m_{version}_{claims}', 'messenger:page-0', 'message', 'm_{claims}', NULL,
                '{noon}', '{noon}', {due_at}, {claims}, '', '{{"text":"hallo"}}')"""
            for due_at, claims in ((f"'{noon}'", 0), ("NULL", 3))
        )
        self.execute(f"""
            DELETE FROM conversations WHERE conversation_id = 'None {version}';
            INSERT INTO missed_conversations VALUES ('{stream(0).key}', 't_{version}', '{noon}');
            INSERT INTO source VALUES (1, 'facebook', 'https://a.example') ON CONFLICT (place) DO NOTHING;
            INSERT INTO forgotten VALUES ('messenger', 'page-0', 'contact', 'gone {version}');
            INSERT INTO page_moves VALUES ('messenger', 'page-{version}', 'page-0', '{noon}');
            INSERT INTO webhook_events VALUES {", ".join(webhook_events)};
            INSERT INTO deliveries
            VALUES ('crm-{version}', 7, '{noon}', NULL, NULL, '{noon}', 2, 'HTTP 500', '{noon}', 1)
        """)


def some_rows(of: Stream, version: int) -> Changes:
    """Return rows with every kind of text, and without."""
    texts = (None, "", "a\tb\n\\N\\.\r", "👩‍👩‍👧 é e\u0301", '"{}, NULL')
    return Changes(
        tuple(
            conversation_row(f"{text} {version}", of=of, contact_id=None, snippet=text, message_count=None)
            for text in texts
        ),
        tuple(contact_row(f"{text} {version}", of=of, name=text) for text in texts),
    )


@contextmanager
def databases(folder: Path, postgres: Server) -> Iterator["Databases"]:
    """Yield a maker of databases, which are dropped in the end."""
    with ExitStack() as stack:
        yield Databases(folder, postgres, stack)


class Databases:
    def __init__(self, folder: Path, postgres: Server, stack: ExitStack) -> None:
        self._folder = folder
        self._postgres = postgres
        self._stack = stack
        self._built = 0

    def build(self, kind: Kind, *, is_migrated: bool = True) -> AnyDatabase:
        self._built += 1
        if kind == "sqlite":
            return AnyDatabase(StoreUrl(f"sqlite:///{self._folder}/{self._built}.db"))
        template = MIGRATED if is_migrated else None
        database = self._stack.enter_context(fresh_database(self._postgres, template=template))
        return AnyDatabase(database.store_url, database)

    def filled(self, kind: Kind, template: Path) -> AnyDatabase:
        """Build a database with rows in every table: a copy of one, which for SQLite is at `template`."""
        if kind == "sqlite":
            database = self.build(kind)
            shutil.copy(template, database.file)
            return database
        name = self._postgres.template(FILLED, lambda url: AnyDatabase(url, Database(self._postgres, FILLED)).fill())
        copy = self._stack.enter_context(fresh_database(self._postgres, template=name))
        return AnyDatabase(copy.store_url, copy)
