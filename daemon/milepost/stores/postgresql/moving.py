"""A PostgreSQL schema as one of the two of a copy. Rows go in by COPY, a chunk a transaction."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from milepost.core.errors import RowsRejected, StoreBusy, StoreRefused
from milepost.core.journal import Codec
from milepost.stores.moving import Key, Row, Table
from milepost.stores.postgresql.connection import NO_TIMEOUT, Connection, Database, connected
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.errors import REFUSALS, errors_of, reason_of
from milepost.stores.postgresql.migrate import demand_current, has_schema, migrate
from milepost.stores.postgresql.notify import are_at_work
from milepost.stores.postgresql.reader import PostgresqlReader
from milepost.stores.sql import load_statements
from milepost.stores.unfinished import Mark
from milepost.stores.url import StoreUrl


@asynccontextmanager
async def open_postgresql_origin(store_url: StoreUrl) -> AsyncIterator["PostgresqlHouse"]:
    """Open the database for being copied. Raises BadConfiguration, StoreRefused or StoreAway."""
    await demand_current(dsn_of(store_url))
    async with _opened(store_url) as house:
        await house.database.demand_finished()
        yield house


@asynccontextmanager
async def open_postgresql_target(store_url: StoreUrl) -> AsyncIterator["PostgresqlHouse"]:
    """Open the database for being copied into, its schema made where there is none.

    Raises BadConfiguration, StoreBusy, StoreRefused or StoreAway.
    """
    dsn = dsn_of(store_url)
    async with _opened(store_url) as house:
        if not await has_schema(store_url):
            if await house.database.rows("has_relations", (dsn.schema,)):
                what = f"the schema {dsn.schema} in {dsn.name} is not empty, and not Milepost's"
                raise StoreRefused(what, hint="copy into another one: ?schema=name at the end of the URL")
            await migrate(dsn)
        elif not await house.database.rows("has_entries"):
            await migrate(dsn)
        await demand_current(dsn)
        async with house.held():
            yield house


@asynccontextmanager
async def _opened(store_url: StoreUrl) -> AsyncIterator["PostgresqlHouse"]:
    async with connected(
        dsn_of(store_url), load_statements("postgresql") | load_statements("postgresql", "moving")
    ) as database:
        yield PostgresqlHouse(store_url, database)


class PostgresqlHouse:
    """An Origin and a Target (see stores/moving.py). Made by `open_postgresql_origin` and `open_postgresql_target`."""

    def __init__(self, store_url: StoreUrl, database: Database) -> None:
        self.journal_reader = PostgresqlReader(database, Codec())
        self.database = database
        self._store_url = store_url
        self._hold: Connection | None = None

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Copy alone into it during the block. Raises StoreBusy where somebody else does."""
        async with self.database.transaction() as connection:
            asked = {"schema": self.database.dsn.schema}
            cursor = await connection.execute(self.database.sql["hold"], asked)
            _, is_held = await cursor.fetchone() or ("", False)
            if not is_held:
                raise StoreBusy(f"another copy into {self._store_url} is under way", hint="wait for its end")
            self._hold = connection
            yield

    async def read(self, table: Table, after: Key, limit: int) -> list[Row]:
        """Give up to `limit` rows whose keys follow `after`, in the order of their keys."""
        return await self.database.rows(f"read_{table.name}", (*after, limit))

    async def count(self, table: Table) -> int:
        """Count the rows of a table."""
        async with self.database.transaction(statement_timeout=NO_TIMEOUT) as connection:
            cursor = await connection.execute(self.database.sql[f"count_{table.name}"])
            (count,) = await cursor.fetchone() or (0,)
        return int(count)

    async def is_at_work(self) -> bool:
        """Whether a Milepost works on it, though it should not."""
        return await are_at_work(self._store_url)

    async def write(self, table: Table, gone: Sequence[Key], new: Sequence[Row]) -> None:
        """Remove rows and then add some, in one transaction. Raises RowsRejected if one will not be taken."""
        sql = self.database.sql
        try:
            async with self.database.transaction(statement_timeout=NO_TIMEOUT) as connection:
                if gone:
                    columns = [list(column) for column in zip(*gone, strict=True)]
                    await connection.execute(sql[f"remove_{table.name}"], columns)
                async with connection.cursor().copy(sql[f"add_{table.name}"]) as copied:
                    for row in new:
                        await copied.write_row(row)
        except REFUSALS as error:
            raise _refusal(error, new) from None

    async def mark(self) -> Mark | None:
        """Give the mark of an unfinished copy into this database."""
        return await self.database.mark()

    async def set_mark(self, mark: Mark | None) -> None:
        """Set the mark, durably; None removes it, and ends the hold: both or neither."""
        if mark is not None:
            await self.database.rows("set_mark", (mark.source, mark.since))
        elif self._hold is not None:
            with errors_of(self.database.dsn.name):
                await self._hold.execute(self.database.sql["remove_mark"])
                await self._hold.commit()


def _refusal(error: Exception, new: Sequence[Row]) -> RowsRejected:
    if any("\0" in value for row in new for value in row if isinstance(value, str)):
        what = "a text in it holds a NUL character, which PostgreSQL does not take"
        return RowsRejected(what, hint="with --replace-nul, U+FFFD is written in its place")
    return RowsRejected(reason_of(error), hint="mend that row in the database that is copied, and run it again")
