"""The places of deliveries in PostgreSQL, where one worker at a time holds each."""

import asyncio

import pytest

from kit.builders import NOON
from kit.postgres import Database
from milepost.core.deliveries import HOLD_SECONDS, delivered
from milepost.stores.open import open_store
from stores.store_dump import PostgresDump, StoreDump

TIME_PASSES = f"UPDATE delivery_holds SET held_until = held_until - make_interval(secs => {HOLD_SECONDS})"


@pytest.fixture
def kept(database: Database) -> StoreDump:
    return PostgresDump(database)


async def test_one_of_several_workers_holds_a_destination(kept: StoreDump) -> None:
    async with open_store(kept.store_url) as one, open_store(kept.store_url) as other:
        await one.deliveries.begin("crm", 7)
        found = await asyncio.gather(
            *(store.deliveries.hold("crm", f"worker {n}") for n, store in enumerate((one, other, one, other)))
        )
        assert sum(delivery is not None for delivery in found) == 1


async def test_a_destination_passes_to_another_worker_when_its_own_is_silent(
    kept: StoreDump, database: Database
) -> None:
    async with open_store(kept.store_url) as one, open_store(kept.store_url) as other:
        await one.deliveries.begin("crm", 7)
        before = await one.deliveries.hold("crm", "one")
        assert before is not None
        assert await other.deliveries.hold("crm", "other") is None
        database.sql(TIME_PASSES)
        assert await other.deliveries.hold("crm", "other") == before
        assert await one.deliveries.hold("crm", "one") is None
        assert not await one.deliveries.record(before, delivered(before, 9, None, NOON), "one")
        assert await other.deliveries.record(before, delivered(before, 8, None, NOON), "other")


async def test_recording_a_delivery_prolongs_the_hold(kept: StoreDump, database: Database) -> None:
    async with open_store(kept.store_url) as store:
        await store.deliveries.begin("crm", 7)
        before = await store.deliveries.hold("crm", "one")
        assert before is not None
        database.sql(TIME_PASSES)
        assert await store.deliveries.record(before, delivered(before, 9, None, NOON), "one")
        assert await store.deliveries.hold("crm", "other") is None


async def test_a_released_destination_is_free_at_once(kept: StoreDump) -> None:
    async with open_store(kept.store_url) as store:
        for name in ("crm", "erp"):
            await store.deliveries.begin(name, 7)
        assert await store.deliveries.hold("crm", "one") is not None
        assert await store.deliveries.hold("erp", "other") is not None
        await store.deliveries.release("one")
        assert await store.deliveries.hold("crm", "other") is not None
        assert await store.deliveries.hold("erp", "one") is None
