"""Messages that no webhook announced: counted once each, after a while in which one may still come."""

import asyncio
from datetime import datetime, timedelta

from msgspec.structs import replace

from kit.builders import NOON, at
from kit.notices import recorded
from kit.virtual_time import VirtualClock
from kit.webhooks import NoInbox
from milepost.core.errors import StoreAway
from milepost.core.events import SweepCompleted, Tally
from milepost.core.position import Mode
from milepost.engine.feed import Recorded
from milepost.engine.interrupt import Stop
from milepost.engine.webhooks import GRACE_SECONDS, JUDGE_SECONDS, WebhookJudge


class Announced(NoInbox):
    """An inbox of webhooks that announced some messages."""

    def __init__(self, *message_ids: str) -> None:
        self.message_ids = set(message_ids)
        self.absences = 0

    async def announced(self, message_ids: tuple[str, ...]) -> frozenset[str]:
        if self.absences:
            self.absences -= 1
            raise StoreAway("away")
        return frozenset(message_ids) & self.message_ids


def stored(*message_ids: str, written_at: datetime) -> Recorded:
    notice = recorded(SweepCompleted(Mode.INCREMENTAL, NOON, NOON, Tally()))
    return replace(notice, recent=tuple((message_id, written_at) for message_id in message_ids))


async def judged(inbox: Announced, *notices: tuple[float, Recorded]) -> list[tuple[str, int]]:
    """Let a judge read notices at these seconds, and return what it counted."""
    counted: list[tuple[str, int]] = []
    stop, clock = Stop(), VirtualClock()
    judge = WebhookJudge(inbox, clock, lambda stream, count: counted.append((stream.key, count)))
    judge.begin()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(judge.run(stop))
        for due, notice in notices:
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            judge.read(notice)
        await asyncio.sleep(300 - asyncio.get_running_loop().time())
        stop.request()
    return counted


async def test_what_no_webhook_announced_is_counted_once() -> None:
    notice = stored("m_1", "m_2", "m_3", written_at=at(100))
    assert await judged(Announced("m_2"), (110, notice)) == [(notice.checkpoint.stream.key, 2)]


async def test_a_webhook_may_come_a_while_after_the_sweep() -> None:
    inbox = Announced()
    stop, clock, counted = Stop(), VirtualClock(), list[int]()
    judge = WebhookJudge(inbox, clock, lambda _, count: counted.append(count))
    judge.begin()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(judge.run(stop))
        await asyncio.sleep(100)
        judge.read(stored("m_1", written_at=at(99)))
        await asyncio.sleep(GRACE_SECONDS - JUDGE_SECONDS)
        inbox.message_ids.add("m_1")
        await asyncio.sleep(GRACE_SECONDS)
        stop.request()
    assert counted == []


async def test_what_was_written_before_the_listener_opened_is_not_judged() -> None:
    assert await judged(Announced(), (110, stored("m_1", written_at=at(GRACE_SECONDS - 1)))) == []


async def test_a_clock_that_was_ahead_when_the_listener_opened_and_is_set_back_hides_nothing() -> None:
    clock, counted = VirtualClock(), list[int]()
    clock.set_by = timedelta(days=365)
    judge = WebhookJudge(Announced(), clock, lambda _, count: counted.append(count))
    judge.begin()
    clock.set_by = timedelta()
    await asyncio.sleep(110)
    judge.read(stored("m_1", written_at=at(100)))
    await asyncio.sleep(GRACE_SECONDS)
    await judge.judge()
    assert counted == [1]


async def test_nothing_is_forgotten_while_the_database_is_away() -> None:
    inbox = Announced("m_2")
    inbox.absences = 5
    found = await judged(inbox, (100, stored("m_1", "m_2", written_at=at(99))))
    assert [count for _, count in found] == [1]
