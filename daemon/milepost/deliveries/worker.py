"""Delivers to each destination: reads the changes after its place, sends them, and moves the place when confirmed."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import structlog
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.changes import (
    MAX_CHANGES,
    Answer,
    ChangeKind,
    ChangeReader,
    ChangesPage,
    Delivery,
    DeliveryPlaces,
    DeliveryResult,
    advanced,
    delivered,
    failed,
    is_due,
    next_limit,
    seconds_left,
)
from milepost.core.errors import MilepostError
from milepost.core.ports import Clock
from milepost.deliveries.sender import Sender, fitting, sending_to
from milepost.engine.feed import Notice, Recorded
from milepost.engine.interrupt import RESTART_SECONDS, Interrupt, Stop, bulkhead
from milepost.settings.model import DeliverySettings

LOOK_SECONDS = 5.0  # between looks for what other processes changed: rows, or an operator's request
MIN_SECONDS = 0.25  # between looks, however often something is committed
MAX_READ_SECONDS = 5.0  # after a longer read, the hold on the destination may end before the request does

log = structlog.get_logger("milepost")


class Outlets(Struct, frozen=True, eq=False):
    """What every destination worker needs. `worker` names this process; `count` counts a destination's results."""

    places: DeliveryPlaces
    changes: ChangeReader
    clock: Clock
    worker: str
    count: Callable[[str, DeliveryResult], None]


class DestinationWorker:
    """Delivers to one destination. If that was changed, it is tried at once: the change may be the fix."""

    def __init__(self, destination: DeliverySettings, outlets: Outlets, *, is_changed: bool = False) -> None:
        self.destination = destination
        self.stop = Stop()
        self.is_well = False  # True once it has worked without an unexpected error
        self._outlets = outlets
        self._kinds = frozenset(map(ChangeKind, destination.kinds))
        self._limit = MAX_CHANGES
        self._arrived = Interrupt()
        self._goal: int | None = None  # the last change at the time of the latest look for it
        self._is_away = False
        self._is_changed = is_changed

    def notify(self) -> None:
        """Note that something was committed."""
        self._arrived.set()

    async def run(self) -> None:
        """Deliver until a stop is requested."""
        clock = self._outlets.clock
        async with sending_to(self.destination) as sender:
            while not self.stop.is_requested:
                self._arrived.clear()
                seconds = await self._look(sender)
                self.is_well = True
                if seconds > 0:
                    await self.stop.sleep(clock, MIN_SECONDS)
                    await self.stop.sleep(clock, seconds, self._arrived)

    async def _look(self, sender: Sender) -> float:
        """Do what is due, and return the seconds to the next look; a commit makes the worker look sooner."""
        try:
            seconds = await self._deliver(sender)
        except MilepostError as error:
            if not self._is_away:
                part = f"delivery to {self.destination.name}"
                log.warning("database unavailable, retrying", part=part, reason=error.message)
            self._is_away = True
            return LOOK_SECONDS
        self._is_away = False
        return seconds

    async def _deliver(self, sender: Sender) -> float:
        """Make one request if there is something to deliver and an attempt is due."""
        clock = self._outlets.clock
        delivery = await self._held()
        if delivery is None:
            await self._begin()
            return LOOK_SECONDS
        if delivery.paused_at is not None:
            await self._note_lag(delivery)
            return LOOK_SECONDS
        is_changed, self._is_changed = self._is_changed, False
        if not (is_changed or is_due(delivery, clock.now())):
            return min(LOOK_SECONDS, max(seconds_left(delivery, clock.now()), MIN_SECONDS))
        return await self._deliver_next(delivery, sender)

    async def _deliver_next(self, delivery: Delivery, sender: Sender) -> float:
        began = self._outlets.clock.steady()
        found = await self._read(delivery, self._limit)
        if not found.changes:
            return await self._advance(delivery, found)
        is_late = self._outlets.clock.steady() - began > MAX_READ_SECONDS  # another worker may hold it by now
        if is_late and delivery != await self._held():
            return MIN_SECONDS
        page = _fitting(found)
        answer = await self._sent(sender, page, delivery.replays)
        if answer is None:
            return MIN_SECONDS
        await self._record(delivery, page, answer)
        return 0.0 if answer.result is DeliveryResult.DELIVERED else MIN_SECONDS

    async def _held(self) -> Delivery | None:
        return await self._outlets.places.hold(self.destination.name, self._outlets.worker)

    async def _sent(self, sender: Sender, page: ChangesPage, replays: int) -> Answer | None:
        """Send changes; return None if a stop was requested before the answer came: then they are sent again."""
        async with self.stop.interruptible():
            return await sender.send(page.changes, self._outlets.clock.now(), replays)
        return None

    async def _begin(self) -> None:
        """Add the destination if it is new; if it is not, another worker holds it."""
        if self.destination.name in await self._outlets.places.all():
            return
        begins_at_start = self.destination.from_ == "start"
        place = 0 if begins_at_start else await self._outlets.changes.last_change()
        await self._outlets.places.begin(self.destination.name, place)

    async def _read(self, delivery: Delivery, limit: int) -> ChangesPage:
        return await self._outlets.changes.read_changes(delivery.place, limit, self._kinds)

    async def _note_lag(self, delivery: Delivery) -> None:
        """Record since when changes have been waiting for a paused destination."""
        if delivery.behind_since is None and (await self._read(delivery, 1)).changes:
            after = replace(delivery, behind_since=self._outlets.clock.now())
            await self._outlets.places.record(delivery, after, self._outlets.worker)

    async def _advance(self, delivery: Delivery, found: ChangesPage) -> float:
        """Record that there is nothing to deliver before `found.next`, and return when to look again."""
        is_over = found.next == delivery.place
        if is_over and delivery.behind_since is None and delivery.problem is None:
            return LOOK_SECONDS
        behind_since = None if is_over else delivery.behind_since
        after = advanced(delivery, found.next, behind_since)
        await self._outlets.places.record(delivery, after, self._outlets.worker)
        return 0.0

    async def _record(self, delivery: Delivery, page: ChangesPage, answer: Answer) -> None:
        now, name = self._outlets.clock.now(), self.destination.name
        self._limit = next_limit(self._limit, answer.result)
        self._outlets.count(name, answer.result)
        if answer.result is DeliveryResult.DELIVERED:
            after = delivered(delivery, page.next, await self._behind_since(delivery, page.next), now)
            if delivery.problem is not None:
                log.info("delivery recovered", destination=name, failed_attempts=delivery.failures)
        else:
            after = failed(delivery, answer, now, self._outlets.clock.random())
            if delivery.problem != answer.problem:
                hint = "it is retried; `milepost deliveries list` shows since when"
                log.warning("delivery failed", destination=name, reason=answer.problem, hint=hint)
        await self._outlets.places.record(delivery, after, self._outlets.worker)

    async def _behind_since(self, delivery: Delivery, place: int) -> datetime | None:
        """Return since when changes after a place have been waiting; None if there are none.

        Changes are dated by the look that first found them. Once those are delivered, the time of the next look counts.
        """
        now, goal = self._outlets.clock.now(), self._goal
        if goal is not None and place < goal:
            return delivery.behind_since or now
        self._goal = await self._outlets.changes.last_change()
        if place >= self._goal:
            return None
        return now if goal is not None else delivery.behind_since or now


def _fitting(page: ChangesPage) -> ChangesPage:
    changes = tuple(fitting(page.changes))
    return page if len(changes) == len(page.changes) else ChangesPage(changes, changes[-1].seq)


# --- all destinations -------------------------------------------------------------------------------------------------


class Dispatcher:
    """Runs a worker for each `configured` destination. `states` has their states as of the last look."""

    def __init__(self, configured: Callable[[], Sequence[DeliverySettings]], outlets: Outlets) -> None:
        self._configured = configured
        self._outlets = outlets
        self._workers: dict[str, DestinationWorker] = {}
        self._changed: set[str] = set()  # destinations whose settings have changed since their worker began
        self.states: Mapping[str, Delivery] = {}
        self._errors: dict[str, str] = {}

    def broken(self) -> Mapping[str, str]:
        """Return the destinations whose workers ended with an unexpected error, and its text."""
        broken = (name for name, worker in self._workers.items() if not worker.is_well)
        return {name: self._errors[name] for name in broken if name in self._errors}

    def read(self, notice: Notice) -> None:
        """Wake the workers after a commit."""
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
                await stop.sleep(clock, LOOK_SECONDS)
            for worker in self._workers.values():
                worker.stop.request()
        await self._release()

    def _to_start(self) -> Iterator[DestinationWorker]:
        """End the workers whose destination was changed or removed; yield new ones for destinations without one."""
        configured = {each.name: each for each in self._configured()}
        for name, worker in self._workers.items():
            if configured.get(name) != worker.destination:
                worker.stop.request()  # the look after its end starts a worker for a changed destination
                self._changed.add(name)
        for name in configured.keys() - self._workers.keys():
            self._workers[name] = DestinationWorker(configured[name], self._outlets, is_changed=name in self._changed)
            self._changed.discard(name)
            yield self._workers[name]

    async def _work(self, worker: DestinationWorker) -> None:
        name = worker.destination.name
        try:
            error = await bulkhead(f"delivery to {name}", worker.run())
            if error is not None:
                # The text of any other error may hold a secret.
                self._errors[name] = error.message if isinstance(error, MilepostError) else type(error).__name__
                worker.is_well = False
                clock = self._outlets.clock
                await worker.stop.sleep(clock, RESTART_SECONDS)
        finally:
            del self._workers[name]

    async def _refresh(self) -> None:
        if not self._workers:
            self.states = {}
            return
        try:
            found = await self._outlets.places.all()
        except MilepostError:  # the workers report it
            return
        self.states = {name: found[name] for name in sorted(self._workers) if name in found}

    async def _release(self) -> None:
        """Release the destinations to other workers. If the database is unavailable, the holds expire by themselves."""
        try:
            await self._outlets.places.release(self._outlets.worker)
        except MilepostError:
            return
