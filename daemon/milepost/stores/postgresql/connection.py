"""Connections to PostgreSQL from a pool, and transactions that rely on no session state."""

import asyncio
import select
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, nullcontext
from weakref import WeakKeyDictionary

import psycopg
from msgspec import Struct
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from milepost.core.errors import MilepostError, StoreAway
from milepost.stores.copy import UnfinishedCopy
from milepost.stores.postgresql.errors import errors_of, translated
from milepost.stores.postgresql.liveness import answering_within, while_answering
from milepost.stores.reader import Parameters
from milepost.stores.url import StoreUrl

Connection = psycopg.AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]

MAX_CONNECTIONS = 6
POOL_TIMEOUT_SECONDS = 10.0
MAX_IDLE_SECONDS = 120.0

# Overrides the database's default: reads under a lock must see everything that was committed when the lock was taken.
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
STATEMENT_TIMEOUT = "30s"
NO_TIMEOUT = "0"
# A live server enforces its own timeouts. These are for one that is frozen, or that the network no longer reaches.
ANSWER_SECONDS = 60.0
CHECK_SECONDS = 3.0
TRUSTED_SECONDS = 1.0  # so long a connection that answered is not checked, as that costs a round trip

_answered_at: WeakKeyDictionary[Connection, float] = WeakKeyDictionary()


def settings(schema: str, statement_timeout: str = STATEMENT_TIMEOUT, *, is_lookup: bool = False) -> dict[str, object]:
    """Return the parameters of the statement `settings`, with which every transaction begins."""
    return {"schema": schema, "statement_timeout": statement_timeout, "is_lookup": is_lookup}


class Database:
    """A schema, the pool of connections to it, and the statements to run. Made by `connected`."""

    def __init__(
        self, store_url: StoreUrl, pool: Pool, sql: Mapping[str, str], max_connections: int | None = None
    ) -> None:
        self.store_url = store_url
        self.name = store_url.name
        self.pool = pool
        self.sql = sql
        self._turns = nullcontext() if max_connections is None else asyncio.Semaphore(max_connections)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection inside a transaction, which is committed at the end, or rolled back if the block raises.

        Raises StoreAway or StoreRefused, and one of REFUSALS for a refused row.
        """
        async with self.connection() as connection:
            await self.begin(connection)
            yield connection

    @asynccontextmanager
    async def long_transaction(self) -> AsyncIterator[Connection]:
        """Yield a connection inside a transaction with no time limit while the server is alive; see `transaction`."""
        with errors_of(self.name):
            async with self._turns, self._working() as connection, while_answering(self.store_url, connection):
                await self.begin(connection, NO_TIMEOUT)
                yield connection
                await connection.commit()

    async def rows(self, statement: str, parameters: Parameters = (), *, lock: str | None = None) -> list[TupleRow]:
        """Run a statement in a transaction of its own, in one round trip. Raises as `transaction` does.

        `lock` names a statement to run before it.
        """
        async with self.connection() as connection:
            async with connection.pipeline():
                await self.begin(connection)
                if lock is not None:
                    await connection.execute(self.sql[lock])
                cursor = await connection.execute(self.sql[statement], parameters)
                await self.commit(connection)
            return await cursor.fetchall() if cursor.description else []

    async def read(self, statement: str, parameters: Parameters = ()) -> list[TupleRow]:
        """Run a statement that only reads, in one round trip. Raises as `transaction` does."""
        (found,) = await self.read_together((statement, parameters))
        return found

    async def read_together(self, *asked: tuple[str, Parameters], is_lookup: bool = False) -> list[list[TupleRow]]:
        """Run statements that only read, in one round trip; lookups are planned once. Raises as `transaction` does.

        Everything that a pipeline sends before its end is one transaction, even without BEGIN and COMMIT.
        """
        async with self.connection() as connection:
            async with connection.pipeline():
                await self._set_up(connection, is_lookup=is_lookup)
                cursors = [await connection.execute(self.sql[each], parameters) for each, parameters in asked]
            return [await cursor.fetchall() if cursor.description else [] for cursor in cursors]

    async def rows_on(self, connection: Connection, statement: str, parameters: Parameters = ()) -> list[TupleRow]:
        """Run a statement on a connection, inside its transaction."""
        cursor = await connection.execute(self.sql[statement], parameters)
        return await cursor.fetchall() if cursor.description else []

    async def demand_finished(self) -> None:
        """Raise StoreRefused if a copy into this database is not finished."""
        for mark in await self.rows("unfinished_copy"):
            raise UnfinishedCopy(*mark).refusal(self.name)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Yield a connection. A transaction on it is committed at the end. Raises as `transaction` does."""
        with errors_of(self.name), ExitStack() as deadline:
            try:
                async with self._turns, self._working() as connection:
                    deadline.enter_context(answering_within(ANSWER_SECONDS, connection))
                    yield connection
            except PoolTimeout as error:
                raise await self.why_away() from error

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[Connection]:
        """Yield a connection of the pool that still answers.

        Not with the pool's own check: that waits longer after each broken connection, and after a restart of the server
        all of them are broken.
        """
        for left in reversed(range(MAX_CONNECTIONS + 1)):
            cancellations = _cancellations()
            connection = await self.pool.getconn()
            try:
                if _cancellations() > cancellations:
                    raise asyncio.CancelledError
                if left and not (self._is_sound(connection) or await _answers(connection)):
                    continue
                async with connection:
                    yield connection
                _answered_at[connection] = asyncio.get_running_loop().time()
                return
            finally:
                await self.pool.putconn(connection)  # the pool replaces a broken one

    def _is_sound(self, connection: Connection) -> bool:
        """Return whether a connection answered a moment ago and has received nothing since.

        A server that ends a session sends a message. A pooler does not, and may have lost its server unnoticed.
        """
        answered_at = _answered_at.get(connection)
        if answered_at is None or self.store_url.is_pooled:
            return False
        return asyncio.get_running_loop().time() - answered_at < TRUSTED_SECONDS and not _has_news(connection)

    async def begin(self, connection: Connection, statement_timeout: str = STATEMENT_TIMEOUT) -> None:
        """Begin a transaction, and make settings that end with it. In a pipeline, do not wait for the result."""
        await connection.execute(BEGIN, prepare=False)
        await self._set_up(connection, statement_timeout)

    async def _set_up(
        self, connection: Connection, statement_timeout: str = STATEMENT_TIMEOUT, *, is_lookup: bool = False
    ) -> None:
        await connection.execute(
            self.sql["settings"], settings(self.store_url.schema, statement_timeout, is_lookup=is_lookup)
        )

    async def commit(self, connection: Connection) -> None:
        """Commit the transaction that `begin` began. In a pipeline, do not wait for the result."""
        await connection.execute("COMMIT", prepare=False)

    async def why_away(self) -> MilepostError:
        """Return the reason why the pool gets no connection, which the pool itself does not report."""
        try:
            async with await psycopg.AsyncConnection.connect(self.store_url.url, **self.store_url.connect_kwargs()):
                return StoreAway(
                    f"the database {self.name} does not answer: no connection was free in time",
                    hint="retrying",
                )
        except (psycopg.Error, OSError) as reason:
            return translated(reason, self.name)


@asynccontextmanager
async def connected(
    store_url: StoreUrl, sql: Mapping[str, str], *, max_connections: int | None = None
) -> AsyncIterator[Database]:
    """Yield a database over the process's pool; it uses at most `max_connections` at once, or all of the pool.

    Raises StoreAway or StoreRefused if no connection can be made.
    """
    async with shared_pool(store_url) as pool:
        yield Database(store_url, pool, sql, max_connections)


def _cancellations() -> int:
    """Return how often this task was cancelled: a cancellation that arrives together with a connection may be lost.

    The pool waits with `asyncio.wait_for`, which loses it on Python 3.11 (CPython's issue 86296, psycopg's 1413).
    """
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _has_news(connection: Connection) -> bool:
    """Return whether the connection has received anything unasked, or was closed by the server."""
    arrived = select.poll()
    arrived.register(connection.fileno(), select.POLLIN)
    return bool(arrived.poll(0))


async def _answers(connection: Connection) -> bool:
    try:
        with answering_within(CHECK_SECONDS, connection):
            await AsyncConnectionPool.check_connection(connection)
    except psycopg.OperationalError:
        return False
    return True


# --- the pool that a process's store, readers and queue share, one for each database ----------------------------------


class _Shared(Struct, eq=False):
    """A pool and the number of its users."""

    pool: Pool
    users: int = 0


_shared: dict[tuple[asyncio.AbstractEventLoop, StoreUrl], _Shared] = {}


@asynccontextmanager
async def shared_pool(store_url: StoreUrl) -> AsyncIterator[Pool]:
    """Yield the pool of a database; its last user closes it.

    Raises StoreAway or StoreRefused if no connection can be made.
    """
    key = asyncio.get_running_loop(), store_url
    if key not in _shared:
        await _demand_connection(store_url)
    if key not in _shared:  # unless another task was faster
        _shared[key] = _Shared(_new_pool(store_url))
    shared = _shared[key]
    shared.users += 1
    try:
        await shared.pool.open()
        yield shared.pool
    finally:
        shared.users -= 1
        if not shared.users:
            del _shared[key]
            await shared.pool.close()


async def _demand_connection(store_url: StoreUrl) -> None:
    """Make one connection outside the pool: its error says what is wrong, which the pool does not."""
    with errors_of(store_url.name):
        async with await psycopg.AsyncConnection.connect(store_url.url, **store_url.connect_kwargs()):
            pass


def _new_pool(store_url: StoreUrl) -> Pool:
    return AsyncConnectionPool(
        store_url.url,
        # Without autocommit, psycopg sends a BEGIN of its own and waits for it, even in a pipeline.
        kwargs=store_url.connect_kwargs() | {"autocommit": True},
        min_size=1,
        max_size=MAX_CONNECTIONS,
        max_idle=MAX_IDLE_SECONDS,
        timeout=POOL_TIMEOUT_SECONDS,
        reconnect_timeout=POOL_TIMEOUT_SECONDS,  # its waits double, until the next request restarts them
        configure=_prepare_only_in_own_session,
        name=store_url.name,
        open=False,
    )


async def _prepare_only_in_own_session(connection: Connection) -> None:
    """Let psycopg prepare no statement if the connection leads to a pooler, whether the configuration says so or not.

    A pooler announces a process id of its own. It may execute a statement in another client's session, where another
    statement may have its name.
    """
    with answering_within(POOL_TIMEOUT_SECONDS, connection):
        (process_id,) = await (await connection.execute("SELECT pg_backend_pid()")).fetchone() or (0,)
    if process_id != connection.info.backend_pid:
        connection.prepare_threshold = None
