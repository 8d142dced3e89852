"""The delivery places in a PostgreSQL database. One worker at a time holds a destination."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from milepost.core.deliveries import HOLD_SECONDS, Delivery
from milepost.stores.deliveries import StoredDeliveries, parameters_of
from milepost.stores.postgresql.connection import Database
from milepost.stores.postgresql.migrate import open_current
from milepost.stores.url import StoreUrl


class PostgresqlDeliveryPlaces(StoredDeliveries):
    """DeliveryPlaces (see core/deliveries.py), over the connections of the store."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.read, database.rows)

    async def hold(self, destination: str, worker: str) -> Delivery | None:
        """Hold a destination for a worker and return its state; None if it does not exist or another one holds it."""
        wanted = {"destination": destination, "worker": worker, "seconds": HOLD_SECONDS}
        return await self._find(destination) if await self._write("hold_delivery", wanted) else None

    async def record(self, before: Delivery, after: Delivery, worker: str) -> bool:
        """Record where a destination stands, if its place is still that of `before` and this worker holds it."""
        parameters = {**parameters_of(before, after), "worker": worker, "seconds": HOLD_SECONDS}
        return bool(await self._write("record_delivery", parameters))

    async def release(self, worker: str) -> None:
        """Release the destinations that a worker holds."""
        await self._write("release_deliveries", {"worker": worker})


@asynccontextmanager
async def open_postgresql_deliveries(store_url: StoreUrl) -> AsyncIterator[PostgresqlDeliveryPlaces]:
    """Open the delivery places of a database, beside running workers or without any.

    Raises StoreRefused if the database has no schema of this program's version, StoreAway if it does not answer.
    """
    async with open_current(store_url, "deliveries") as database:
        yield PostgresqlDeliveryPlaces(database)
