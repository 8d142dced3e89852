"""The PostgreSQL store: journal, rows and projections in one database, committed together, by any number of workers.

It relies on no session state: every transaction makes its own settings and takes its own locks, so the store works
through a pooler, too. Ownership is never trusted: the journal's key decides each commit, and the locks only keep order.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import TypeVar

import psycopg
from psycopg.rows import TupleRow

from milepost.core.changes import HOLD_SECONDS, Delivery
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import OutcomeUnknown, StoreAway, StoreLost
from milepost.core.journal import instant_text
from milepost.core.model import Changes, RefusedRow, Stream
from milepost.core.ports import Commit, Committed
from milepost.core.webhooks import WebhookEvent
from milepost.stores.changes import StoredDeliveries, parameters_of
from milepost.stores.commit import Forgotten, Outdated, removal
from milepost.stores.postgresql.commit import PostgresqlWriter
from milepost.stores.postgresql.connection import Database, connected
from milepost.stores.postgresql.encoding import Prepared, json_rows, searchable, with_inserts
from milepost.stores.postgresql.errors import REFUSALS, is_contention, is_of_statement, reason_of, translated
from milepost.stores.postgresql.migrate import migrate, open_current
from milepost.stores.postgresql.queries import PostgresqlSession
from milepost.stores.reader import Parameters, StreamRows, load_statements
from milepost.stores.store import OpenStore, Refusals
from milepost.stores.url import StoreUrl
from milepost.stores.webhooks import Steps, StoredWebhooks, event_columns

MAX_ATTEMPTS = 5
JOURNAL_KEYS = {"journal_stream_version_key", "journal_pkey"}  # of 0001_journal.sql


@asynccontextmanager
async def open_postgresql(store_url: StoreUrl, *, events_chunk_size: int = 500) -> AsyncIterator["PostgresqlStore"]:
    """Open the database, migrate it, and close it at the end of the block. Other workers may use it, too.

    Raises BadConfiguration, StoreRefused or StoreAway.
    """
    await migrate(store_url)
    statements = load_statements("postgresql", "statements", "webhooks", "deliveries")
    async with connected(store_url, with_inserts(statements)) as database:
        await database.demand_finished()
        await database.rows("demand_writable")
        yield PostgresqlStore(database, events_chunk_size)


class PostgresqlStore(PostgresqlSession, OpenStore):
    """The Store (see core/ports.py) in a PostgreSQL database. Made by `open_postgresql`."""

    refusals = Refusals((*REFUSALS, Outdated), reason_of, conflict_hint="the stream continues from there")

    def __init__(self, database: Database, events_chunk_size: int) -> None:
        super().__init__(database.read)
        self.name = database.name
        self.write = database.rows
        self.webhooks = PostgresqlWebhookInbox(database)
        self.deliveries = PostgresqlDeliveryPlaces(database)
        self.database = database
        self._events_chunk_size = events_chunk_size

    async def watch(self) -> StoreLost:
        """Wait forever: the server keeps the files, and reports by itself if they are gone."""
        never: asyncio.Future[StoreLost] = asyncio.get_running_loop().create_future()
        return await never

    async def load(self, stream: Stream) -> Checkpoint:
        """Return the stream's checkpoint, once no transaction under way may still write to the stream.

        The server finishes a commit that a process has sent, even if the process is killed. A run that began before its
        end would take the dead process for one that took the stream over.
        """
        await self.database.rows("lock_streams", {"streams": [stream.key]})
        return await super().load(stream)

    async def _look_up(self, *asked: tuple[str, Parameters]) -> list[list[TupleRow]]:
        return await self.database.read_together(*asked, is_lookup=True)

    async def _settled_entry(self, stream: Stream, version: int) -> tuple[int, str] | None:
        """Return an entry's seq and hash, once no other transaction that may write it holds the stream's lock."""
        async with self.database.transaction() as connection:
            writer = PostgresqlWriter(self.database, connection)
            await writer.execute("lock_streams", {"streams": [stream.key]})
            return await writer.entry_at(stream, version)

    async def _has_moved_on(self, stream: Stream, version: int, error: Exception) -> bool:
        """Return whether the journal's key refused the version, or another writer has appended it since."""
        is_late = isinstance(error, psycopg.errors.UniqueViolation) and error.diag.constraint_name in JOURNAL_KEYS
        return is_late or await self.entry_at(stream, version) is not None

    async def _refused_rows(self, changes: Changes) -> tuple[RefusedRow, ...]:
        async with self.database.transaction() as connection:
            return await PostgresqlWriter(self.database, connection).refused_rows(changes)

    async def _write_together(self, commits: list[Commit], *, trusts_known: bool) -> list[Committed]:
        """Write a group in one transaction, and try again after a deadlock or another conflict of transactions."""
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await self._attempt(commits, trusts_known=trusts_known)
            except StoreAway as away:
                if not is_contention(away):
                    raise
        return await self._attempt(commits, trusts_known=trusts_known)

    async def _attempt(self, commits: list[Commit], *, trusts_known: bool) -> list[Committed]:
        async with self.database.connection() as connection, AsyncExitStack() as pipelined:
            writer = PostgresqlWriter(self.database, connection, pipelined, trusts_known=trusts_known)
            group = await writer.prepare(commits)
            try:
                return await writer.write(group, self._events_chunk_size)
            except psycopg.Error as error:
                if is_of_statement(error) and not connection.closed:
                    raise
                away = translated(error, self.database.name)
                raise OutcomeUnknown(
                    f"{away.message}, in the middle of a commit", hint="it is settled when the database answers"
                ) from error


# --- webhook events ---------------------------------------------------------------------------------------------------

T = TypeVar("T")


class PostgresqlWebhookInbox(StoredWebhooks):
    """A WebhookInbox (see core/webhooks.py), over the connections of the store.

    Every worker adds events, and any may process them.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database.read, searchable)
        self._database = database

    async def add(self, events: Sequence[WebhookEvent], now: datetime) -> frozenset[str]:
        """Store events durably, except for those about people who were erased; return the keys of the new ones."""
        latest = {event.key: event_columns(event) for event in events}  # a statement may add a key only once
        rows = {"rows": json_rows(list(latest.values())), "now": instant_text(now)}
        return frozenset(key for (key,) in await self._database.rows("add_webhook_events", rows, lock="await_erasures"))

    async def _write(self, steps: Steps[T]) -> T:
        """Run the steps, each in a transaction and a round trip of its own."""
        return await steps(self._database.rows)

    async def _write_alone(self, stream: str, steps: Steps[None]) -> None:
        async with self._database.transaction() as connection:
            fetch = partial(self._database.rows_on, connection)
            await fetch("lock_streams", {"streams": [stream]})
            await fetch("lock_webhook_events")
            await steps(fetch)


# --- delivery places --------------------------------------------------------------------------------------------------


class PostgresqlDeliveryPlaces(StoredDeliveries):
    """DeliveryPlaces (see core/changes.py), over the connections of the store."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.read, database.rows)

    async def hold(self, destination: str, worker: str) -> Delivery | None:
        """Hold a destination for a worker and return its state; None if it does not exist or another one holds it."""
        wanted = {"destination": destination, "worker": worker, "seconds": HOLD_SECONDS}
        return await self._find(destination) if await self._write("hold_delivery", wanted) else None

    async def record(self, before: Delivery, after: Delivery, worker: str) -> bool:
        """Record where a destination stands, if its place is still that of `before` and this worker holds it."""
        parameters = {**parameters_of(before, after), "worker": worker, "seconds": HOLD_SECONDS}
        return bool(await self._write("record_delivery", parameters))

    async def release(self, worker: str) -> None:
        """Release the destinations that a worker holds."""
        await self._write("release_deliveries", {"worker": worker})


@asynccontextmanager
async def open_postgresql_deliveries(store_url: StoreUrl) -> AsyncIterator[PostgresqlDeliveryPlaces]:
    """Open the delivery places of a database, beside running workers or without any.

    Raises StoreRefused if the database has no schema of this program's version, StoreAway if it does not answer.
    """
    async with open_current(store_url, "deliveries") as database:
        yield PostgresqlDeliveryPlaces(database)


# --- erasing a person, removing a stream ------------------------------------------------------------------------------


async def forget_in_postgresql(store_url: StoreUrl, stream: Stream, contact_id: str) -> Forgotten:
    """Erase a contact of a page, with their conversations, messages and dead letters' payloads, and keep them out.

    It covers rows written under other pages, too: an account that moves to another page takes its people along.

    Works beside running workers, whose commits wait meanwhile. A contact that is not stored is kept out as well. A dead
    letter's entries in the journal stay; a worker closes it. The server overwrites erased rows when it vacuums the
    tables. Until then they remain there, and longer in its write-ahead log, replicas and backups.

    Raises StoreRefused if the database has no schema of this program's version, StoreAway if it does not answer.
    """
    async with _writer(store_url) as writer:
        await writer.keep_others_out()
        return await writer.erase(stream, [contact_id])


async def remove_from_postgresql(store_url: StoreUrl, stream: Stream, by: str, now: datetime) -> StreamRows | None:
    """Remove a stream with all its rows and return how many there were, or None if nothing of it is stored.

    Works beside workers: those of other streams go on, and a worker of this stream finds at its next commit that the
    stream has moved on. The entry and the deletions are one transaction. The server overwrites deleted rows when it
    vacuums the tables.

    Raises StoreRefused if the database has no schema of this program's version, StoreAway if it does not answer.
    """
    async with _writer(store_url) as writer:
        await writer.execute("lock_streams", {"streams": [stream.key]})  # nobody writes to it until this is committed
        commit = removal(await writer.load(stream), by, now)
        if commit is None:
            return None
        rows = await writer.count_rows(stream)
        await writer.write([Prepared(commit, Changes(), (), ())], 1)
    return rows


@asynccontextmanager
async def _writer(store_url: StoreUrl) -> AsyncIterator[PostgresqlWriter]:
    """Open the database for one transaction, which may take a long time."""
    async with open_current(store_url) as database, database.long_transaction() as connection:
        yield PostgresqlWriter(database, connection)
