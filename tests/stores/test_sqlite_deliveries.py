"""The delivery places in SQLite."""

from pathlib import Path

import pytest

from milepost.stores.open import open_store
from stores.store_dump import SqliteDump, StoreDump


@pytest.fixture
def kept(path: Path) -> StoreDump:
    return SqliteDump(path)


async def test_a_new_process_need_not_wait_for_a_dead_one(kept: StoreDump) -> None:
    async with open_store(kept.store_url) as store:
        await store.deliveries.begin("crm", 7)
        assert await store.deliveries.hold("crm", "a process that is killed") is not None
    async with open_store(kept.store_url) as store:
        assert await store.deliveries.hold("crm", "the next one") is not None
