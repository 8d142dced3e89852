"""Reads a PostgreSQL journal beside the workers: follows it and its changes, verifies it, rebuilds its projections.

PostgreSQL announces the workers' commits, and each worker that is alive has a heartbeat.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial

import psycopg
import structlog
from psycopg import IsolationLevel, sql
from psycopg.rows import TupleRow

from milepost.core.changes import ALL_KINDS, Change, ChangeKind, ChangesPage
from milepost.core.errors import StoreAway
from milepost.core.events import Entry
from milepost.core.model import Stream
from milepost.stores import audit, rows
from milepost.stores.audit import Ledger, Row, Table
from milepost.stores.changes import ChangesAsked, changed, deleted, read_changes
from milepost.stores.postgresql.connection import ANSWER_SECONDS, NO_TIMEOUT, Connection, Database, settings
from milepost.stores.postgresql.encoding import json_projection, storable_row
from milepost.stores.postgresql.errors import errors_of
from milepost.stores.postgresql.liveness import answering_within, hang_up, while_answering
from milepost.stores.postgresql.migrate import open_current
from milepost.stores.postgresql.queries import PostgresqlSession
from milepost.stores.reader import Audit, JournalReader, Parameters, load_statements
from milepost.stores.url import StoreUrl

ENTRIES_PER_FETCH = 2_000
HELD_UP_SECONDS = 60.0  # Milepost's own transactions take seconds; only erasing and removing take longer
MAX_READERS = 3  # concurrent ones: this leaves connections for commits, however many requests there are


@asynccontextmanager
async def open_postgresql_reader(store_url: StoreUrl) -> AsyncIterator["PostgresqlReader"]:
    """Open the database for reading. Raises StoreRefused unless it has this program's schema, or StoreAway."""
    async with open_current(store_url, "changes", max_connections=MAX_READERS) as database:
        yield PostgresqlReader(database)


class PostgresqlReader(PostgresqlSession, JournalReader):
    """The JournalReader (see stores/reader.py) of a PostgreSQL database. Made by `open_postgresql_reader`."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.read)
        self._database = database
        self._held_up_at: int | None = None
        self._held_up_since = 0.0

    async def seq_before(self, instant: datetime) -> int:
        """Return the seq of the last entry that was recorded before an instant; 0 if there is none."""
        async with self._database.transaction() as connection:  # one for many statements saves round trips
            return await PostgresqlSession(partial(self._database.rows_on, connection)).seq_before(instant)

    async def read_changes(
        self,
        after: int,
        limit: int,
        kinds: AbstractSet[ChangeKind] = ALL_KINDS,
        stream: Stream | None = None,
        mark: str = "",
    ) -> ChangesPage:
        """Return up to `limit` changes with a seq greater than `after`. Raises HistoryRewritten: see ChangeReader."""
        asked, database = ChangesAsked(after, limit, kinds, stream, mark), self._database
        async with database.connection() as connection:
            ends = await self._ends(connection)
            fetch, read_rows = (
                partial(database.rows_on, connection),
                partial(_rows_between, asked, database, connection),
            )
            return await read_changes(asked, ends, fetch, read_rows)

    async def last_change(self) -> int:
        """Return the seq of the latest change; 0 if there is none."""
        async with self._database.connection() as connection:
            last, _ = await self._ends(connection)
            return last

    async def _ends(self, connection: Connection) -> tuple[int, int]:
        """Do as `_settled_and_latest`, and warn if a transaction holds the feed up."""
        last, latest = await _settled_and_latest(self._database, connection)
        now = asyncio.get_running_loop().time()
        held_up_at = last if last < latest else None
        if held_up_at is None or held_up_at != self._held_up_at:
            self._held_up_at, self._held_up_since = held_up_at, now
        elif now - self._held_up_since >= HELD_UP_SECONDS:
            self._held_up_since = now
            log = structlog.get_logger("milepost")
            hint = (
                "unless it is a `milepost contacts forget` or `streams remove`, end it, so that consumers get what has"
                " changed since: SELECT pid, application_name, xact_start FROM pg_stat_activity"
            )
            log.warning("change feed held up by an open transaction", after=last, waiting=latest - last, hint=hint)
        return last, latest

    async def verify(self) -> Audit:
        """Check every hash chain, and that every projection equals its fold. Raises JournalDamaged."""
        return await self._audit(_verify)

    async def rebuild(self) -> Audit:
        """Rebuild the projections from the journal, in one transaction. Raises JournalDamaged."""
        return await self._audit(_rebuild)

    async def _audit(self, function: "Callable[[PostgresqlLedger], Audit]") -> Audit:
        """Call a function in a thread with a connection of its own, which is broken if the caller is cancelled."""
        store_url = self._database.store_url
        with errors_of(store_url.name):
            connection = await asyncio.to_thread(psycopg.connect, store_url.url, **store_url.connect_kwargs())
        ledger = PostgresqlLedger(self._database.sql, connection, store_url.schema)

        def audited() -> Audit:
            with errors_of(store_url.name), connection:
                return function(ledger)

        try:
            async with while_answering(store_url, connection):
                return await asyncio.to_thread(audited)
        except asyncio.CancelledError:
            hang_up(connection)
            raise


# --- the change feed --------------------------------------------------------------------------------------------------

# Concurrent transactions take numbers from one sequence, so one with smaller numbers may be committed after one with
# greater ones. The feed is read only up to the smallest number of a transaction under way: below that it is complete.
# See 0016_changes.sql.

KEYS_OF_LOCKS = 1 << 31
"""A transaction's lock has a number of the feed, modulo this, as its key."""


def settled(last: int, in_use: Iterable[int]) -> int:
    """Return the number up to which the feed is settled. `last` must have been read before `in_use`.

    A transaction that began in between holds the key of a number after `last`, and is left out.
    """
    behind = [(last - key) % KEYS_OF_LOCKS for key in in_use]
    return last - max((each for each in behind if each < KEYS_OF_LOCKS // 2), default=0)


async def _settled_and_latest(database: Database, connection: Connection) -> tuple[int, int]:
    """Begin a transaction and return how far the feed is settled, and the number of the latest committed change.

    It takes one round trip. The order of reads matters. Raises StoreAway for a replica, where the locks of the
    transactions under way do not show.
    """
    async with connection.pipeline():
        await database.begin(connection)
        taken = await connection.execute(database.sql["last_number"])
        in_use = await connection.execute(database.sql["numbers_in_use"])
        committed = await connection.execute(database.sql["last_change"])
    ((last, is_replica),), ((latest,),) = await taken.fetchall(), await committed.fetchall()
    if is_replica:
        what = f"the database {database.name} does not answer: a replica cannot tell which changes are complete"
        raise StoreAway(what, hint="let store.url lead to the primary; after a failover, it is retried")
    return min(settled(last, (key for (key,) in await in_use.fetchall())), int(latest)), int(latest)


async def _rows_between(
    asked: ChangesAsked, database: Database, connection: Connection, between: dict[str, object]
) -> list[Change]:
    """Return the changes that the parameters ask for, in one round trip."""
    async with connection.pipeline():
        gone = await connection.execute(database.sql["deleted_rows"], between)
        found = {
            kind: await connection.execute(database.sql[statement], between)
            for kind, statement in asked.statements().items()
        }
    changes = deleted(await gone.fetchall())
    for kind, cursor in found.items():
        names = [column.name for column in cursor.description or ()]
        changes += changed(kind, names, await cursor.fetchall())
    return changes


# --- the audit, in a thread of its own --------------------------------------------------------------------------------


class PostgresqlLedger(Ledger):
    """The Ledger of a PostgreSQL schema, over a connection that blocks."""

    def __init__(self, sql: Mapping[str, str], connection: psycopg.Connection[TupleRow], schema: str) -> None:
        self.connection = connection
        self._sql = sql
        self._schema = schema

    def begin(self) -> None:
        """Begin a transaction, which may take a long time."""
        self.ask("settings", settings(self._schema, NO_TIMEOUT))

    def ask(self, statement: str, parameters: Parameters = ()) -> psycopg.Cursor[TupleRow]:
        """Run a named statement."""
        return self.connection.execute(self._sql[statement], parameters)

    def entries(self) -> Iterator[Entry]:
        """Yield the whole journal, in the order of seq."""
        with self.connection.cursor(name="journal") as cursor:
            cursor.itersize = ENTRIES_PER_FETCH
            for columns in cursor.execute(self._sql["journal"]):
                yield rows.entry(columns)

    def shaped(self, row: Row) -> Row:
        """Return a projected row in the form in which this database stores it: without NUL in its texts."""
        return storable_row(row)

    def stored(self, table: Table, keys: Collection[str]) -> Iterable[Row]:
        """Return the rows of a projection with these keys."""
        return self.ask(f"stored_{table}s", (list(keys),))

    def write(self, table: Table, projected: list[Row]) -> None:
        """Write rows into a projection."""
        self.ask(f"upsert_{table}", {"rows": json_projection(table, projected)})


def _verify(ledger: PostgresqlLedger) -> Audit:
    """Verify the journal as of one moment, while workers go on writing. Raises JournalDamaged."""
    ledger.connection.isolation_level, ledger.connection.read_only = IsolationLevel.REPEATABLE_READ, True
    ledger.begin()
    return audit.verify(ledger)


def _rebuild(ledger: PostgresqlLedger) -> Audit:
    """Rebuild the projections in one transaction, while workers wait. Raises JournalDamaged, with nothing changed."""
    ledger.begin()
    ledger.ask("lock_commits")
    return audit.rebuild(ledger)


# --- what the workers do meanwhile ------------------------------------------------------------------------------------

RECONNECT_SECONDS = 2.0
POLL_SECONDS = 1.0  # for connections through a pooler, which cannot listen
LISTEN_SECONDS = 30.0  # after so long without a notification, the connection is checked
ALIVE_SECONDS = 20.0  # since the last heartbeat; after that a worker counts as dead


@asynccontextmanager
async def listening(store_url: StoreUrl, on_commit: Callable[[], None]) -> AsyncIterator[None]:
    """Call `on_commit` after every commit during the block, or once for several that come together.

    It is also called after a reconnection, as notifications may have been missed, and every second if the URL leads
    through a pooler.
    """
    task = asyncio.create_task(
        _poll(on_commit) if store_url.is_pooled else _listen_always(store_url, on_commit), name="listening"
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _poll(on_commit: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        on_commit()


async def _listen_always(store_url: StoreUrl, on_commit: Callable[[], None]) -> None:
    while True:
        try:
            await _listen(store_url, on_commit)
        except (psycopg.Error, OSError):  # the store reports it
            await asyncio.sleep(RECONNECT_SECONDS)


async def _listen(store_url: StoreUrl, on_commit: Callable[[], None]) -> None:
    async with await psycopg.AsyncConnection.connect(
        store_url.url, autocommit=True, **store_url.connect_kwargs()
    ) as connection:
        with answering_within(ANSWER_SECONDS, connection):
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(store_url.channel)))
        on_commit()
        while True:
            async for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                on_commit()
            with answering_within(ANSWER_SECONDS, connection):
                await connection.execute("SELECT 1")


async def are_at_work(store_url: StoreUrl) -> bool:
    """Return whether any worker is alive. Raises StoreRefused or StoreAway where that cannot be determined."""
    statements = load_statements("postgresql", "statements", "queue")
    with errors_of(store_url.name):
        connection = await psycopg.AsyncConnection.connect(store_url.url, **store_url.connect_kwargs())
        with answering_within(ANSWER_SECONDS, connection):
            async with connection:
                await connection.execute(statements["settings"], settings(store_url.schema))
                (has_queue,) = await (await connection.execute(statements["has_queue_schema"])).fetchone() or (False,)
                if not has_queue:
                    return False
                alive = await connection.execute(statements["workers_at_work"], (ALIVE_SECONDS,))
                (count,) = await alive.fetchone() or (0,)
                return bool(count)
