"""SQLite databases with a recorded past, for tests of programs that read them."""

import asyncio
from pathlib import Path

from kit.builders import RUN_ID, STREAM, entries
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Event
from milepost.core.evolve import fold
from milepost.core.model import Changes, Stream
from milepost.core.ports import Commit
from milepost.stores.sqlite.store import open_sqlite


def record(path: Path, *events: Event, stream: Stream = STREAM, run_id: str = RUN_ID) -> Checkpoint:
    """Append events of one run to the database, creating it if needed; for tests without an event loop."""
    return asyncio.run(_record(path, *events, stream=stream, run_id=run_id))


async def _record(path: Path, *events: Event, stream: Stream, run_id: str) -> Checkpoint:
    async with open_sqlite(path, synchronous="normal") as store:
        before = await store.load(stream)
        appended = entries(*events, after=before, run_id=run_id)
        after = fold(appended, before)
        if appended:
            await store.commit(Commit(appended, Changes(), after, after.run))
        return after
