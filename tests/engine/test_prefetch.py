"""The next batch is requested ahead, but not if it may not be needed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from kit.builders import NOON, RATE_LIMIT, refused
from kit.engine_doubles import Inbox, always, cursor_of
from milepost.core.ports import Fetched, Held, Outcome, Request
from milepost.core.problems import Problem
from milepost.engine.interrupt import Stop
from milepost.engine.prefetch import MAX_AHEAD, MAX_ROWS_AHEAD, Prefetch, RowsAhead


async def let_run(steps: int = 5) -> None:
    """Let the tasks that are ready run."""
    for _ in range(steps):
        await asyncio.sleep(0)


def asks(cursor: str | None, **more: object) -> Request:
    return Request(cursor, 1, 0, **more)  # type: ignore[arg-type]  # of the right types, by name


async def test_the_next_batch_is_requested_ahead_and_only_once() -> None:
    inbox = Inbox(3)
    async with Prefetch(inbox) as ahead:
        await ahead.fetch(asks(None))
        await let_run()
        assert inbox.cursors == [None, "1"]
        outcome = await ahead.fetch(asks("1"))
        assert isinstance(outcome, Fetched)
        assert outcome.batch.conversations[0].conversation_id == "t_1"
        await let_run()
        assert inbox.cursors == [None, "1", "2"]


async def test_the_scan_from_the_head_is_requested_once_a_walk_has_come_to_the_end() -> None:
    inbox = Inbox(3)
    async with Prefetch(inbox) as ahead, going_on(ahead):
        await ahead.fetch(asks(None, batches_left=99))
        await let_run(50)
        assert inbox.cursors == [None, "1", "2", None]
        assert [ahead.ready(asks(cursor), place) is not None for place, cursor in enumerate(("1", "2", None))] == [
            True,
            True,
            True,
        ]


async def test_a_scan_that_comes_to_the_end_is_followed_by_no_other() -> None:
    inbox = Inbox(3)
    async with Prefetch(inbox) as ahead, going_on(ahead):
        await ahead.fetch(asks("1", batches_left=9, until=NOON - timedelta(days=1)))
        await let_run(50)
        assert inbox.cursors == ["1", "2"]


@pytest.mark.parametrize(
    ("batches", "request_"),
    [
        pytest.param(1, asks(None), id="at the end of an inbox of one batch, which needs no scan"),
        pytest.param(3, asks(None, batches_left=0), id="after the last batch of the run"),
        pytest.param(3, asks(None, until=NOON - timedelta(minutes=1)), id="if the walk reaches back far enough"),
    ],
)
async def test_nothing_is_requested_ahead_where_nothing_is_sure_to_follow(batches: int, request_: Request) -> None:
    inbox = Inbox(batches)
    async with Prefetch(inbox) as ahead:
        await ahead.fetch(request_)
        await let_run()
    assert inbox.cursors == [None]


async def test_nothing_is_requested_ahead_after_a_refusal() -> None:
    inbox = Inbox(3, before=always(refused()))
    async with Prefetch(inbox) as ahead:
        await ahead.fetch(asks("1"))
        await let_run()
    assert inbox.cursors == ["1"]


async def test_a_batch_other_than_the_expected_one_is_requested_anew() -> None:
    inbox = Inbox(5)
    async with Prefetch(inbox) as ahead:
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

    async with Prefetch(Inbox(3, before=hang)) as ahead:
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

    async with Prefetch(Inbox(3, before=refused_at_the_second)) as prefetch:
        await prefetch.fetch(Request(None, 1, 20))
        async with stop.interruptible():
            await prefetch.fetch(Request("1", 1, 20))
        assert prefetch.refusal == refused()


async def test_no_call_follows_a_cancelled_one_before_what_came_up_meanwhile_is_looked_at() -> None:
    """A stop or a removal may have come while the request ahead was being cancelled."""
    inbox = Inbox(3)
    async with Prefetch(inbox) as ahead:
        await ahead.fetch(asks(None))
        await let_run()
        assert await ahead.fetch(asks("2")) == Held()
        assert inbox.cursors == [None, "1"]
        assert isinstance(await ahead.fetch(asks("2")), Fetched)


@asynccontextmanager
async def going_on(prefetch: Prefetch) -> AsyncIterator[None]:
    """Keep the run busy during the block."""
    with prefetch.going_on():
        yield


async def test_batches_are_requested_ahead_one_after_the_other_up_to_a_limit() -> None:
    inbox = Inbox(100)
    async with Prefetch(inbox) as ahead, going_on(ahead):
        first = asks(None, batches_left=99)
        await ahead.fetch(first)
        await let_run(10 * MAX_AHEAD)
        assert len(inbox.asked) == 1 + MAX_AHEAD
        assert [ahead.ready(asks(str(place + 1)), place) is not None for place in range(MAX_AHEAD + 1)] == [
            *[True] * MAX_AHEAD,
            False,
        ]
        ahead.drop_settled(3)
        await let_run()
        assert ahead.ready(asks("4"), 0) is not None
        assert ahead.ready(asks("1"), 0) is None, "it is settled"


async def test_no_batch_is_requested_ahead_beyond_what_the_run_has_left() -> None:
    inbox = Inbox(100)
    async with Prefetch(inbox) as ahead, going_on(ahead):
        await ahead.fetch(asks(None, batches_left=2))
        await let_run(50)
        assert inbox.cursors == [None, "1", "2"]


async def test_no_batch_is_requested_ahead_once_something_has_come_up() -> None:
    inbox, goes_on = Inbox(100), True
    async with Prefetch(inbox, lambda: goes_on) as ahead, going_on(ahead):
        await ahead.fetch(asks(None, batches_left=99))
        goes_on = False
        await let_run(50)
        assert inbox.cursors == [None, "1"], "the one that was on its way"


async def test_a_refusal_about_a_list_counts_where_the_walk_gets_there_and_a_rate_limit_at_once() -> None:
    for problem, counts_at_once in ((RATE_LIMIT, True), (refused().problem, False)):

        async def refuse_the_third(asked: Request | str, problem: Problem = problem) -> Outcome | None:
            return refused(problem) if cursor_of(asked) == "2" else None

        async with Prefetch(Inbox(9, before=refuse_the_third)) as ahead, going_on(ahead):
            await ahead.fetch(asks(None, batches_left=9))
            await let_run(50)
            assert (ahead.refusal == refused(problem)) is counts_at_once
            await ahead.fetch(asks("1", batches_left=8))
            assert ahead.refusal == refused(problem)
            assert ahead.forget() == asks("2", batches_left=7)
            assert ahead.refusal is None


async def test_only_one_batch_is_requested_ahead_while_the_run_does_something_else() -> None:
    inbox = Inbox(100)
    async with Prefetch(inbox) as ahead:
        await ahead.fetch(asks(None, batches_left=99))
        await let_run(50)
        assert inbox.cursors == [None, "1"]


async def test_the_rows_ahead_of_all_streams_are_bounded_but_each_may_have_one_batch() -> None:
    rows_ahead = RowsAhead()
    rows_ahead.count = MAX_ROWS_AHEAD - 1
    async with (
        Prefetch(Inbox(100), rows_ahead=rows_ahead) as one,
        Prefetch(Inbox(100), rows_ahead=rows_ahead) as other,
        going_on(one),
        going_on(other),
    ):
        for ahead in (one, other):
            await ahead.fetch(asks(None, batches_left=99))
            await let_run(50)
        assert [one.ready(asks(str(place)), place - 1) is not None for place in (1, 2)] == [True, False]
        assert [other.ready(asks(str(place)), place - 1) is not None for place in (1, 2)] == [True, False]
        await one.fetch(asks("1", batches_left=98))
        await one.cancel()
    assert rows_ahead.count == MAX_ROWS_AHEAD - 1, "what is taken or dropped counts no longer"
