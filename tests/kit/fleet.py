"""Workers sharing one PostgreSQL database: real processes, each with its own folder and configuration."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from kit.binary import Running, started
from kit.installation import COPIED, Installation, Rows
from kit.postgres import Database
from milepost.simulator.plan import SimulatedPage
from milepost.simulator.server import SimulatorServer

PATIENCE_SECONDS = 60.0


def fleet_pages(number: int) -> tuple[SimulatedPage, ...]:
    """Return pages with two streams each."""
    return tuple(
        SimulatedPage(
            id=f"6155000000000{n:04}",
            name=f"Page {n}",
            token=f"EAAPage{n:04}token",
            instagram_account_id=f"1784140000000{n:04}",
        )
        for n in range(number)
    )


class Fleet:
    """The workers and their database."""

    def __init__(self, folder: Path, database: Database, simulator: SimulatorServer) -> None:
        self.database = database
        self._folder = folder
        self._simulator = simulator
        self._stack = AsyncExitStack()
        self.all: list[Running] = []

    async def join(self, **sections: Any) -> Running:  # noqa: ANN401  (sections of config.yaml)
        """Start another worker."""
        folder = self._folder / f"worker-{len(list(self._folder.glob('worker-*')))}"
        folder.mkdir()
        installation = Installation(folder)
        store = {"url": self.database.url, "password": self.database.password}
        installation.configure_for(self._simulator, store=store, **sections)
        worker = await self._stack.enter_async_context(started(folder, "run"))
        self.all.append(worker)
        await worker.says("started")
        return worker

    async def complete(self, streams: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until that many streams have completed a full sweep."""
        async with asyncio.timeout(seconds):
            while self.completed() < streams:  # noqa: ASYNC110  (other processes bring it about)
                await asyncio.sleep(0.1)

    def completed(self) -> int:
        """Return how many streams have completed a full sweep."""
        ((completed,),) = self.database.sql("SELECT count(last_full_sweep_at) FROM checkpoints")
        return int(completed)

    def copied(self) -> dict[str, Rows]:
        """Return the copied tables, each ordered by its key."""
        return copied(self.database)

    def committed_twice(self) -> dict[tuple[str, str | None], int]:
        """Return the positions of walks that were committed more than once.

        A walk that was interrupted to read the head again continues at its earlier position, which does not count.
        """
        stored = self.database.sql(
            "SELECT stream, data -> 'position' ->> 'cursor' FROM journal"
            " WHERE type = 'batch_stored' AND data -> 'position' ->> 'phase' IS NULL"
            " AND data -> 'position' ->> 'is_after_head' IS NULL"
        )
        return {position: number for position, number in Counter(stored).items() if number > 1}

    async def end(self) -> None:
        """Stop all remaining workers, as systemd does."""
        for worker in self.all:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        for worker in self.all:
            ended = await worker.ended()
            assert "Traceback" not in ended.stderr, ended
        await self._stack.aclose()


@asynccontextmanager
async def fleet(folder: Path, database: Database, simulator: SimulatorServer) -> AsyncIterator[Fleet]:
    """Provide a fleet without workers, and stop those that have joined at the end."""
    made = Fleet(folder, database, simulator)
    try:
        yield made
    finally:
        await made.end()


def copied(database: Database) -> dict[str, Rows]:
    """Return the copied tables of a database, each ordered by its key."""
    columns = {table: names.replace("attachments", "attachments::text") for table, names in COPIED.items()}
    return {table: database.sql(f"SELECT {names} FROM {table} ORDER BY 1, 2, 3") for table, names in columns.items()}
