"""An installation of Milepost: a folder with a config.yaml, and the database that the program creates there."""

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from kit.binary import Ended, milepost, until
from kit.needs import long_only
from kit.postgres import Database
from kit.small_disk import small_disk
from milepost.core.checkpoint import Checkpoint
from milepost.simulator.inbox import Inbox
from milepost.simulator.plan import SimulatedPage
from milepost.simulator.server import SimulatorServer
from milepost.simulator.world import World
from milepost.stores import rows

PROJECTIONS = ("checkpoints", "runs", "dead_letters")
# The tables that users query, without the columns filled from Milepost's own clock.
COPIED = {
    "contacts": "platform, page_id, contact_id, name, username, last_interaction_at",
    "conversations": "conversation_id, platform, page_id, contact_id, link, snippet, message_count, unread_count, "
    "can_reply, updated_time, deleted_at",
    "contact_interaction_events": "event_id, conversation_id, platform, page_id, contact_id, direction, kind, text, "
    "attachments, occurred_at",
}

Rows = list[tuple[Any, ...]]
Section = Mapping[str, object]


class Installation:
    """The folder and its database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.database = folder / "milepost.db"

    def configure(self, base_url: str, *pages: Section, **sections: Section | bool | list[dict[str, object]]) -> None:
        """Write a config.yaml for an API at `base_url`, without pacing or long waits. Sections add or override keys."""
        settings: dict[str, object] = {
            "source": {"kind": "facebook", "base_url": base_url, "calls_per_second": 0},
            "retry": {"base_delay": "1ms", "max_delay": "10ms"},
            "http": {"listen": "127.0.0.1:0"},
        }
        for name, section in sections.items():
            given = settings.get(name)
            settings[name] = (
                {**given, **section} if isinstance(given, dict) and isinstance(section, Mapping) else section
            )
        self.config.write_text(yaml.safe_dump({**settings, "pages": list(pages)}, allow_unicode=True))

    def configure_for(self, simulator: SimulatorServer, **sections: Section | bool | list[dict[str, object]]) -> None:
        """Write a config.yaml for all pages of a simulator."""
        self.configure(simulator.base_url, *map(page_section, simulator.pages), **sections)

    async def sync(self, *arguments: str) -> Ended:
        return await milepost(self.folder, "sync", *arguments)

    async def sync_from(self, simulator: SimulatorServer, **sections: Section | bool | list[dict[str, object]]) -> None:
        """Configure for a simulator, and sync without errors."""
        self.configure_for(simulator, **sections)
        ended = await self.sync()
        assert ended.code == 0, ended

    async def verify(self) -> None:
        """Have the program verify its journal."""
        verified = await milepost(self.folder, "journal", "verify")
        assert verified.code == 0, verified

    async def sync_until_complete(self, most: int = 12) -> list[Ended]:
        """Sync repeatedly until the exit code is 0, and return the result of each sync."""
        syncs = [await self.sync()]
        while syncs[-1].code != 0:
            assert syncs[-1].code in (1, 75), syncs[-1]
            assert len(syncs) < most, syncs[-1]
            syncs.append(await self.sync())
        return syncs

    def rows(self, query: str, *parameters: object) -> Rows:
        """Query the database, even while a process uses it."""
        with closing(sqlite3.connect(self.database, isolation_level=None, timeout=30.0)) as connection:
            return connection.execute(query, parameters).fetchall()

    def copied(self) -> dict[str, Rows]:
        """Return the copied tables, each ordered by its key."""
        return {
            table: self.rows(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3") for table, columns in COPIED.items()
        }

    def projections(self) -> bytes:
        """Dump the projections, byte for byte."""
        dump = {table: self.rows(f"SELECT * FROM {table} ORDER BY 1") for table in PROJECTIONS}
        return msgspec.json.encode(dump)

    async def released(self) -> None:
        """Wait until nothing that a killed process had begun is still under way in the database."""

    def has_tables(self) -> bool:
        """Whether the program has created its tables."""
        found = self.database.exists() and self.rows("SELECT name FROM sqlite_master WHERE name = 'checkpoints'")
        return bool(found)

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Return every stream's checkpoint; empty if there are no tables yet."""
        if not self.has_tables():
            return {}
        states = self.rows("SELECT stream, state FROM checkpoints")
        return {stream: rows.checkpoint(state) for stream, state in states}

    def positions(self, stream: str) -> list[str | None]:
        """Return the cursors of a stream's sweep from the journal, oldest first."""
        stored = self.rows(
            "SELECT data FROM journal WHERE stream = ? AND type = 'batch_stored' ORDER BY version", stream
        )
        positions = [msgspec.json.decode(data)["position"] for (data,) in stored]
        return [position.get("cursor") for position in positions if "phase" not in position]

    def endings(self, stream: str) -> list[tuple[str, str | None]]:
        """Return the status and reason of each run of a stream, oldest first."""
        return self.rows("SELECT status, reason FROM runs WHERE stream = ? ORDER BY started_at, run_id", stream)


class PostgresqlInstallation(Installation):
    """The folder, and a PostgreSQL database for the program's tables."""

    def __init__(self, folder: Path, kept: Database) -> None:
        super().__init__(folder)
        self.kept = kept
        self.store_url = kept.store_url  # as configured

    def configure(self, base_url: str, *pages: Section, **sections: Section | bool | list[dict[str, object]]) -> None:
        """Write a config.yaml that names the database."""
        store = {"url": self.store_url.url, "password": self.store_url.password}
        super().configure(base_url, *pages, **{"store": store, **sections})

    def rows(self, query: str, *parameters: object) -> Rows:
        """Query the database, even while a process uses it."""
        return self.kept.sql(query.replace("?", "%s"), *parameters)

    async def released(self) -> None:
        """Wait until the server has ended all sessions: it finishes the commit of a killed process."""
        others = "datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        await until(lambda: not self.rows(f"SELECT 1 FROM pg_stat_activity WHERE {others}"))

    def has_tables(self) -> bool:
        """Whether the program has created its tables."""
        return self.rows("SELECT to_regclass('checkpoints') IS NOT NULL") == [(True,)]


def page_section(page: SimulatedPage) -> dict[str, object]:
    """Return the page as config.yaml lists it."""
    section: dict[str, object] = {"id": page.id, "platforms": list(page.platforms), "access_token": page.token}
    if page.instagram_account_id is not None:
        section["instagram_account_id"] = page.instagram_account_id
    return section


on_both_databases = pytest.mark.parametrize("installation", ["sqlite", "postgresql"], indirect=True)
"""Runs a test of the whole program on SQLite and on PostgreSQL."""

on_sqlite_first = pytest.mark.parametrize("installation", ["sqlite", *long_only("postgresql")], indirect=True)
"""Runs a test of the whole program on SQLite, and in the long run on PostgreSQL: the stores' contract has the rest."""


def assert_copied(installation: Installation, world: World, at: datetime, *, was_frozen: bool) -> None:
    """Assert that the tables hold the world's conversations, contacts and messages at an instant, and nothing else.

    If the world was not frozen, they may also hold messages that the API no longer lists.
    """
    for inbox in world.inboxes:
        _assert_inbox_copied(installation, world, inbox, at, was_frozen=was_frozen)


def _assert_inbox_copied(
    installation: Installation, world: World, inbox: Inbox, at: datetime, *, was_frozen: bool
) -> None:
    stream = (inbox.platform, inbox.page.id)
    truth = world.truth(inbox.page.id, inbox.platform, at)
    of_stream = "WHERE platform = ? AND page_id = ?"
    conversations = installation.rows(
        f"SELECT conversation_id, contact_id, updated_time FROM conversations {of_stream}",
        *stream,
    )
    assert {row[0]: row[1:] for row in conversations} == {
        each.id: (each.contact_id, _as_stored(each.updated_time)) for each in truth
    }
    contacts = installation.rows(f"SELECT contact_id FROM contacts {of_stream}", *stream)
    assert {row[0] for row in contacts} == {each.contact_id for each in truth if each.contact_id is not None}
    events = {
        tuple(row)
        for row in installation.rows(
            f"SELECT conversation_id, event_id FROM contact_interaction_events {of_stream}",
            *stream,
        )
    }
    listed = {(each.id, message_id) for each in truth for message_id in each.message_ids}
    assert listed <= events
    assert events == listed or not was_frozen


def _as_stored(instant: datetime) -> str:
    """Format an instant as the tables hold it. The API reports whole seconds only."""
    return instant.strftime("%Y-%m-%dT%H:%M:%S.000Z")


ROOM_BYTES = 3 * 2**19


@contextmanager
def installed_on_small_disk(folder: Path) -> Iterator[Installation]:
    """Yield an installation whose database is on a disk with ballast that leaves a megabyte and a half."""
    with small_disk(folder, "64m") as disk:
        ballast_of(disk).write_bytes(bytes(shutil.disk_usage(disk).free - ROOM_BYTES))
        installation = Installation(folder)
        installation.database = disk / "milepost.db"
        yield installation


def ballast_of(disk: Path) -> Path:
    """Return the file that fills the disk. Deleting it makes room."""
    return disk / "ballast"
