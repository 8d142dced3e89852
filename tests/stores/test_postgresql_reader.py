"""Reading the journal of a PostgreSQL database, beside workers."""

import asyncio
from collections.abc import Iterator

import pytest

from contracts.reader_contract import STREAMS, JournalReaderContract, fill, finds_a_changed_journal, rebuild, verify
from kit.postgres import Database, Server, fresh_database
from milepost.core.errors import StoreRefused
from milepost.stores.open import open_reader, open_store
from milepost.stores.url import StoreUrl
from stores.store_dump import PostgresDump, StoreDump

LAST_WITH_CURSOR = "(SELECT max(seq) FROM journal WHERE data::text LIKE '%cursor-%')"


@pytest.fixture
def filled(postgres: Server) -> Iterator[StoreDump]:
    with fresh_database(postgres, template=_lived(postgres)) as database:
        yield PostgresDump(database)


@pytest.fixture
def empty(database: Database) -> StoreDump:
    return PostgresDump(database)


def _lived(server: Server) -> str:
    """Return the name of a template with the lives of three streams, which is created once for each server."""

    async def live(store_url: StoreUrl) -> None:
        async with open_store(store_url) as store:
            await fill(store)

    return server.template("template_filled", live)


class TestPostgresqlReader(JournalReaderContract):
    @pytest.mark.parametrize(
        "tampering",
        [
            f"UPDATE journal SET data = replace(data::text, 'cursor-', 'corsar-')::json WHERE seq = {LAST_WITH_CURSOR}",
            "UPDATE journal SET data = (data::text || ' ')::json WHERE seq = 60",
            "UPDATE journal SET data = '{}' WHERE seq = 60",
            "UPDATE journal SET recorded_at = recorded_at + interval '1 millisecond' WHERE seq = 60",
            "UPDATE journal SET recorded_at = 'infinity' WHERE seq = 60",
            "TRUNCATE journal",
        ],
    )
    async def test_verify_detects_changed_texts_of_the_journal(self, filled: PostgresDump, tampering: str) -> None:
        await finds_a_changed_journal(filled, tampering)

    async def test_a_rebuild_beside_workers_leaves_nothing_out(self, filled: StoreDump) -> None:
        async with open_store(filled.store_url) as store, asyncio.TaskGroup() as group:
            writing = group.create_task(fill(store))
            rebuilt = 0
            while not writing.done():
                await rebuild(filled)
                rebuilt += 1
        assert rebuilt > 1
        await verify(filled)


class TestOpening:
    async def test_a_database_without_the_schema_is_refused_and_stays_so(self, postgres: Server) -> None:
        with fresh_database(postgres, template=None) as database:
            with pytest.raises(StoreRefused, match="milepost run"):
                async with open_reader(database.store_url):
                    pass

            assert database.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'milepost'") == []

    @pytest.mark.parametrize("postgres", ["oldest"], indirect=True)  # Debian's is built with ICU
    async def test_streams_are_ordered_by_their_bytes_whatever_the_collation(self, postgres: Server) -> None:
        language = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
        with fresh_database(postgres, template=None, options=language) as database:
            async with open_store(database.store_url) as store:
                await fill(store)
            async with open_reader(database.store_url) as journal_reader:
                assert [each.stream.key for each in await journal_reader.checkpoints()] == sorted(
                    each.key for each in STREAMS
                )
