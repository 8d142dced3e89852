"""The SQLite store: journal, rows and projections in one file, committed together.

It has one connection, in a thread of its own: a second one for reading would lose its whole page cache at each commit
of the first. Commits that wait at the same time share a transaction, and so its write to the disk.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import structlog

from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import MilepostError, RowsRejected, StoreAway, StoreLost, VersionConflict
from milepost.core.gaps import Gap, ThreadsSearched
from milepost.core.journal import Codec
from milepost.core.model import DataSource, Keys, Known, Stream
from milepost.core.ports import Commit, Committed, DueDeadLetter, OpenGap, Rejected
from milepost.core.webhooks import DueFact
from milepost.stores.group_commit import GroupCommit, GroupResult, not_following
from milepost.stores.last_write import LastWrite
from milepost.stores.moves import Outdated
from milepost.stores.provenance import Provenance
from milepost.stores.sql import load_statements
from milepost.stores.sqlite.commit import REFUSALS, SqliteWriter, reason_of
from milepost.stores.sqlite.connection import Database, connect, errors_of, lock_database, real_path, transaction
from milepost.stores.sqlite.deliveries import SqliteDeliveryPlaces
from milepost.stores.sqlite.files import LOCK, beside, close_to_others, create_private, warn_of_others_beside
from milepost.stores.sqlite.identity import OpenFiles, kept_open
from milepost.stores.sqlite.migrate import applied as applied_to
from milepost.stores.sqlite.migrate import demand_finished, migrate
from milepost.stores.sqlite.queries import SqliteSession
from milepost.stores.sqlite.stored_ids import StoredIds
from milepost.stores.sqlite.wal import IdleCheckpoint
from milepost.stores.sqlite.webhooks import SqliteWebhookInbox

Result = TypeVar("Result")

# Pages of WAL between two checkpoints: rewriting scattered pages into the file is what bounds the speed of inserts,
# and a larger WAL rewrites each of them less often. 32,000 pages are 128 MB.
WAL_PAGES = 32_000
CACHE_KIB = 20 * 1024
WATCH_SECONDS = 1.0  # between two checks of the files while nothing is committed


@asynccontextmanager
async def open_sqlite(
    path: Path, *, synchronous: Literal["full", "normal"] = "full", events_chunk_size: int = 500
) -> AsyncIterator["SqliteStore"]:
    """Open the database at `path` for this process alone, migrate it, and close it at the end of the block.

    Raises StoreBusy, StoreRefused or StoreAway; StoreLost also after the block, if that did not raise anything.
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
        await asyncio.to_thread(_bring_up_to_date, path, is_missing=is_missing)
        with kept_open(path) as descriptor:
            async with connect(path, pragmas, files=OpenFiles(path, lock, descriptor)) as database:
                sql = load_statements("sqlite")
                await database.run(partial(_demand_writable, sql))
                await asyncio.to_thread(close_to_others, path)  # only now: it is ours, and can be used
                stored_ids = await database.run(partial(StoredIds.of, sql=sql))
                writer_on = partial(SqliteWriter, sql, Codec(), stored_ids=stored_ids)
                yield SqliteStore(database, writer_on, events_chunk_size)
                await asyncio.to_thread(database.files.demand_same)  # or the work in the block was for nothing


def _bring_up_to_date(path: Path, *, is_missing: bool) -> None:
    """Create the database where there is none, migrate it, and log what is unusual about that."""
    log = structlog.get_logger("milepost")
    create_private(path)
    demand_finished(path)
    is_new = not applied_to(path)
    applied = migrate(path)
    if is_new:
        warn_of_others_beside(path)
    if is_missing:
        log.warning(
            "database missing, a new one was created",
            path=str(path),
            hint=f"{path}{LOCK} says that there was one: if you did not remove it, stop Milepost and restore a backup",
        )
    if applied:
        log.info("database migrated", path=str(path), applied=", ".join(sorted(applied)))


def _demand_writable(sql: Mapping[str, str], connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")  # on a read-only file, this begins to read, and succeeds
    try:
        connection.execute(sql["demand_writable"])
    finally:
        connection.execute("ROLLBACK")


class SqliteStore:
    """The Store (see core/ports.py) in a SQLite database. Made by `open_sqlite`."""

    def __init__(
        self, database: Database, writer_on: Callable[[sqlite3.Connection], SqliteWriter], events_chunk_size: int
    ) -> None:
        self._database = database
        self._writer_on = writer_on
        self._events_chunk_size = events_chunk_size
        self._group_commit = GroupCommit[Commit, Committed | Rejected](self._write_group)
        self.webhooks = SqliteWebhookInbox(database)
        self.deliveries = SqliteDeliveryPlaces(database)
        self.provenance = Provenance(self, database.path)
        self._last_write = LastWrite(self._write_nothing)
        self._committed: dict[Stream, Checkpoint] = {}  # of the streams whose latest commit is known to be stored

    async def load(self, stream: Stream) -> Checkpoint:
        """Return the stream's checkpoint: the one of its latest commit, or its snapshot and the entries since.

        Nobody else appends to the journal of a database that is locked. Whoever does notwithstanding, the journal
        refuses what would follow here, and then the checkpoint is read again.
        """
        committed = self._committed.get(stream)
        return committed if committed is not None else await self._run(lambda session: session.load(stream))

    async def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoint of every stream that was ever worked, configured or not; ordered by stream."""
        return await self._run(SqliteSession.checkpoints)

    async def known(self, keys: Keys) -> Known:
        """Return what is stored under the keys."""
        return await self._run(lambda session: session.known(keys))

    async def due_dead_letters(self, stream: Stream, now: datetime, limit: int) -> tuple[DueDeadLetter, ...]:
        """Return open dead letters whose redrive is due, or whose payload was erased; oldest first."""
        return await self._run(lambda session: session.due_dead_letters(stream, now, limit))

    async def due_facts(self, stream: Stream, limit: int) -> tuple[DueFact, ...]:
        """Return up to `limit` facts whose messages are stored, the earliest first."""
        return await self._run(lambda session: session.due_facts(stream, limit))

    async def open_gaps(self, stream: Stream, limit: int) -> tuple[OpenGap, ...]:
        """Return up to `limit` open gaps: those between two sweeps before histories, the newest first."""
        return await self._run(lambda session: session.open_gaps(stream, limit))

    async def gaps_at_limit(self, stream: Stream, later_than: datetime, limit: int) -> tuple[Gap, ...]:
        """Return up to `limit` histories that are at their limit and were read no further back than `later_than`."""
        return await self._run(lambda session: session.gaps_at_limit(stream, later_than, limit))

    async def search_threads(self, stream: Stream, after: datetime | None, limit: int) -> ThreadsSearched:
        """Search the next conversations of the stream, about `limit`, by `updated_time`; those at `after` were."""
        return await self._run(lambda session: session.search_threads(stream, after, limit))

    async def find_open_dead_letters(self, dead_letter_ids: tuple[str, ...]) -> tuple[DueDeadLetter, ...]:
        """Return those of these dead letters that are open."""
        found = await self._run(lambda session: session.dead_letters_with_payloads(dead_letter_ids))
        return tuple(due for due in found if due.dead_letter.closed_at is None)

    async def answers(self) -> None:
        """Read anything. Raises StoreAway or StoreRefused if the database does not answer."""
        await self._run(SqliteSession.answers)

    async def size_bytes(self) -> int:
        """Return the size of the database."""
        return await self._run(SqliteSession.size_bytes)

    async def takes_writes(self) -> None:
        """Raise StoreAway or StoreRefused if nothing can be written."""
        await self._last_write.demand()

    async def source(self) -> DataSource | None:
        """Return where the rows come from; None until that is on record."""
        return await self._run(SqliteSession.source)

    async def record_source(self, source: DataSource) -> None:
        """Record where the rows come from, unless that is on record."""
        await self._run(lambda session: session.record_source(source))

    async def replace_source(self, source: DataSource) -> None:
        """Record where the rows come from, whatever was on record."""
        await self._run(lambda session: session.replace_source(source))

    async def conversations_after(self, conversation_id: str, limit: int) -> list[tuple[str, str, str]]:
        """Return the id, platform and page of up to `limit` conversations whose ids follow, in the order of the ids."""
        return await self._run(lambda session: session.conversations_after(conversation_id, limit))

    async def commit(self, commit: Commit) -> Committed | Rejected:
        """Store a commit durably and whole or not at all, together with those that wait at the same time."""
        (result,) = await self.commit_all((commit,))
        return result

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[Committed | Rejected]:
        """Store commits that follow one another together, or those before one that is refused."""
        for commit in commits:
            await self.provenance.before(commit)
            self._committed.pop(commit.checkpoint.stream, None)  # unknown until it is stored
        results = await self._last_write.watch(self._group_commit.commit_all(commits))
        for commit, result in zip(commits, results, strict=False):
            if isinstance(result, Committed):
                self._committed[commit.checkpoint.stream] = commit.checkpoint
        return results

    async def settle(self, commit: Commit) -> Committed | None:
        """Return whether a commit of unknown outcome was stored; None if it was not, and will not be."""
        first = commit.entries[0]
        stored = await self._run(lambda session: session.entry_at(first.stream, first.version))
        return Committed(stored[0], 0.0, 0.0) if stored and stored[1] == first.hash else None

    async def watch(self) -> StoreLost:
        """Wait until a file of the database is no longer the one that was opened, and return the error.

        In a thread of its own: that of the connection may be waiting for a lock. While nothing is committed, it writes
        the write-ahead log back.
        """
        idle_checkpoint = IdleCheckpoint(self._database.path)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await asyncio.to_thread(self._database.files.demand_same)
                await asyncio.to_thread(idle_checkpoint.look)
            except StoreLost as lost:
                return lost
            except StoreAway:  # raised to whoever asks the store
                continue

    async def _run(self, question: Callable[[SqliteWriter], Result]) -> Result:
        return await self._database.run(lambda connection: question(self._writer_on(connection)))

    async def _write_nothing(self) -> None:
        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                self._writer_on(connection).write_nothing()

        await self._database.write(write)

    async def _write_group(self, commits: list[Commit]) -> Sequence[GroupResult]:
        return await self._database.write(lambda connection: self._write(commits, self._writer_on(connection)))

    # --- in the connection's thread ---

    def _write(self, commits: list[Commit], writer: SqliteWriter) -> Sequence[GroupResult]:
        """Write a group together or, if a row of one is refused, each by itself, so that it harms no other.

        Savepoints would do the same in one transaction, and cost a third of the time: SQLite keeps a copy of every page
        that is changed after one.
        """
        try:
            return self._write_together(commits, writer)
        except REFUSALS:
            results: list[GroupResult] = []
            for commit in commits:
                late = not_following(commit, zip(commits, results, strict=False))
                results.append(late or self._write_alone(commit, writer))
            return results

    def _write_together(self, commits: list[Commit], writer: SqliteWriter) -> Sequence[GroupResult]:
        with transaction(writer.connection):
            return writer.write(commits, self._events_chunk_size)

    def _write_alone(self, commit: Commit, writer: SqliteWriter) -> GroupResult:
        try:
            with errors_of(self._database.path):
                (result,) = self._write_together([commit], writer)
        except REFUSALS as error:
            return _refusal(commit, error, writer)
        except MilepostError as error:  # for this one's caller: others of the group may be stored already
            return error
        return result


def _refusal(commit: Commit, error: Exception, writer: SqliteWriter) -> GroupResult:
    stream, version = commit.checkpoint.stream, commit.entries[0].version
    if _has_moved_on(stream, version, writer):
        return VersionConflict(
            f"{stream} has moved on: another writer has appended version {version}",
            hint="run one Milepost for each stream",
        )
    if isinstance(error, Outdated):
        return Rejected(())
    refused = writer.refused_rows(commit.changes)
    if refused:
        return Rejected(refused)
    return RowsRejected(
        f"the database refuses version {version} of {stream}: {reason_of(error)}", hint="please report this"
    )


def _has_moved_on(stream: Stream, version: int, writer: SqliteWriter) -> bool:
    """Return whether the version does not follow the stream's latest: the journal takes no other (0001_journal.sql).

    The error does not say: SQLite has one code for the refusals of all triggers, and no name.
    """
    is_next = version == 1 or writer.entry_at(stream, version - 1) is not None
    return not is_next or writer.entry_at(stream, version) is not None
