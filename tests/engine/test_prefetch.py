"""The next batch is ready in time, and is not asked for where it may not be wanted."""

import asyncio
from datetime import timedelta

from kit.builders import NOON, refused
from kit.engine_doubles import Inbox, cursor_of
from milepost.core.ports import Fetched, Held, Outcome, Request
from milepost.engine.interrupt import Stop
from milepost.engine.prefetch import prefetching


async def let_run() -> None:
    """Let the tasks that are ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


def asks(cursor: str | None, **more: object) -> Request:
    return Request(cursor, 1, 0, **more)  # type: ignore[arg-type]  # of the right types, by name


async def test_the_next_batch_is_requested_ahead_and_only_once() -> None:
    inbox = Inbox(3)
    async with prefetching(inbox) as ahead:
        await ahead.fetch(asks(None))
        await let_run()
        assert inbox.cursors == [None, "1"]
        outcome = await ahead.fetch(asks("1"))
        assert isinstance(outcome, Fetched)
        assert outcome.batch.conversations[0].conversation_id == "t_1"
        await let_run()
        assert inbox.cursors == [None, "1", "2"]


async def test_nothing_is_requested_ahead_at_the_end_of_the_inbox() -> None:
    inbox = Inbox(1)
    async with prefetching(inbox) as ahead:
        await ahead.fetch(asks(None))
        await let_run()
    assert inbox.cursors == [None]


async def test_nothing_is_requested_ahead_after_the_last_batch_of_the_run() -> None:
    inbox = Inbox(3)
    async with prefetching(inbox) as ahead:
        await ahead.fetch(asks(None, is_last=True))
        await let_run()
    assert inbox.cursors == [None]


async def test_nothing_is_requested_ahead_if_the_walk_reaches_back_far_enough() -> None:
    inbox = Inbox(3)
    async with prefetching(inbox) as ahead:
        await ahead.fetch(asks(None, until=NOON - timedelta(minutes=1)))
        await let_run()
    assert inbox.cursors == [None]


async def test_nothing_is_requested_ahead_after_a_refusal() -> None:
    async def refuse(_: Request | str) -> Outcome:
        return refused()

    inbox = Inbox(3, before=refuse)
    async with prefetching(inbox) as ahead:
        await ahead.fetch(asks("1"))
        await let_run()
    assert inbox.cursors == ["1"]


async def test_a_batch_other_than_the_expected_one_is_requested_anew() -> None:
    inbox = Inbox(5)
    async with prefetching(inbox) as ahead:
        await ahead.fetch(asks(None))
        assert await ahead.fetch(asks("3")) == Held()
        outcome = await ahead.fetch(asks("3"))
    assert isinstance(outcome, Fetched)
    assert outcome.batch.conversations[0].conversation_id == "t_3"


async def test_a_request_in_flight_is_cancelled_at_the_end() -> None:
    ended = asyncio.Event()

    async def hang(asked: Request | str) -> None:
        if cursor_of(asked) == "1":
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    async with prefetching(Inbox(3, before=hang)) as ahead:
        await ahead.fetch(asks(None))
        await let_run()
    assert ended.is_set()


async def test_a_refusal_that_comes_together_with_a_stop_is_not_lost() -> None:
    stop = Stop()

    async def refused_at_the_second(asked: Request | str) -> Outcome | None:
        if cursor_of(asked) != "1":
            return None
        await asyncio.sleep(1)
        stop.request()
        return refused()

    async with prefetching(Inbox(3, before=refused_at_the_second)) as prefetch:
        await prefetch.fetch(Request(None, 1, 20))
        async with stop.interruptible():
            await prefetch.fetch(Request("1", 1, 20))
        assert prefetch.refusal == refused()


async def test_no_call_follows_a_cancelled_one_before_what_came_up_meanwhile_is_looked_at() -> None:
    """A stop or a removal may have come while the request ahead was being cancelled."""
    inbox = Inbox(3)
    async with prefetching(inbox) as ahead:
        await ahead.fetch(asks(None))
        await let_run()
        assert await ahead.fetch(asks("2")) == Held()
        assert inbox.cursors == [None, "1"]
        assert isinstance(await ahead.fetch(asks("2")), Fetched)
