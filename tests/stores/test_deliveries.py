"""The places of deliveries in any database."""

import asyncio
from datetime import timedelta

from msgspec.structs import replace

from kit.builders import NOON, at
from kit.postgres import Database
from milepost.core.changes import HOLD_SECONDS, Answer, Delivery, DeliveryResult, delivered, failed
from milepost.stores.open import open_deliveries, open_store
from milepost.stores.store import OpenStore
from stores.store_dump import IN_POSTGRESQL, IN_SQLITE, StoreDump

ME = "worker 1"
REFUSED = Answer(DeliveryResult.REFUSED, "HTTP 500")


async def held(store: OpenStore, destination: str = "crm") -> Delivery:
    delivery = await store.deliveries.hold(destination, ME)
    assert delivery is not None
    return delivery


class TestDeliveries:
    async def test_a_destination_begins_once(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.deliveries.begin("crm", 7)
            await store.deliveries.begin("crm", 9)
            await store.deliveries.begin("erp", 0)
            assert await store.deliveries.all() == {"crm": Delivery("crm", 7), "erp": Delivery("erp", 0)}
            assert await held(store) == Delivery("crm", 7)
            assert await store.deliveries.hold("other", ME) is None

    async def test_what_becomes_of_a_destination_is_there_after_a_restart(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.deliveries.begin("crm", 7)
            first = await held(store)
            second = failed(replace(first, behind_since=NOON), REFUSED, at(1), 0.5)
            assert await store.deliveries.record(first, second, ME)
        async with open_store(kept.store_url) as store:
            assert await held(store) == second
            third = delivered(second, 2**53 + 1, at(2), at(3))
            assert await store.deliveries.record(second, third, ME)
        async with open_store(kept.store_url) as store:
            assert await held(store) == third

    async def test_nothing_is_recorded_of_a_place_that_was_moved(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.deliveries.begin("crm", 7)
            before = await held(store)
            assert await store.deliveries.move("crm", 3)
            assert not await store.deliveries.record(before, delivered(before, 9, None, NOON), ME)
            assert not await store.deliveries.record(before, failed(before, REFUSED, NOON, 0.0), ME)
            assert await held(store) == Delivery("crm", 3, replays=1)

    async def test_a_move_to_the_same_place_counts_as_one(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store:
            await store.deliveries.begin("crm", 7)
            before = await held(store)
            assert await store.deliveries.move("crm", 7)
            assert not await store.deliveries.record(before, delivered(before, 9, None, NOON), ME)
            assert await held(store) == Delivery("crm", 7, replays=1)

    async def test_an_operator_pauses_while_a_request_is_made(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store, open_deliveries(kept.store_url) as beside:
            await store.deliveries.begin("crm", 7)
            before = await held(store)
            assert await beside.pause("crm", NOON)
            assert await beside.pause("crm", NOON + timedelta(hours=1))  # it stays paused since the first time
            after = delivered(before, 9, None, at(1))
            assert await store.deliveries.record(before, after, ME)
            assert await held(store) == replace(after, paused_at=NOON)
            assert await beside.resume("crm")
            assert await held(store) == after

    async def test_a_resumed_destination_is_tried_at_once(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store, open_deliveries(kept.store_url) as beside:
            await store.deliveries.begin("crm", 7)
            before = await held(store)
            after = failed(before, REFUSED, NOON, 0.0)
            await store.deliveries.record(before, after, ME)
            assert await beside.resume("crm")
            assert await held(store) == replace(after, retry_at=None, failures=0)

    async def test_a_destination_that_is_resumed_while_a_request_fails_is_tried_at_once(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store, open_deliveries(kept.store_url) as beside:
            await store.deliveries.begin("crm", 7)
            first = await held(store)
            before = failed(failed(first, REFUSED, NOON, 0.0), REFUSED, at(1), 0.0)
            assert await store.deliveries.record(first, before, ME)
            assert await beside.resume("crm")
            after = failed(before, REFUSED, at(2), 0.0)
            assert await store.deliveries.record(before, after, ME)
            assert await held(store) == replace(after, retry_at=None, failures=1)

    async def test_a_destination_that_is_resumed_while_a_request_is_confirmed_goes_on(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store, open_deliveries(kept.store_url) as beside:
            await store.deliveries.begin("crm", 7)
            first = await held(store)
            before = failed(first, REFUSED, NOON, 0.0)
            assert await store.deliveries.record(first, before, ME)
            assert await beside.resume("crm")
            after = delivered(before, 9, None, at(1))
            assert await store.deliveries.record(before, after, ME)
            assert await held(store) == after

    async def test_a_moved_destination_starts_afresh(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url) as store, open_deliveries(kept.store_url) as beside:
            await store.deliveries.begin("crm", 7)
            before = await held(store)
            await store.deliveries.record(before, failed(before, REFUSED, NOON, 0.0), ME)
            assert await beside.move("crm", 0)
            assert await beside.all() == {"crm": Delivery("crm", 0, replays=1)}

    async def test_there_is_nothing_to_do_for_an_unknown_destination(self, kept: StoreDump) -> None:
        async with open_store(kept.store_url), open_deliveries(kept.store_url) as beside:
            assert not await beside.pause("crm", NOON)
            assert not await beside.resume("crm")
            assert not await beside.move("crm", 0)


# --- SQLite -----------------------------------------------------------------------------------------------------------


@IN_SQLITE
async def test_a_new_process_need_not_wait_for_a_dead_one(kept: StoreDump) -> None:
    async with open_store(kept.store_url) as store:
        await store.deliveries.begin("crm", 7)
        assert await store.deliveries.hold("crm", "a process that is killed") is not None
    async with open_store(kept.store_url) as store:
        assert await store.deliveries.hold("crm", "the next one") is not None


# --- PostgreSQL, where one worker at a time holds a destination -------------------------------------------------------


TIME_PASSES = f"UPDATE delivery_holds SET held_until = held_until - make_interval(secs => {HOLD_SECONDS})"


@IN_POSTGRESQL
async def test_one_of_several_workers_holds_a_destination(kept: StoreDump) -> None:
    async with open_store(kept.store_url) as one, open_store(kept.store_url) as other:
        await one.deliveries.begin("crm", 7)
        found = await asyncio.gather(
            *(store.deliveries.hold("crm", f"worker {n}") for n, store in enumerate((one, other, one, other)))
        )
        assert sum(delivery is not None for delivery in found) == 1


@IN_POSTGRESQL
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


@IN_POSTGRESQL
async def test_recording_a_delivery_prolongs_the_hold(kept: StoreDump, database: Database) -> None:
    async with open_store(kept.store_url) as store:
        await store.deliveries.begin("crm", 7)
        before = await store.deliveries.hold("crm", "one")
        assert before is not None
        database.sql(TIME_PASSES)
        assert await store.deliveries.record(before, delivered(before, 9, None, NOON), "one")
        assert await store.deliveries.hold("crm", "other") is None


@IN_POSTGRESQL
async def test_a_released_destination_is_free_at_once(kept: StoreDump) -> None:
    async with open_store(kept.store_url) as store:
        for name in ("crm", "erp"):
            await store.deliveries.begin(name, 7)
        assert await store.deliveries.hold("crm", "one") is not None
        assert await store.deliveries.hold("erp", "other") is not None
        await store.deliveries.release("one")
        assert await store.deliveries.hold("crm", "other") is not None
        assert await store.deliveries.hold("erp", "one") is None
