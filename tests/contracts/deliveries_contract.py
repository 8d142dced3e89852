"""What the places of deliveries must do in any database.

The fixture `kept` is an empty database of this program's schema. See tests/stores/test_contracts.py.
"""

from datetime import timedelta

from msgspec.structs import replace

from kit.builders import NOON, at
from milepost.core.deliveries import Answer, Delivery, DeliveryResult, delivered, failed
from milepost.stores.open import open_deliveries, open_store
from milepost.stores.store import OpenStore
from stores.store_dump import StoreDump

ME = "worker 1"
REFUSED = Answer(DeliveryResult.REFUSED, "HTTP 500")


async def held(store: OpenStore, destination: str = "crm") -> Delivery:
    delivery = await store.deliveries.hold(destination, ME)
    assert delivery is not None
    return delivery


class DeliveriesContract:
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
