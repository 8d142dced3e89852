"""Webhook events in PostgreSQL, where several workers share them."""

import asyncio

import pytest

from contracts.webhooks_contract import written
from kit.binary import until
from kit.builders import NOON, STREAM
from kit.postgres import Database
from milepost.stores.open import open_store
from milepost.stores.postgresql.commit import PostgresqlWriter
from milepost.stores.postgresql.connection import connected
from milepost.stores.sql import load_statements
from stores.store_dump import PostgresDump, StoreDump

SETTLE = "settle_webhook_events"


@pytest.fixture
def kept(database: Database) -> StoreDump:
    return PostgresDump(database)


async def test_one_of_several_workers_claims_an_event(kept: StoreDump) -> None:
    async with open_store(kept.store_url) as one, open_store(kept.store_url) as other:
        for number in range(10):
            events = [written(f"m_{number}_{each}") for each in range(20)]
            added = await asyncio.gather(one.webhooks.add(events, NOON), other.webhooks.add(events[::-1], NOON))
            assert sum(map(len, added)) == 20
            claimed = await asyncio.gather(one.webhooks.claim(NOON), other.webhooks.claim(NOON))
            assert {stream for streams in claimed for stream in streams} == {STREAM}
            assert await one.webhooks.claim(NOON) == await other.webhooks.claim(NOON) == ()


async def test_nothing_is_added_of_a_person_while_they_are_erased(kept: StoreDump, database: Database) -> None:
    async with open_store(kept.store_url) as store, connected(kept.store_url, load_statements("postgresql")) as erasing:
        async with erasing.long_transaction() as connection:
            await PostgresqlWriter(erasing, connection).erase(STREAM, "ada")
            adding = asyncio.create_task(store.webhooks.add([written("m_1"), written("m_2", contact_id="bob")], NOON))
            waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            await until(lambda: database.sql(waits) or adding.done())
        assert await adding == {written("m_2").key}


def test_events_are_worked_off_without_reading_all_messages(database: Database) -> None:
    """The tables were never analysed, and hold as many events as they ever may."""
    database.sql(
        "INSERT INTO contact_interaction_events"
        " (event_id, conversation_id, platform, page_id, direction, kind, occurred_at)"
        " SELECT 'm_' || n, 't_1', 'messenger', '1', 'in', 'message', now() FROM generate_series(1, 2000) AS n"
    )
    database.sql(
        "INSERT INTO webhook_events"
        " SELECT 'k_' || n, 'messenger:1', 'message', 'm_' || n, NULL, now(), now(), now(), 0"
        " FROM generate_series(1, 50000) AS n"
    )
    plan = "\n".join(line for (line,) in database.sql(f"EXPLAIN {load_statements('postgresql', 'webhooks')[SETTLE]}"))
    assert "Seq Scan on contact_interaction_events" not in plan
