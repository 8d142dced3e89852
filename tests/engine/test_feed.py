"""Readers get what was committed, each at its own pace, and none can break the work."""

import asyncio

from kit.builders import STREAM
from kit.engine_doubles import Inbox, engine
from kit.memory_store import MemoryStore
from milepost.core.model import Stream
from milepost.engine.feed import MAX_HELD, Feed, Notice, Recorded, SlotWaited, StoreRetried, reading
from milepost.engine.supervisor import Schedule, Supervisor


def notice(number: int) -> StoreRetried:
    return StoreRetried(Stream.parse("messenger:1"), number, 0.0, 0.0, "away")


def attempts(notices: list[Notice]) -> list[int]:
    return [each.attempts for each in notices if isinstance(each, StoreRetried)]


async def let_readers_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_reader_gets_every_notice_in_order_even_after_the_end_of_the_block() -> None:
    feed, seen = Feed(), list[Notice]()
    async with reading(feed, {"list": seen.append}):
        for number in range(100):
            feed.publish(notice(number))
    assert attempts(seen) == list(range(100))


async def test_a_wait_for_a_slot_wakes_no_reader_and_is_read_with_the_next_commit() -> None:
    feed, seen = Feed(), list[Notice]()
    async with reading(feed, {"list": seen.append}):
        feed.publish(SlotWaited(1.0))
        await let_readers_run()
        assert seen == []
        feed.publish(notice(1))
        await let_readers_run()
        assert seen == [SlotWaited(1.0), notice(1)]


async def test_a_reader_that_falls_behind_loses_the_oldest_notices() -> None:
    feed = Feed()
    subscription = feed.subscribe()
    for number in range(MAX_HELD + 3):
        feed.publish(notice(number))
    subscription.close()
    assert attempts([each async for arrived in subscription for each in arrived]) == list(range(3, MAX_HELD + 3))


async def test_a_reader_that_fails_stops_neither_the_others_nor_the_work() -> None:
    def breaks(_: Notice) -> None:
        msg = "a bug in a reader"
        raise RuntimeError(msg)

    store, feed, seen = MemoryStore(), Feed(), list[Notice]()
    parts = engine(store, feed=feed)
    async with reading(feed, {"broken": breaks, "list": seen.append}):
        await Supervisor(parts, {STREAM: Inbox(3)}, Schedule()).sync([STREAM])
        await asyncio.sleep(0)
    assert len(store.conversations) == 3
    assert sum(len(each.entries) for each in seen if isinstance(each, Recorded)) == len(store.journal)


async def test_a_reader_that_fails_once_goes_on_with_the_next_notice() -> None:
    def breaks_at_third(notice: Notice) -> None:
        if attempts([notice]) == [2]:
            msg = "a bug in a reader"
            raise RuntimeError(msg)
        seen.append(notice)

    feed, seen = Feed(), list[Notice]()
    async with reading(feed, {"broken once": breaks_at_third}):
        for number in range(5):
            feed.publish(notice(number))
        await asyncio.sleep(0)
        feed.publish(notice(5))
    assert attempts(seen) == [0, 1, 3, 4, 5]
