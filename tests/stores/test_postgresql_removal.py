"""Removing a stream from PostgreSQL, beside workers."""

import asyncio

import pytest

from contracts.removal_contract import BY, GONE, OTHER, two_lives
from kit.binary import until
from kit.builders import NOON
from kit.postgres import Database
from milepost.core.errors import VersionConflict
from milepost.stores.open import open_store, remove
from stores.histories import live, next_commit
from stores.store_dump import PostgresDump, StoreDump


@pytest.fixture
def kept(database: Database) -> StoreDump:
    return PostgresDump(database)


async def test_a_worker_of_the_removed_stream_writes_nothing_more_of_it(kept: PostgresDump) -> None:
    before, _ = await two_lives(kept)
    async with open_store(kept.store_url) as store:
        in_hand = next_commit(before)

        await remove(kept.store_url, GONE, BY, NOON)

        with pytest.raises(VersionConflict):
            await store.commit(in_hand)
        assert {each.page_id for each in kept.tables().conversations.values()} == {OTHER.page_id}


async def test_other_streams_continue_while_rows_are_deleted(kept: PostgresDump) -> None:
    """The removal waits for a lock on one of its rows, and holds its own meanwhile."""
    await two_lives(kept)
    async with open_store(kept.store_url) as store:
        with kept.database.connect() as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM contact_interaction_events WHERE page_id = 'page-1' FOR UPDATE")
            removing = asyncio.create_task(remove(kept.store_url, GONE, BY, NOON))
            await until(lambda: kept.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))

            version = (await live(store, OTHER, 5)).version

            assert not removing.done()
            reader.execute("ROLLBACK")
        assert await removing is not None
    assert kept.tables().checkpoints[OTHER.key].version == version
