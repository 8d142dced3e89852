"""The delivery places in a SQLite database."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from milepost.core.deliveries import Delivery
from milepost.stores.deliveries import StoredDeliveries, parameters_of
from milepost.stores.sqlite.connection import Database, transaction, with_synchronous
from milepost.stores.sqlite.migrate import open_current

TIMEOUT_SECONDS = 30.0  # a large commit or a checkpoint of the daemon may hold the database for seconds


class SqliteDeliveryPlaces(StoredDeliveries):
    """DeliveryPlaces (see core/deliveries.py) over a connection, for the only process that delivers."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.read, database.rows)
        self._database = database

    async def hold(self, destination: str, worker: str) -> Delivery | None:
        """Return where a destination stands; None if it is not there."""
        return await self._find(destination)

    async def record(self, before: Delivery, after: Delivery, worker: str) -> bool:
        """Record where a destination stands; return False if it was moved since `before`.

        Does not wait for the disk, as the store's commits do: what a power cut takes back is delivered again.
        """

        def write(connection: sqlite3.Connection) -> bool:
            with with_synchronous(connection, "NORMAL"), transaction(connection):
                recorded = connection.execute(self._database.sql["record_delivery"], parameters_of(before, after))
                return bool(recorded.fetchall())

        return await self._database.write(write)

    async def release(self, worker: str) -> None:
        """Do nothing: there is no other worker."""


@asynccontextmanager
async def open_sqlite_deliveries(path: Path) -> AsyncIterator[SqliteDeliveryPlaces]:
    """Open the delivery places of the database at `path`, beside a running daemon or without one.

    Raises StoreRefused if there is no database of this program's schema, StoreAway if it does not answer.
    """
    pragmas: dict[str, str | int] = {"synchronous": "FULL"}
    async with open_current(path, "deliveries", pragmas=pragmas, timeout_seconds=TIMEOUT_SECONDS) as database:
        yield SqliteDeliveryPlaces(database)
