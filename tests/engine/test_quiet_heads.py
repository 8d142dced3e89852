"""A sweep whose first batch is the one of the sweep before, which changed nothing, does not ask the store again."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM, contact, conversation, fetched, message, unreadable
from kit.engine_doubles import Inbox, engine
from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualClock
from milepost.core.commands import PauseStream, ResumeStream
from milepost.core.events import SweepCompleted, Tally
from milepost.core.model import Keys, Known, Unreadable
from milepost.core.plan import Policy
from milepost.core.ports import Outcome, Request
from milepost.engine.supervisor import Schedule, Supervisor


class ComparingStore(MemoryStore):
    """Counts the batches that are compared with what is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.compared = 0

    async def known(self, keys: Keys) -> Known:
        self.compared += 1
        return await super().known(keys)


class Quiet:
    """A stream whose inbox was swept twice: by a full sweep, and by one that found nothing new."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = ComparingStore()
        self.shown = conversation("t_1", NOON - timedelta(hours=1), of=contact(), snippet="hello")
        self.odd: tuple[Unreadable, ...] = ()
        self.supervisor = self.begun()

    def begun(self) -> Supervisor:
        """Return the supervisor of a process that has just started."""
        parts = engine(self.store, clock=self.clock)
        return Supervisor(parts, {STREAM: Inbox(1, before=self._answer)}, Schedule())

    async def swept(self, times: int = 1) -> int:
        """Sweep the inbox so often, and return how many batches were compared with what is stored."""
        before = self.store.compared
        for _ in range(times):
            (result,) = await self.supervisor.sync([STREAM])
            assert result.error is None
        return self.store.compared - before

    async def _answer(self, _: Request | str) -> Outcome:
        return fetched(self.shown, *self.odd, asked_at=self.clock.now())


@pytest.fixture
async def quiet() -> Quiet:
    made = Quiet()
    assert await made.swept(2) == 2
    return made


def latest(store: MemoryStore) -> SweepCompleted:
    event = store.entries(STREAM)[-1].event
    assert isinstance(event, SweepCompleted)
    return event


async def test_the_same_batch_again_is_not_compared_and_counts_as_before(quiet: Quiet) -> None:
    before = len(quiet.store.journal)
    assert await quiet.swept(5) == 0
    assert len(quiet.store.journal) == before + 5
    assert latest(quiet.store).tally == Tally(batches=1, unchanged=1)


@pytest.mark.parametrize(
    "change",
    [
        {"snippet": "hello again"},
        {"unread_count": 1},
        {"updated_time": NOON, "interactions": (message("m_2", NOON),)},
        {"contact": contact(name="Ada Lovelace")},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_whatever_has_changed_is_stored(quiet: Quiet, change: dict[str, object]) -> None:
    await quiet.swept(2)
    quiet.shown = replace(quiet.shown, **change)
    assert await quiet.swept() == 1
    stored = quiet.store.conversations["t_1"]
    assert (stored.snippet, stored.unread_count, stored.updated_time) == (
        quiet.shown.snippet,
        quiet.shown.unread_count,
        quiet.shown.updated_time,
    )
    assert [row.name for row in quiet.store.contacts.values()] == [quiet.shown.contact and quiet.shown.contact.name]


async def test_a_batch_is_compared_after_any_other_entry_of_the_stream(quiet: Quiet) -> None:
    for command in (PauseStream("ada"), ResumeStream("ada")):
        await quiet.supervisor.ask(STREAM, command)
    assert await quiet.swept() == 1
    assert await quiet.swept() == 0


async def test_a_batch_is_compared_at_least_once_an_hour(quiet: Quiet) -> None:
    await quiet.clock.sleep_until(quiet.clock.now() + timedelta(minutes=59))
    assert await quiet.swept() == 0
    await quiet.clock.sleep_until(quiet.clock.now() + timedelta(minutes=2))
    assert await quiet.swept() == 1


async def test_a_batch_is_compared_by_a_process_that_has_just_started_and_by_another_policy(quiet: Quiet) -> None:
    quiet.supervisor = quiet.begun()
    assert await quiet.swept(2) == 1
    quiet.supervisor.adopt(Policy(batch_size=1, message_history_seconds=0.0), Schedule(), 16)
    assert await quiet.swept() == 1


async def test_a_batch_with_an_item_that_cannot_be_read_is_always_compared(quiet: Quiet) -> None:
    quiet.odd = (unreadable(),)
    assert await quiet.swept(3) == 3
