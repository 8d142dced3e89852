"""The SQLite store: journal, rows and projections in one file, committed together.

It has one connection, in a thread of its own: a second one for reading would lose its whole page cache at each commit
of the first. Commits that wait at the same time share a transaction, and so one write to the disk.
Commands that look at deliveries, erase a person or remove a stream open the database for themselves.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from milepost.core.changes import Delivery
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import StoreAway, StoreLost
from milepost.core.journal import instant_text
from milepost.core.model import Changes, Keys, Known, RefusedRow, Stream
from milepost.core.ports import Commit, Committed, Rejected
from milepost.core.webhooks import WebhookEvent
from milepost.stores.changes import StoredDeliveries, parameters_of
from milepost.stores.commit import Forgotten, Outdated, removal
from milepost.stores.reader import Parameters, StreamRows, load_statements
from milepost.stores.rows import json_list
from milepost.stores.sqlite.commit import SqliteWriter, with_inserts
from milepost.stores.sqlite.connection import (
    Database,
    IdleCheckpoint,
    LogLimit,
    connect,
    kept_open,
    lock_database,
    real_path,
    transaction,
    with_synchronous,
)
from milepost.stores.sqlite.errors import REFUSALS, exists, reason_of
from milepost.stores.sqlite.files import (
    LOCK,
    OpenFiles,
    beside,
    close_to_others,
    create_private,
    warn_of_others_beside,
)
from milepost.stores.sqlite.migrate import applied as applied_to
from milepost.stores.sqlite.migrate import demand_finished, migrate, open_current
from milepost.stores.sqlite.queries import DIALECT, StoredIds, at_once
from milepost.stores.store import OpenStore, Refusals
from milepost.stores.webhooks import Steps, StoredWebhooks, event_columns

CACHE_KIB = 20 * 1024
WATCH_SECONDS = 1.0  # between two checks of the files while nothing is committed
TIMEOUT_SECONDS = 30.0  # beside a daemon, of which a large commit or a checkpoint may hold the database for seconds


@asynccontextmanager
async def open_sqlite(
    path: Path, *, synchronous: Literal["full", "normal"] = "full", events_chunk_size: int = 500
) -> AsyncIterator["SqliteStore"]:
    """Open the database at `path` for this process alone, migrate it, and close it at the end of the block.

    Raises StoreBusy, StoreRefused or StoreAway; and StoreLost at the end of a block that did not raise anything.
    """
    pragmas: dict[str, str | int] = {
        "journal_mode": "WAL",
        "synchronous": synchronous.upper(),
        # The default in Debian's SQLite, but not in others. Without it, text that an edit, a later snippet or a closed
        # dead letter replaces would stay in free pages, even after its person is erased.
        "secure_delete": "ON",
        "cache_size": -CACHE_KIB,
    }
    path = real_path(path)
    is_missing = not exists(path) and beside(path, LOCK).exists()
    with lock_database(path) as lock:
        await _finished(asyncio.to_thread(_bring_up_to_date, path, is_missing=is_missing))
        with kept_open(path) as descriptor:
            sql = with_inserts(load_statements("sqlite", "statements", "webhooks", "deliveries"))
            async with connect(path, sql, pragmas, files=OpenFiles(path, lock, descriptor)) as database:
                await database.rows("demand_writable")
                await asyncio.to_thread(close_to_others, path)  # only now is it known to be Milepost's, and usable
                stored_ids = await database.run(partial(StoredIds.of, sql=sql))
                log_limit = LogLimit(path)
                await database.run(log_limit.set_on)
                yield SqliteStore(database, stored_ids, log_limit, events_chunk_size)
                await asyncio.to_thread(database.files.demand_same)  # if not, the work of the block is lost


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    """Wait for the end of work in a thread, even when cancelled: the database stays locked as long as it goes on."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    finally:
        if not task.done():
            await asyncio.wait([task])
            task.exception()  # marks it as retrieved: the next start meets what failed, and says so


def _bring_up_to_date(path: Path, *, is_missing: bool) -> None:
    """Create the database if there is none, migrate it, and log anything unusual."""
    # Imported here because a command that only opens the delivery places logs nothing.
    import structlog  # noqa: PLC0415

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


class SqliteStore(OpenStore):
    """The Store (see core/ports.py) in a SQLite database. Made by `open_sqlite`."""

    refusals = Refusals((*REFUSALS, Outdated), reason_of, conflict_hint="run one Milepost for each stream")

    def __init__(self, database: Database, stored_ids: StoredIds, log_limit: LogLimit, events_chunk_size: int) -> None:
        super().__init__(database.read, DIALECT)
        self.name = database.path
        self.write = database.rows
        self.webhooks = SqliteWebhookInbox(database)
        self.deliveries = SqliteDeliveryPlaces(database)
        self._database = database
        self._stored_ids = stored_ids
        self._log_limit = log_limit
        self._events_chunk_size = events_chunk_size
        self._committed: dict[Stream, Checkpoint] = {}  # for streams whose latest commit is known to be stored

    async def load(self, stream: Stream) -> Checkpoint:
        """Return the stream's checkpoint: that of its latest commit, or its snapshot with later entries folded in.

        Nobody else appends to the journal while the database is locked. If somebody does so anyway, the journal refuses
        the next commit here, and the checkpoint is read again.
        """
        committed = self._committed.get(stream)
        if committed is not None:
            return committed
        return await self._database.run(lambda connection: at_once(self._writer_on(connection).load(stream)))

    async def known(self, keys: Keys) -> Known:
        """Return what is stored under the keys."""
        return await self._database.run(lambda connection: self._writer_on(connection).known(keys))

    async def commit_all(self, commits: Sequence[Commit]) -> Sequence[Committed | Rejected]:
        """Store successive commits together; if one is refused, only those before it are stored."""
        for commit in commits:
            self._committed.pop(commit.checkpoint.stream, None)  # unknown until it is stored
        results = await super().commit_all(commits)
        for commit, result in zip(commits, results, strict=False):
            if isinstance(result, Committed):
                self._committed[commit.checkpoint.stream] = commit.checkpoint
        return results

    async def watch(self) -> StoreLost:
        """Wait until a file of the database is no longer the one that was opened, and return the error.

        The checks run in another thread, as that of the connection may be waiting for a lock. They also write the
        write-ahead log back while nothing is committed.
        """
        idle_checkpoint = IdleCheckpoint(self._database.path)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await asyncio.to_thread(self._database.files.demand_same)
                await asyncio.to_thread(self._log_limit.measure)
                await asyncio.to_thread(idle_checkpoint.look)
            except StoreLost as lost:
                return lost
            except StoreAway:  # raised to those who use the store
                continue

    def _writer_on(self, connection: sqlite3.Connection, *, trusts_known: bool = False) -> SqliteWriter:
        return SqliteWriter(self._database.sql, connection, self._stored_ids, trusts_known=trusts_known)

    async def _write_together(self, commits: list[Commit], *, trusts_known: bool) -> Sequence[Committed]:
        def write(connection: sqlite3.Connection) -> Sequence[Committed]:
            self._log_limit.set_on(connection)
            with transaction(connection):
                return self._writer_on(connection, trusts_known=trusts_known).write(commits, self._events_chunk_size)

        return await self._database.write(write)

    async def _has_moved_on(self, stream: Stream, version: int, error: Exception) -> bool:
        """Return whether the version does not follow the stream's latest, which the journal refuses.

        A trigger refuses it (0001_journal.sql). The error does not say so: SQLite has one code for all triggers, and
        does not name them.
        """
        is_next = version == 1 or await self.entry_at(stream, version - 1) is not None
        return not is_next or await self.entry_at(stream, version) is not None

    async def _refused_rows(self, changes: Changes) -> tuple[RefusedRow, ...]:
        return await self._database.run(lambda connection: self._writer_on(connection).refused_rows(changes))


# --- webhook events ---------------------------------------------------------------------------------------------------

T = TypeVar("T")


class SqliteWebhookInbox(StoredWebhooks):
    """A WebhookInbox (see core/webhooks.py), over the connection of the store."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.read, json_list)
        self._database = database

    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        """Store events durably, except for those about people who were erased; return the keys of the new ones."""
        sql, received = self._database.sql["add_webhook_event"], instant_text(now)
        offered = [{**event_columns(event), "stream": event.stream.key, "now": received} for event in events]

        def add(connection: sqlite3.Connection) -> frozenset[str]:
            # Even with `synchronous: normal`: Meta does not send a webhook again.
            with with_synchronous(connection, "FULL"), transaction(connection):
                return frozenset(
                    event.key
                    for event, columns in zip(events, offered, strict=True)
                    if connection.execute(sql, columns).rowcount > 0
                )

        return await self._database.write(add)

    async def _write(self, steps: Steps[T]) -> T:
        """Run the steps in one transaction, and so with one wait for the disk."""

        def write(connection: sqlite3.Connection) -> T:
            async def fetch(statement: str, parameters: Parameters = ()) -> list[Any]:
                return connection.execute(self._database.sql[statement], parameters).fetchall()

            with transaction(connection):
                return at_once(steps(fetch))

        return await self._database.write(write)

    async def _write_alone(self, stream: str, steps: Steps[None]) -> None:
        await self._write(steps)


# --- delivery places --------------------------------------------------------------------------------------------------


class SqliteDeliveryPlaces(StoredDeliveries):
    """DeliveryPlaces (see core/changes.py) over a connection, for the only process that delivers."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.read, database.rows)
        self._database = database

    async def hold(self, destination: str, worker: str) -> Delivery | None:
        """Return where a destination stands; None if it is not there."""
        return await self._find(destination)

    async def record(self, before: Delivery, after: Delivery, worker: str) -> bool:
        """Record where a destination stands; return False if it was moved since `before`.

        Does not wait for the disk, as the store's commits do: what a power cut takes back is delivered again.
        """

        def write(connection: sqlite3.Connection) -> bool:
            with with_synchronous(connection, "NORMAL"), transaction(connection):
                recorded = connection.execute(self._database.sql["record_delivery"], parameters_of(before, after))
                return bool(recorded.fetchall())

        return await self._database.write(write)

    async def release(self, worker: str) -> None:
        """Do nothing: there is no other worker."""


@asynccontextmanager
async def open_sqlite_deliveries(path: Path) -> AsyncIterator[SqliteDeliveryPlaces]:
    """Open the delivery places of the database at `path`, beside a running daemon or without one.

    Raises StoreRefused if there is no database of this program's schema, StoreAway if it does not answer.
    """
    pragmas: dict[str, str | int] = {"synchronous": "FULL"}
    async with open_current(path, "deliveries", pragmas=pragmas, timeout_seconds=TIMEOUT_SECONDS) as database:
        yield SqliteDeliveryPlaces(database)


# --- erasing a person, removing a stream ------------------------------------------------------------------------------

# Nothing is left in the file, and nobody erased comes back.

CHECKPOINT_TIMEOUT_MILLISECONDS = 2_000


async def forget_in_sqlite(path: Path, stream: Stream, contact_id: str) -> Forgotten:
    """Erase a contact of a page, with their conversations, messages and dead letters' payloads, and keep them out.

    It covers rows written under other pages, too: an account that moves to another page takes its people along.

    Works beside a running daemon, which waits meanwhile. A contact that is not stored is kept out as well. A dead
    letter's entries in the journal, which never name a person, stay; the daemon closes it.

    Erased data is overwritten in the database, and the WAL is emptied unless a reader holds it. Backups, snapshots of
    the file system and blocks that the disk itself has moved still hold the data.

    Raises StoreRefused if there is no database of this program's schema, StoreAway if it does not answer.
    """

    def forget(connection: sqlite3.Connection) -> Forgotten:
        with transaction(connection):
            return at_once(SqliteWriter(database.sql, connection).erase(stream, [contact_id]))

    async with open_current(path, pragmas={"secure_delete": "ON"}, timeout_seconds=TIMEOUT_SECONDS) as database:
        forgotten = await database.write(forget)
        with suppress(StoreAway):
            await database.run(empty_wal)
    return forgotten


async def remove_from_sqlite(path: Path, stream: Stream, by: str, now: datetime) -> StreamRows | None:
    """Remove a stream with all its rows and return how many there were, or None if nothing of it is stored.

    Locks the database, as a daemon would have the stream in memory. The entry and the deletions are one transaction, so
    readers see the whole stream until it is gone. As for a person, deleted data is overwritten and the WAL emptied.

    Raises StoreRefused if there is no database of this program's schema, StoreBusy if a daemon holds it, StoreAway if
    it does not answer.
    """

    def remove(connection: sqlite3.Connection) -> StreamRows | None:
        writer = SqliteWriter(database.sql, connection)
        with transaction(connection):
            commit = removal(at_once(writer.load(stream)), by, now)
            if commit is None:
                return None
            rows = at_once(writer.count_rows(stream))
            writer.write([commit], 1)
        return rows

    pragmas: dict[str, str | int] = {"secure_delete": "ON", "synchronous": "FULL", "cache_size": -CACHE_KIB}
    async with open_current(path, pragmas=pragmas, is_alone=True, timeout_seconds=TIMEOUT_SECONDS) as database:
        try:
            removed = await database.run(remove)
        except asyncio.CancelledError:
            await database.interrupt()  # or the thread would go on, and commit after the cancellation
            raise
        with suppress(StoreAway):
            await database.run(empty_wal)
    return removed


def empty_wal(connection: sqlite3.Connection) -> None:
    """Empty the WAL, so that it holds no erased data, unless a reader holds it."""
    connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_TIMEOUT_MILLISECONDS}")  # writers wait as long as this does
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
