"""Puts a worker together, and has it join the others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from milepost.engine.shared import Shared
from milepost.engine.stop import Bell
from milepost.engine.supervisor import Supervisor
from milepost.fleet.chronicle import Chronicle
from milepost.fleet.queue import open_queue
from milepost.fleet.worker import Share, Worker
from milepost.stores.archive import Archive
from milepost.stores.place import Place
from milepost.stores.postgresql.address import address_of
from milepost.stores.postgresql.database import connected
from milepost.stores.postgresql.listening import listening
from milepost.stores.queries import load


@asynccontextmanager
async def joined(
    place: Place, shared: Shared, supervisor: Supervisor, archive: Archive, share: Share
) -> AsyncIterator[Worker]:
    """Join the workers on a PostgreSQL database; leave them in the end. Raises StoreRefused or StoreAway."""
    news, chronicle = Bell(), Chronicle(archive)
    async with (
        connected(address_of(place), load("postgresql") | load("postgresql", "queue")) as database,
        open_queue(database) as queue,
        listening(place, news.ring),
    ):
        await chronicle.begin()
        yield Worker(shared, supervisor, queue, chronicle, news, share)
