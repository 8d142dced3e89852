"""Runs the readers of the feed beside the work."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from milepost.engine.bulkhead import bulkhead
from milepost.engine.feed import Feed, Signal, Subscription

Reader = Callable[[Signal], None]


@asynccontextmanager
async def reading(feed: Feed, readers: Mapping[str, Reader]) -> AsyncIterator[None]:
    """Let the readers, by name, hear all that is published in the block; in the end they read what is left."""
    async with asyncio.TaskGroup() as tasks:
        for name, reader in readers.items():
            tasks.create_task(bulkhead(f"reader {name}", _read(feed.subscribe(), reader)), name=f"reader {name}")
        try:
            yield
        finally:
            feed.close()


async def _read(subscription: Subscription, reader: Reader) -> None:
    async for signal in subscription:
        reader(signal)
