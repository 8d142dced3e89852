"""What a store in a database must do: all that any store must.

A subclass is named Test… and has the fixture `kept`: an empty database of this program's schema.
"""

from collections.abc import AsyncIterator

import pytest

from contracts.remedies_contract import Forget, RemediesContract
from contracts.store_contract import CheckingStoreContract, Look, Refuse, Tables
from milepost.core.model import Stream
from milepost.stores.open import forget as forget_in
from milepost.stores.open import open_store
from milepost.stores.store import OpenStore
from stores.store_dump import StoreDump


class DatabaseContract(CheckingStoreContract, RemediesContract):
    @pytest.fixture
    async def store(self, kept: StoreDump) -> AsyncIterator[OpenStore]:
        async with open_store(kept.store_url) as store:
            yield store

    @pytest.fixture
    def look(self, kept: StoreDump) -> Look:
        async def look() -> Tables:
            return kept.tables()

        return look

    @pytest.fixture
    def refuse(self, kept: StoreDump) -> Refuse:
        return kept.refuse

    @pytest.fixture
    def forget(self, kept: StoreDump) -> Forget:
        async def forget(stream: Stream, contact_id: str) -> tuple[int, int, int, int]:
            gone = await forget_in(kept.store_url, stream, contact_id)
            return gone.contacts, gone.conversations, gone.interaction_events, gone.payloads

        return forget
