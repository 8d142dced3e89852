"""The places of deliveries in a SQLite database."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from milepost.core.deliveries import Delivery
from milepost.stores.deliveries import StoredDeliveries, parameters_of
from milepost.stores.sql import Parameters, load_statements
from milepost.stores.sqlite.connection import Database, connect, real_path, transaction, with_pragma
from milepost.stores.sqlite.migrate import demand_current

TIMEOUT_SECONDS = 30.0  # a large commit or a checkpoint of the daemon may hold the database for seconds


class SqliteDeliveryPlaces(StoredDeliveries):
    """DeliveryPlaces (see core/deliveries.py), over a connection: of one process, with which no worker competes."""

    def __init__(self, database: Database) -> None:
        super().__init__(self._fetch, self._commit)
        self._database = database
        self._sql = load_statements("sqlite", "deliveries")

    async def hold(self, destination: str, worker: str) -> Delivery | None:
        """Return where a destination stands; None if it is not there."""
        return await self._find(destination)

    async def record(self, before: Delivery, after: Delivery, worker: str) -> bool:
        """Record where a destination stands; return False if it was moved since `before`.

        Without waiting for the disk, for which commits wait already: what a power cut takes back is delivered again.
        """

        def write(connection: sqlite3.Connection) -> bool:
            with with_pragma(connection, "synchronous", "NORMAL"):
                return bool(self._write_on(connection, "record_delivery", parameters_of(before, after)))

        return await self._database.write(write)

    async def release(self, worker: str) -> None:
        """Do nothing: there is no other worker."""

    async def _fetch(self, statement: str, parameters: Parameters = ()) -> list[Any]:
        return await self._database.run(
            lambda connection: connection.execute(self._sql[statement], parameters).fetchall()
        )

    async def _commit(self, statement: str, parameters: Parameters = ()) -> list[Any]:
        return await self._database.write(lambda connection: self._write_on(connection, statement, parameters))

    def _write_on(self, connection: sqlite3.Connection, statement: str, parameters: Parameters) -> list[Any]:
        with transaction(connection):
            return connection.execute(self._sql[statement], parameters).fetchall()


@asynccontextmanager
async def open_sqlite_deliveries(path: Path) -> AsyncIterator[SqliteDeliveryPlaces]:
    """Open the places of the database at `path`, beside a running daemon or without one.

    Raises StoreRefused if there is no database of this program's schema, StoreAway if it does not answer.
    """
    path = real_path(path)
    await asyncio.to_thread(demand_current, path)
    async with connect(path, {"synchronous": "FULL"}, timeout_seconds=TIMEOUT_SECONDS) as database:
        yield SqliteDeliveryPlaces(database)
