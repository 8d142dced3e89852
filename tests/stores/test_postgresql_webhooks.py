"""Webhook events in PostgreSQL, where several workers share them."""

import asyncio

import pytest

from contracts.webhooks_contract import WebhooksContract, written
from kit.builders import NOON, STREAM
from kit.postgres import Database
from milepost.stores.open import open_store
from stores.store_dump import PostgresDump, StoreDump


@pytest.fixture
def kept(database: Database) -> StoreDump:
    return PostgresDump(database)


class TestPostgresqlWebhooks(WebhooksContract):
    """In PostgreSQL."""


async def test_one_of_several_workers_claims_an_event(kept: StoreDump) -> None:
    async with open_store(kept.store_url) as one, open_store(kept.store_url) as other:
        for number in range(10):
            events = [written(f"m_{number}_{each}") for each in range(20)]
            added = await asyncio.gather(one.webhooks.add(events, NOON), other.webhooks.add(events[::-1], NOON))
            assert sum(map(len, added)) == 20
            claimed = await asyncio.gather(one.webhooks.claim(NOON), other.webhooks.claim(NOON))
            assert {stream for streams in claimed for stream in streams} == {STREAM}
            assert await one.webhooks.claim(NOON) == await other.webhooks.claim(NOON) == ()
