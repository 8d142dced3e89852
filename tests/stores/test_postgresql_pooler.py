"""Through PgBouncer in transaction mode: each transaction may have another session, and none keeps anything."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from msgspec.structs import replace

from contracts.database_contract import DatabaseContract
from kit.builders import STREAM
from kit.pgbouncer import PgBouncer, needs_pgbouncer, pooled
from kit.postgres import Database, Server, fresh_database
from milepost.core.errors import StoreAway
from milepost.stores.open import forget as forget_in
from milepost.stores.open import open_reader, open_store
from milepost.stores.postgresql.store import open_postgresql
from stores.histories import live, next_commit, stream
from stores.store_dump import PostgresDump, StoreDump

pytestmark = needs_pgbouncer


@pytest.fixture
def pooler(database: Database) -> Iterator[PgBouncer]:
    with pooled(database) as pooler:
        yield pooler


@pytest.mark.long
class TestThroughAPooler(DatabaseContract):
    takes_nul = False

    @pytest.fixture
    def kept(self, database: Database, pooler: PgBouncer) -> StoreDump:
        return PostgresDump(database, pooler.store_url)


async def test_everything_works_in_sessions_that_are_shared(postgres: Server) -> None:
    """This includes migrations, and more stores and streams than the pooler has sessions."""
    with fresh_database(postgres, template=None) as database, pooled(database, pool_size=2) as pooler:

        async def work(number: int) -> None:
            async with open_store(pooler.store_url) as store:
                await asyncio.gather(*(live(store, stream(6 * number + each), 8) for each in range(6)))

        await asyncio.gather(*(work(number) for number in range(3)))

        async with open_reader(pooler.store_url) as journal_reader:
            assert (await journal_reader.verify()).streams == 18
            await journal_reader.rebuild()
            await journal_reader.verify()
        await forget_in(pooler.store_url, STREAM, "nobody")
        tables = PostgresDump(database).tables()
        assert tables.checkpoints == tables.refold()
        settings = "SELECT name FROM pg_settings WHERE source = 'session' AND name = 'search_path'"
        assert database.server.sql(settings) == []


async def test_without_store_pooler_no_statement_of_one_session_is_executed_in_another(
    database: Database, pooler: PgBouncer
) -> None:
    """The sessions behind it are shared: under the name of a prepared statement, another client's might be there."""
    unmentioned = replace(pooler.store_url, is_pooled=False)

    async def work(number: int) -> None:
        async with open_store(unmentioned) as store:
            await asyncio.gather(*(live(store, stream(6 * number + each), 8) for each in range(6)))

    await asyncio.gather(*(work(number) for number in range(3)))

    tables = PostgresDump(database).tables()
    assert tables.checkpoints == tables.refold()


async def test_a_restart_of_the_pooler_is_an_absence_that_loses_nothing(database: Database, pooler: PgBouncer) -> None:
    async with open_postgresql(pooler.store_url) as store:
        reached = await live(store, STREAM, 5)
        pooler.stop()
        store.database.pool.timeout = 0.2
        with pytest.raises(StoreAway) as raised:
            await store.commit(next_commit(reached))
        assert database.password not in str(raised.value)
        pooler.start()
        store.database.pool.timeout = 10.0
        async with asyncio.timeout(60):
            while True:
                with suppress(StoreAway):
                    await store.answers()
                    break

        assert await store.load(STREAM) == reached
        assert (await live(store, STREAM, 5)).version > reached.version


async def test_a_restart_of_the_server_behind_the_pooler_is_an_absence_that_loses_nothing(
    database: Database, pooler: PgBouncer
) -> None:
    async with open_postgresql(pooler.store_url) as store:
        reached = await live(store, STREAM, 5)
        await asyncio.to_thread(database.server.kill)
        database.server.start()
        async with asyncio.timeout(60):
            while True:
                with suppress(StoreAway):
                    await store.answers()
                    break

        assert await store.load(STREAM) == reached
        assert (await live(store, STREAM, 5)).version > reached.version
