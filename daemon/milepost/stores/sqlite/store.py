"""The SQLite store: journal, rows and projections in one file, committed together.

One connection, in a thread of its own: a second one for reading would lose its whole page cache at each commit of the
first. Commits that wait at the same time share a transaction, and so its write to the disk.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import MilepostError, RowsRejected, StoreAway, StoreLost, VersionConflict
from milepost.core.journal import Codec
from milepost.core.model import DataSource, Keys, Known
from milepost.core.ports import Commit, Committed, DueDeadLetter, Rejected
from milepost.stores.group_commit import GroupAnswer, GroupCommit
from milepost.stores.provenance import Provenance
from milepost.stores.sql import load_statements
from milepost.stores.sqlite.commit import REFUSALS, reason_of, refused_rows, write
from milepost.stores.sqlite.connection import Database, connect, errors_of, real_path, transaction
from milepost.stores.sqlite.identity import OpenFiles, kept_open
from milepost.stores.sqlite.lock import lock_database
from milepost.stores.sqlite.migrate import applied as applied_to
from milepost.stores.sqlite.migrate import demand_finished, migrate
from milepost.stores.sqlite.neighbours import tell_of_neighbours
from milepost.stores.sqlite.permissions import LOCK, beside, close_to_others, create_private
from milepost.stores.sqlite.queries import checkpoints, dead_letters_with_payloads, due_dead_letters, known, load

# Pages of WAL between two checkpoints: rewriting scattered pages into the file is what bounds the speed of inserts,
# and a larger WAL rewrites each of them less often. 16,000 pages are 64 MB.
WAL_PAGES = 16_000
CACHE_KIB = 32 * 1024
WATCH_SECONDS = 1.0  # between two looks at the files while nothing is committed


@asynccontextmanager
async def open_sqlite(
    path: Path, *, synchronous: Literal["full", "normal"] = "full", events_chunk_size: int = 500
) -> AsyncIterator["SqliteStore"]:
    """Open the database at `path` for this process alone, bring it to this program's schema, and close it in the end.

    Raises StoreBusy, StoreRefused or StoreAway; StoreLost also after the block, where it did not raise anything.
    """
    pragmas: dict[str, str | int] = {
        "journal_mode": "WAL",
        "synchronous": synchronous.upper(),
        "wal_autocheckpoint": WAL_PAGES,
        "journal_size_limit": WAL_PAGES * 4096,
        "cache_size": -CACHE_KIB,
    }
    path = real_path(path)
    is_missing = not path.exists() and beside(path, LOCK).exists()
    with lock_database(path) as lock:
        await asyncio.to_thread(create_private, path)
        await asyncio.to_thread(demand_finished, path)
        is_new = not await asyncio.to_thread(applied_to, path)
        applied = await asyncio.to_thread(migrate, path)
        if is_new:
            await asyncio.to_thread(tell_of_neighbours, path)
        if is_missing:
            structlog.get_logger("milepost").warning(
                "database missing, a new one made",
                path=str(path),
                hint=f"{path}{LOCK} says that there was one: was it not you, stop Milepost and restore a backup",
            )
        if applied:
            structlog.get_logger("milepost").info(
                "database migrated", path=str(path), applied=", ".join(sorted(applied))
            )
        with kept_open(path) as descriptor:
            async with connect(path, pragmas, files=OpenFiles(path, lock, descriptor)) as database:
                await database.run(_demand_writable)
                await asyncio.to_thread(close_to_others, path)  # only now: it is ours, and can be used
                yield SqliteStore(database, Codec(), events_chunk_size)
                await asyncio.to_thread(database.files.demand_same)  # or the work in the block was for nothing


def _demand_writable(connection: sqlite3.Connection) -> None:
    """Find out at the start, not at the first commit, that the file may only be read."""
    connection.execute("BEGIN IMMEDIATE")  # where the file may only be read, this begins to read, and says nothing
    try:
        connection.execute("UPDATE checkpoints SET version = version WHERE false")
    finally:
        connection.execute("ROLLBACK")


class SqliteStore:
    """A Store (see core/ports.py) in a SQLite database. Made by `open_sqlite`."""

    def __init__(self, database: Database, codec: Codec, events_chunk_size: int) -> None:
        self._database = database
        self._codec = codec
        self._events_chunk_size = events_chunk_size
        self._sql = load_statements("sqlite")
        self._grouping = GroupCommit(self._write_group)
        self.provenance = Provenance(self, database.path)

    async def load(self, stream: str) -> Checkpoint:
        """Give the stream's checkpoint: its snapshot, and the entries since."""
        return await self._database.run(partial(load, self._sql, self._codec, stream))

    async def checkpoints(self) -> list[Checkpoint]:
        """Give where every stream stands that was ever worked, configured or not; ordered by stream."""
        return await self._database.run(partial(checkpoints, self._sql))

    async def known(self, keys: Keys) -> Known:
        """Give what is stored already under the keys."""
        return await self._database.run(partial(known, self._sql, keys))

    async def due_dead_letters(self, stream: str, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
        """Give open dead letters whose redrive is due, or whose payload was erased; the oldest first."""
        return await self._database.run(partial(due_dead_letters, self._sql, stream, now, limit))

    async def find_open_dead_letters(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        """Give those of these dead letters that are open."""
        found = await self._database.run(partial(dead_letters_with_payloads, self._sql, dead_letter_ids))
        return tuple(due for due in found if due.dead_letter.closed_at is None)

    async def answers(self) -> None:
        """Ask the database for anything. Raises StoreAway or StoreRefused if it does not answer."""
        await self._database.run(lambda connection: connection.execute(self._sql["answers"]).fetchone())

    async def source(self) -> DataSource | None:
        """Return where the rows come from; None where that is not on record yet."""
        found = await self._database.run(lambda connection: connection.execute(self._sql["source"]).fetchone())
        return DataSource(*found) if found else None

    async def record_source(self, source: DataSource) -> None:
        """Record where the rows come from, unless that is on record."""
        await self._write_source("record_source", source)

    async def replace_source(self, source: DataSource) -> None:
        """Record where the rows come from, whatever was on record."""
        await self._write_source("replace_source", source)

    async def _write_source(self, statement: str, source: DataSource) -> None:
        row = (source.kind, source.base_url)
        await self._database.run(lambda connection: connection.execute(self._sql[statement], row))

    async def conversations_after(self, conversation_id: str, limit: int) -> list[tuple[str, str, str]]:
        """Return the id, platform and page of up to `limit` conversations whose ids follow, in the order of the ids."""
        asked = (conversation_id, limit)
        return await self._database.run(
            lambda connection: connection.execute(self._sql["conversations_after"], asked).fetchall()
        )

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store a commit durably and whole, together with those that wait at the same time, or nothing of it."""
        await self.provenance.before(commit)
        return await self._grouping.commit(commit)

    async def settle(self, commit: Commit) -> Committed | None:
        """Say whether a commit was stored whose outcome nobody knows; None where it was not, and will not be."""
        return await self._database.run(partial(self._settle, commit))

    async def watch(self) -> StoreLost:
        """Wait until a file of the database was deleted or replaced, and return what happened.

        It looks in another thread than the connection's, which may wait for a lock.
        """
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await asyncio.to_thread(self._database.files.demand_same)
            except StoreLost as lost:
                return lost
            except StoreAway:  # whoever asks the store is told
                continue

    async def _write_group(self, commits: list[Commit]) -> list[GroupAnswer]:
        return await self._database.write(partial(self._transaction, commits))

    # --- in the connection's thread ---

    def _transaction(self, commits: list[Commit], connection: sqlite3.Connection) -> list[GroupAnswer]:
        """Write a group together; where a row of one is refused, each by itself, so that it harms no other.

        Savepoints would do the same in one transaction, and cost a third of the time: SQLite keeps a copy of every page
        that is changed after one.
        """
        try:
            return self._written(commits, connection)
        except REFUSALS:
            return [self._alone(commit, connection) for commit in commits]

    def _alone(self, commit: Commit, connection: sqlite3.Connection) -> GroupAnswer:
        try:
            with errors_of(self._database.path):
                (answer,) = self._written([commit], connection)
        except REFUSALS as error:
            return self._refusal(commit, error, connection)
        except MilepostError as error:  # the answer to this one: others of the group may be stored already
            return error
        return answer

    def _refusal(self, commit: Commit, error: Exception, connection: sqlite3.Connection) -> GroupAnswer:
        stream, version = commit.checkpoint.stream, commit.entries[0].version
        if "the next version of a stream follows its latest" in str(error):  # journal_refuses_gaps, of 0001_journal.sql
            return VersionConflict(
                f"{stream} has moved on: another writer has appended version {version}",
                hint="run one Milepost for each stream",
            )
        refused = refused_rows(self._sql, commit.changes, connection)
        if refused:
            return Rejected(refused)
        return RowsRejected(
            f"the database will not take version {version} of {stream}: {reason_of(error)}", hint="please report this"
        )

    def _written(self, commits: list[Commit], connection: sqlite3.Connection) -> list[GroupAnswer]:
        with transaction(connection):
            return [write(self._sql, self._events_chunk_size, commit, connection) for commit in commits]

    def _settle(self, commit: Commit, connection: sqlite3.Connection) -> Committed | None:
        first = commit.entries[0]
        stored = connection.execute(self._sql["entry_at"], (first.stream, first.version)).fetchone()
        return Committed(stored[0], 0.0, 0.0) if stored and stored[1] == first.hash else None
