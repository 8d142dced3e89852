"""The places of deliveries in a PostgreSQL database, each of which one worker at a time holds."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from milepost.core.deliveries import HOLD_SECONDS, Delivery
from milepost.core.journal import instant_text
from milepost.stores.deliveries import by_name, delivery_of, parameters_of
from milepost.stores.postgresql.connection import Database, connected
from milepost.stores.postgresql.dsn import dsn_of
from milepost.stores.postgresql.migrate import demand_current
from milepost.stores.sql import load_statements
from milepost.stores.url import StoreUrl


class PostgresqlDeliveryPlaces:
    """DeliveryPlaces (see core/deliveries.py), over the connections of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, destination: str, place: int) -> None:
        """Add a destination that begins at `place`, unless there is one of this name."""
        await self._database.rows("begin_delivery", {"destination": destination, "place": place})

    async def all(self) -> Mapping[str, Delivery]:
        """Return where each destination stands, by its name."""
        return by_name(await self._database.rows("deliveries"))

    async def hold(self, destination: str, worker: str) -> Delivery | None:
        """Hold a destination for a worker and return where it stands; None if it is not there, or held by another."""
        wanted = {"destination": destination, "worker": worker, "seconds": HOLD_SECONDS}
        if not await self._database.rows("hold_delivery", wanted):
            return None
        found = await self._database.rows("delivery", {"destination": destination})
        return delivery_of(found[0]) if found else None

    async def record(self, before: Delivery, after: Delivery, worker: str) -> bool:
        """Record where a destination stands, if its place is still that of `before` and this worker holds it."""
        parameters = {**parameters_of(before, after), "worker": worker, "seconds": HOLD_SECONDS}
        return bool(await self._database.rows("record_delivery", parameters))

    async def release(self, worker: str) -> None:
        """Let other workers have what this one holds."""
        await self._database.rows("release_deliveries", {"worker": worker})

    async def pause(self, destination: str, now: datetime) -> bool:
        """Pause a destination; return False if there is none of this name."""
        return bool(await self._database.rows("pause_delivery", {"destination": destination, "now": instant_text(now)}))

    async def resume(self, destination: str) -> bool:
        """Resume a destination, and have it tried at once; return False if there is none of this name."""
        return bool(await self._database.rows("resume_delivery", {"destination": destination}))

    async def move(self, destination: str, place: int) -> bool:
        """Move a destination to another place; return False if there is none of this name."""
        return bool(await self._database.rows("move_delivery", {"destination": destination, "place": place}))


@asynccontextmanager
async def open_postgresql_deliveries(store_url: StoreUrl) -> AsyncIterator[PostgresqlDeliveryPlaces]:
    """Open the places of a database, beside running workers or without any.

    Raises StoreRefused if there is no schema of this program's, StoreAway if it does not answer.
    """
    dsn = dsn_of(store_url)
    await demand_current(dsn)
    statements = load_statements("postgresql") | load_statements("postgresql", "deliveries")
    async with connected(dsn, statements) as database:
        await database.demand_finished()
        yield PostgresqlDeliveryPlaces(database)
