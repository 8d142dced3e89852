"""The in-memory store of the engine's tests keeps the contract of a Store."""

import pytest

from contracts.remedies_contract import Forget, RemediesContract
from contracts.store_contract import JournalRow, Look, Refuse, StoreContract, Tables
from kit.memory_store import MemoryStore
from milepost.core.model import Stream, Table
from milepost.stores import rows


class TestMemoryStore(StoreContract, RemediesContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def look(self, store: MemoryStore) -> Look:
        async def look() -> Tables:
            return Tables(
                tuple(
                    JournalRow(seq, row.stream, row.version, row.run_id, row.recorded_at, row.type, row.data, row.hash)
                    for seq, row in enumerate(store.journal, 1)
                ),
                {key: rows.checkpoint(state) for key, state in store.checkpoints.items()},
                dict(store.runs),
                dict(store.conversations),
                dict(store.contacts),
                dict(store.interaction_events),
                dict(store.dead_letters),
                dict(store.payloads),
                dict(store.pages),
            )

        return look

    @pytest.fixture
    def refuse(self, store: MemoryStore) -> Refuse:
        def refuse(table: Table, key: str) -> None:
            store.refuses.add((table, key))

        return refuse

    @pytest.fixture
    def forget(self, store: MemoryStore) -> Forget:
        async def forget(stream: Stream, contact_id: str) -> tuple[int, int, int, int]:
            return store.forget(stream, contact_id)

        return forget
