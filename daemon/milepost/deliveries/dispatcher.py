"""Runs a worker for each configured destination, and starts and ends them as the configuration changes."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta

from milepost.core.deliveries import Delivery
from milepost.core.errors import MilepostError
from milepost.deliveries.worker import LOOK_SECONDS, DestinationWorker, Outlets
from milepost.engine.bulkhead import bulkhead
from milepost.engine.feed import Notice, Recorded
from milepost.engine.interrupt import Stop
from milepost.settings import DeliverySettings

RESTART_SECONDS = 60.0  # after an error that nobody expected


class Dispatcher:
    """Delivers to all `configured` destinations, each by itself. `states` is where they stood at the last look."""

    def __init__(self, configured: Callable[[], Sequence[DeliverySettings]], outlets: Outlets) -> None:
        self._configured = configured
        self._outlets = outlets
        self._workers: dict[str, DestinationWorker] = {}
        self.states: Mapping[str, Delivery] = {}
        self._errors: dict[str, str] = {}

    def broken(self) -> Mapping[str, str]:
        """Return the destinations whose workers ended with an error, which nobody expected, with its text."""
        broken = (name for name, worker in self._workers.items() if not worker.is_well)
        return {name: self._errors[name] for name in broken if name in self._errors}

    def read(self, notice: Notice) -> None:
        """Have the workers look for changes after a commit."""
        if isinstance(notice, Recorded):
            for worker in self._workers.values():
                worker.notify()

    async def run(self, stop: Stop) -> None:
        """Deliver until a stop is requested."""
        clock = self._outlets.clock
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_requested:
                for worker in self._to_start():
                    tasks.create_task(self._work(worker), name=f"delivery to {worker.destination.name}")
                await self._refresh()
                async with stop.interruptible():
                    await clock.sleep_until(clock.now() + timedelta(seconds=LOOK_SECONDS))
            for worker in self._workers.values():
                worker.stop.request()
        await self._release()

    def _to_start(self) -> Iterator[DestinationWorker]:
        """End the workers whose destination has changed or gone, and yield new ones for those that have none."""
        configured = {each.name: each for each in self._configured()}
        for name, worker in self._workers.items():
            if configured.get(name) != worker.destination:
                worker.stop.request()  # a changed one starts anew at the look after its end
        for name in configured.keys() - self._workers.keys():
            self._workers[name] = DestinationWorker(configured[name], self._outlets)
            yield self._workers[name]

    async def _work(self, worker: DestinationWorker) -> None:
        name = worker.destination.name
        error = await bulkhead(f"delivery to {name}", worker.run())
        if error is not None:
            # Only our own errors are known to hold no secret.
            self._errors[name] = error.message if isinstance(error, MilepostError) else type(error).__name__
            worker.is_well = False
            clock = self._outlets.clock
            async with worker.stop.interruptible():
                await clock.sleep_until(clock.now() + timedelta(seconds=RESTART_SECONDS))
        del self._workers[name]

    async def _refresh(self) -> None:
        if not self._workers:
            self.states = {}
            return
        try:
            found = await self._outlets.places.all()
        except MilepostError:  # said by the workers
            return
        self.states = {name: found[name] for name in sorted(self._workers) if name in found}

    async def _release(self) -> None:
        """Let other workers have the destinations. If the database is away, they get them when the hold has ended."""
        try:
            await self._outlets.places.release(self._outlets.worker)
        except MilepostError:
            return
