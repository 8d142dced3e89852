"""The SQLite store keeps the contract of a Store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.remedies_contract import Forget, RemediesContract
from contracts.store_contract import CheckingStoreContract, Look, Refuse, Tables
from milepost.core.model import Stream, Table
from milepost.stores.sqlite.erase import forget_in_sqlite as forget_in
from milepost.stores.sqlite.store import SqliteStore, open_sqlite
from stores.sqlite_files import execute
from stores.store_dump import tables_of

KEYS = {
    Table.CONVERSATIONS: "conversation_id",
    Table.CONTACTS: "contact_id",
    Table.INTERACTION_EVENTS: "event_id",
}


class TestSqliteStore(CheckingStoreContract, RemediesContract):
    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[SqliteStore]:
        async with open_sqlite(path) as store:
            yield store

    @pytest.fixture
    def look(self, path: Path) -> Look:
        async def look() -> Tables:
            return tables_of(path)

        return look

    @pytest.fixture
    def refuse(self, path: Path) -> Refuse:
        def refuse(table: Table, key: str) -> None:
            execute(
                path,
                f"CREATE TRIGGER refuses_{key} BEFORE INSERT ON {table} WHEN new.{KEYS[table]} = '{key}' "
                f"BEGIN SELECT RAISE(ABORT, 'not this one'); END",
            )

        return refuse

    @pytest.fixture
    def forget(self, path: Path) -> Forget:
        async def forget(stream: Stream, contact_id: str) -> tuple[int, int, int, int]:
            gone = await forget_in(path, stream, contact_id)
            return gone.contacts, gone.conversations, gone.interaction_events, gone.payloads

        return forget
