"""A change feed, delivery places and receivers, all in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from datetime import datetime

import pytest
from msgspec.structs import replace

from kit.receiver import NEW
from kit.virtual_time import VirtualClock
from milepost.core.changes import ALL_KINDS, Answer, Change, ChangeKind, ChangeOp, ChangesPage, Delivery, DeliveryResult
from milepost.core.errors import StoreAway
from milepost.core.model import Stream
from milepost.deliveries.worker import Outlets
from milepost.settings.model import DeliverySettings

DELIVERED = Answer(DeliveryResult.DELIVERED)
REFUSED = Answer(DeliveryResult.REFUSED, "HTTP 500")
TIMED_OUT = Answer(DeliveryResult.TIMED_OUT, "no answer within 15 s")


def destination(name: str = "crm", **keys: object) -> DeliverySettings:
    return DeliverySettings.model_validate({"name": name, "url": "https://crm.example/", "secret": NEW} | keys)


class MemoryChanges:
    """A ChangeReader that keeps each row in its latest state, by the seq of its last change."""

    def __init__(self) -> None:
        self.rows: dict[tuple[ChangeKind, str], Change] = {}
        self.last = 0
        self.is_away = False
        self.reads = 0

    def write(self, key: str, text: str, kind: ChangeKind = ChangeKind.MESSAGE) -> None:
        """Insert or update a row."""
        self.last += 1
        self.rows[kind, key] = Change(self.last, kind, ChangeOp.UPSERT, {"id": key}, {"id": key, "text": text})

    def delete(self, key: str) -> None:
        """Delete a message."""
        self.last += 1
        kind = ChangeKind.MESSAGE
        self.rows[kind, key] = Change(self.last, kind, ChangeOp.DELETE, {"id": key}, None)

    def texts(self) -> dict[str, str]:
        """Return the rows as a reader of the table sees them."""
        return {key: change.row["text"] for (_, key), change in self.rows.items() if change.row is not None}

    async def read_changes(
        self,
        after: int,
        limit: int,
        kinds: AbstractSet[ChangeKind] = ALL_KINDS,
        stream: Stream | None = None,
        mark: str = "",
    ) -> ChangesPage:
        assert stream is None
        assert not mark
        await self._answer()
        self.reads += 1
        later = sorted((each for each in self.rows.values() if each.seq > after), key=lambda each: each.seq)
        found = [each for each in later if each.kind in kinds][:limit]
        return ChangesPage(tuple(found), found[-1].seq if len(found) == limit else max(after, self.last))

    async def last_change(self) -> int:
        await self._answer()
        return self.last

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreAway("the database is away")


class MemoryPlaces:
    """DeliveryPlaces, which outlive the workers."""

    def __init__(self) -> None:
        self.kept: dict[str, Delivery] = {}
        self.holders: dict[str, str] = {}

    async def begin(self, destination: str, place: int) -> None:
        self.kept.setdefault(destination, Delivery(destination, place))

    async def all(self) -> Mapping[str, Delivery]:
        return dict(self.kept)

    async def hold(self, destination: str, worker: str) -> Delivery | None:
        await asyncio.sleep(0)
        if destination not in self.kept or self.holders.setdefault(destination, worker) != worker:
            return None
        return self.kept[destination]

    async def record(self, before: Delivery, after: Delivery, worker: str) -> bool:
        await asyncio.sleep(0)
        now = self.kept[before.destination]
        if (now.place, now.replays) != (before.place, before.replays) or self.holders.get(before.destination) != worker:
            return False
        self.kept[before.destination] = replace(after, paused_at=now.paused_at)
        return True

    async def release(self, worker: str) -> None:
        self.holders = {name: holder for name, holder in self.holders.items() if holder != worker}

    async def pause(self, destination: str, now: datetime) -> bool:
        self.kept[destination] = replace(self.kept[destination], paused_at=now)
        return True

    async def resume(self, destination: str) -> bool:
        self.kept[destination] = replace(self.kept[destination], paused_at=None, retry_at=None, failures=0)
        return True

    async def move(self, destination: str, place: int) -> bool:
        self.kept[destination] = Delivery(destination, place, replays=self.kept[destination].replays + 1)
        return True


Answering = Callable[[int], Answer]


class MemoryReceiver:
    """A receiver that applies the changes it confirms and, with `is_applied_anyway`, those that it does not confirm.

    `answering` gives the answer for the number of a request; `block` holds up every answer.
    """

    def __init__(self) -> None:
        self.answering: Answering = lambda _: DELIVERED
        self.is_applied_anyway: Callable[[int], bool] = lambda _: False
        self.texts: dict[str, str] = {}
        self.requests: list[list[int]] = []
        self.seconds = 0.0  # how long each answer takes
        self.passing = asyncio.Event()
        self.passing.set()

    async def send(self, changes: Sequence[Change], now: datetime, replays: int) -> Answer:
        """Take a request, as a Sender sends it."""
        assert 1 <= len(changes) <= 100
        number = len(self.requests)
        self.requests.append([each.seq for each in changes])
        await asyncio.sleep(self.seconds)
        await self.passing.wait()
        answer = self.answering(number)
        if answer.result is DeliveryResult.DELIVERED or self.is_applied_anyway(number):
            for each in changes:
                self._apply(each)
        return answer

    def _apply(self, change: Change) -> None:
        if change.row is None:
            self.texts.pop(change.key["id"], None)
        else:
            self.texts[change.key["id"]] = change.row["text"]


class World:
    """Everything that deliveries work with, and their receivers by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changes = MemoryChanges()
        self.places = MemoryPlaces()
        self.clock = VirtualClock()
        self.results: list[tuple[str, DeliveryResult]] = []
        self.receivers = {name: MemoryReceiver() for name in ("crm", "erp")}
        monkeypatch.setattr("milepost.deliveries.worker.sending_to", self._sending_to)

    def outlets(self, worker: str = "one") -> Outlets:
        return Outlets(
            self.places, self.changes, self.clock, worker, lambda name, result: self.results.append((name, result))
        )

    @asynccontextmanager
    async def _sending_to(self, destination: DeliverySettings) -> AsyncIterator[MemoryReceiver]:
        yield self.receivers[destination.name]
