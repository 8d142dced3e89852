"""How webhook events become sweeps: soon, seldom, and never against a limit or an error."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta

import pytest

from kit.builders import RATE_LIMIT, at, refused
from kit.engine_doubles import Inbox, always, engine, refusing, running
from kit.memory_store import MemoryStore
from kit.virtual_time import VirtualClock
from kit.webhooks import NoInbox
from milepost.core.commands import CommandDeferred
from milepost.core.errors import StoreAway
from milepost.core.model import Platform, Stream
from milepost.core.retry import PROMPTED_SECONDS
from milepost.core.webhooks import WebhookKind
from milepost.engine.interrupt import Stop
from milepost.engine.supervisor import Schedule, Supervisor
from milepost.engine.webhooks import IDLE_LOOK_SECONDS, KEPT_SECONDS, LOOK_SECONDS, MAX_EVENTS, WebhookWorker

STREAM, OTHER = (Stream(Platform.MESSENGER, str(number)) for number in range(2))
HOURLY = Schedule(interval_seconds=3600)


class Claims(NoInbox):
    """An inbox that gives what a test puts into it."""

    def __init__(self) -> None:
        self.due: list[Stream] = []
        self.looks: list[float] = []
        self.trimmed: list[datetime] = []
        self.absences = 0
        self.with_facts: list[Stream] = []
        self.applied: list[Stream] = []

    async def apply(self, stream: Stream) -> None:
        self.applied.append(stream)
        await asyncio.sleep(12)
        if len(self.applied) == 1:
            raise CommandDeferred("the run is ending")
        self.with_facts.remove(stream)

    async def claim(self, now: datetime) -> tuple[Stream, ...]:
        assert now >= at(0)
        self.looks.append(asyncio.get_running_loop().time())
        if self.absences:
            self.absences -= 1
            raise StoreAway("away")
        due, self.due = tuple(self.due), []
        return due

    async def streams_with_facts(self) -> tuple[Stream, ...]:
        return tuple(self.with_facts)

    async def trim(self, received_before: datetime, max_events: int) -> Counter[WebhookKind]:
        assert max_events == MAX_EVENTS
        self.trimmed.append(received_before)
        return Counter({WebhookKind.MESSAGE: 2, WebhookKind.EDIT: 1})


async def test_a_prompted_stream_runs_at_once_and_then_every_few_seconds_however_often_it_is_prompted() -> None:
    clock = VirtualClock(jitter=0.5)
    inbox, quiet = Inbox(1, clock=clock), Inbox(1, prefix="q", clock=clock)
    parts = engine(MemoryStore(), clock=clock)
    supervisor = Supervisor(parts, {STREAM: inbox, OTHER: quiet}, HOURLY)
    async with running(supervisor, parts.stop):
        await asyncio.sleep(100)
        for _ in range(200):
            supervisor.prompt(STREAM)
            await asyncio.sleep(0.05)
        await asyncio.sleep(100)
    news = [seconds for seconds in inbox.called_at if seconds >= 100]
    assert news == pytest.approx([100, 103, 106, 109, 112], abs=0.1)
    assert len([seconds for seconds in quiet.called_at if seconds >= 100]) == 0


async def test_a_prompt_during_a_run_is_followed_by_another_run() -> None:
    clock = VirtualClock(jitter=0.5)
    inbox = Inbox(1, clock=clock, call_seconds=10)
    parts = engine(MemoryStore(), clock=clock)
    supervisor = Supervisor(parts, {STREAM: inbox}, HOURLY)
    async with running(supervisor, parts.stop):
        await asyncio.sleep(5)
        supervisor.prompt(STREAM)
        await asyncio.sleep(100)
    assert [seconds for seconds in inbox.called_at if seconds > 0] == [10]


async def test_a_prompt_waits_for_a_rate_limit_and_is_not_lost() -> None:
    clock = VirtualClock(jitter=0.5)
    inbox = Inbox(1, clock=clock, before=refusing(RATE_LIMIT, until=at(600), clock=clock))
    parts = engine(MemoryStore(), clock=clock)
    supervisor = Supervisor(parts, {STREAM: inbox}, HOURLY)
    async with running(supervisor, parts.stop):
        await asyncio.sleep(1)
        before = len(inbox.called_at)
        held_until = parts.rate_limits.held_until(STREAM)
        for _ in range(20):
            supervisor.prompt(STREAM)
            await asyncio.sleep(1)
        assert held_until is not None
        assert held_until > clock.now()
        assert len(inbox.called_at) == before


async def test_a_prompt_does_not_shorten_the_wait_after_an_error() -> None:
    clock = VirtualClock(jitter=0.5)

    inbox = Inbox(1, clock=clock, before=always(refused()))
    parts = engine(MemoryStore(), clock=clock)
    supervisor = Supervisor(parts, {STREAM: inbox}, HOURLY)
    async with running(supervisor, parts.stop):
        await asyncio.sleep(120)
        before = len(inbox.called_at)
        for _ in range(100):
            supervisor.prompt(STREAM)
            await asyncio.sleep(1)
        assert len(inbox.called_at) == before


async def test_an_unknown_stream_is_not_prompted() -> None:
    parts = engine(MemoryStore())
    Supervisor(parts, {STREAM: Inbox(1)}, HOURLY).prompt(OTHER)


class TestWorker:
    async def work(self, claims: Claims, prompted: list[Stream], *steps: tuple[float, Stream | None]) -> int:
        """Let a worker work while events arrive; return how many have expired."""
        clock, stop, expired = VirtualClock(), Stop(), Counter[WebhookKind]()
        worker = WebhookWorker(claims, prompted.append, claims.apply, clock, expired.update)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run(stop))
            for seconds, stream in steps:
                await asyncio.sleep(seconds)
                if stream is not None:
                    claims.due.append(stream)
                    worker.notify()
            stop.request()
        return expired.total()

    async def test_an_event_is_worked_off_as_it_arrives(self) -> None:
        claims, prompted = Claims(), list[Stream]()
        await self.work(claims, prompted, (2, STREAM), (0.01, None), (2, OTHER), (0.01, None))
        assert prompted == [STREAM, OTHER]

    async def test_many_events_are_worked_off_together(self) -> None:
        claims, prompted = Claims(), list[Stream]()
        await self.work(claims, prompted, *[(0.001, STREAM)] * 1000, (1, None))
        assert len(prompted) == 1000
        assert len(claims.looks) <= 6

    async def test_what_another_worker_took_is_looked_for_every_few_seconds(self) -> None:
        claims = Claims()
        await self.work(claims, [], (61, None))
        assert len(claims.looks) == pytest.approx(61 / LOOK_SECONDS, abs=2)

    async def test_nothing_is_lost_while_the_database_is_away(self) -> None:
        claims, prompted = Claims(), list[Stream]()
        claims.absences, claims.due = 3, [STREAM]
        await self.work(claims, prompted, (30, None))
        assert prompted == [STREAM]

    async def test_old_events_are_deleted_every_minute_and_counted(self) -> None:
        claims = Claims()
        expired = await self.work(claims, [], (130, None))
        assert len(claims.trimmed) == 3
        assert claims.trimmed[0] == at(0) - timedelta(seconds=KEPT_SECONDS)
        assert expired == 9

    async def test_old_events_are_deleted_although_the_clock_was_ahead_and_is_set_back(self) -> None:
        claims, clock, stop = Claims(), VirtualClock(), Stop()
        clock.set_by = timedelta(days=365)
        worker = WebhookWorker(claims, list[Stream]().append, claims.apply, clock, lambda _: None)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run(stop))
            await asyncio.sleep(1)
            clock.set_by = timedelta()
            await asyncio.sleep(130)
            stop.request()
        assert len(claims.trimmed) == 3

    async def test_facts_are_applied_by_one_task_a_stream_and_again_if_that_fails(self) -> None:
        claims = Claims()
        claims.with_facts = [STREAM]
        await self.work(claims, [], (60, None))
        assert claims.applied == [STREAM, STREAM]

    async def test_where_no_webhooks_are_taken_any_more_what_is_left_is_worked_off_or_expires(self) -> None:
        """What was acknowledged is not lost where the listener was turned off since."""
        claims, stop, prompted, expired = Claims(), Stop(), list[Stream](), Counter[WebhookKind]()
        claims.due, claims.with_facts = [STREAM], [STREAM]
        worker = WebhookWorker(claims, prompted.append, claims.apply, VirtualClock(), expired.update)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.work_off(stop))
            await asyncio.sleep(3 * IDLE_LOOK_SECONDS - 1)
            stop.request()
        assert (prompted, claims.applied) == ([STREAM], [STREAM, STREAM])
        assert (len(claims.looks), expired[WebhookKind.EDIT]) == (3, 3)


def test_streams_are_read_within_seconds() -> None:
    assert PROMPTED_SECONDS <= 5
