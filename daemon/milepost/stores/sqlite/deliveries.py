"""The places of deliveries in a SQLite database."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from milepost.core.deliveries import Delivery
from milepost.core.journal import instant_text
from milepost.stores.deliveries import by_name, delivery_of, parameters_of
from milepost.stores.sql import load_statements
from milepost.stores.sqlite.connection import Database, connect, real_path, transaction
from milepost.stores.sqlite.migrate import demand_current

TIMEOUT_SECONDS = 30.0  # a large commit or a checkpoint of the daemon may hold the database for seconds


class SqliteDeliveryPlaces:
    """DeliveryPlaces (see core/deliveries.py), over a connection: of one process, with which no worker competes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = load_statements("sqlite", "deliveries")

    async def begin(self, destination: str, place: int) -> None:
        """Add a destination that begins at `place`, unless there is one of this name."""
        await self._write("begin_delivery", {"destination": destination, "place": place})

    async def all(self) -> Mapping[str, Delivery]:
        """Return where each destination stands, by its name."""
        return by_name(
            await self._database.run(lambda connection: connection.execute(self._sql["deliveries"]).fetchall())
        )

    async def hold(self, destination: str, worker: str) -> Delivery | None:
        """Return where a destination stands; None if it is not there."""
        name = {"destination": destination}
        found = await self._database.run(lambda connection: connection.execute(self._sql["delivery"], name).fetchone())
        return None if found is None else delivery_of(found)

    async def record(self, before: Delivery, after: Delivery, worker: str) -> bool:
        """Record where a destination stands; return False if it was moved since `before`.

        Without waiting for the disk, for which commits wait already: what a power cut takes back is delivered again.
        """
        parameters = parameters_of(before, after)

        def write(connection: sqlite3.Connection) -> bool:
            (level,) = connection.execute("PRAGMA synchronous").fetchone()
            connection.execute("PRAGMA synchronous = NORMAL")
            try:
                with transaction(connection):
                    return bool(connection.execute(self._sql["record_delivery"], parameters).fetchall())
            finally:
                connection.execute(f"PRAGMA synchronous = {level}")

        return await self._database.write(write)

    async def release(self, worker: str) -> None:
        """Do nothing: there is no other worker."""

    async def pause(self, destination: str, now: datetime) -> bool:
        """Pause a destination; return False if there is none of this name."""
        return await self._write("pause_delivery", {"destination": destination, "now": instant_text(now)})

    async def resume(self, destination: str) -> bool:
        """Resume a destination, and have it tried at once; return False if there is none of this name."""
        return await self._write("resume_delivery", {"destination": destination})

    async def move(self, destination: str, place: int) -> bool:
        """Move a destination to another place; return False if there is none of this name."""
        return await self._write("move_delivery", {"destination": destination, "place": place})

    async def _write(self, statement: str, parameters: Mapping[str, object]) -> bool:
        """Run a statement in a transaction of its own, and return whether it returned a row."""

        def write(connection: sqlite3.Connection) -> bool:
            with transaction(connection):
                return bool(connection.execute(self._sql[statement], parameters).fetchall())

        return await self._database.write(write)


@asynccontextmanager
async def open_sqlite_deliveries(path: Path) -> AsyncIterator[SqliteDeliveryPlaces]:
    """Open the places of the database at `path`, beside a running daemon or without one.

    Raises StoreRefused if there is no database of this program's schema, StoreAway if it does not answer.
    """
    path = real_path(path)
    await asyncio.to_thread(demand_current, path)
    async with connect(path, {"synchronous": "FULL"}, timeout_seconds=TIMEOUT_SECONDS) as database:
        yield SqliteDeliveryPlaces(database)
