"""plan.reaches_back and plan.walk_start: where a walk may end, and where it starts."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.builders import at
from milepost.core.plan import EPOCH, older_in_a_row, overlap_before, reaches_back, walk_start

UNTIL = at(0)


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [
        pytest.param((), False, id="an empty batch proves nothing"),
        pytest.param((-1, -2), True, id="all older"),
        pytest.param((1, -2), False, id="the first is newer"),
        pytest.param((-1, 2), False, id="the last is newer, against the order"),
        pytest.param((-1, 2, -3), False, id="one old row is not enough"),
        pytest.param((0,), False, id="the boundary itself is not older"),
        pytest.param((0, -1), False, id="the boundary and older ones"),
        pytest.param((-0.001,), True, id="a millisecond older"),
    ],
)
def test_a_walk_ends_at_a_batch_wholly_older(seconds: tuple[float, ...], answer: bool) -> None:
    assert reaches_back([at(second) for second in seconds], UNTIL) is answer


def test_a_walk_to_the_end_of_the_inbox_reaches_back_nowhere() -> None:
    assert not reaches_back([at(-10_000)], None)


@pytest.mark.parametrize(
    ("seconds", "before", "older"),
    [
        pytest.param((), 3, 3, id="an empty batch changes nothing"),
        pytest.param((-1, -2), 3, 5, id="all older"),
        pytest.param((1, -2), 3, 1, id="a newer one restarts the count"),
        pytest.param((-1, 2), 3, 0, id="the last is newer"),
        pytest.param((0,), 3, 0, id="the boundary itself is not older"),
    ],
)
def test_older_conversations_are_counted_in_a_row_across_batches(
    seconds: tuple[float, ...], before: int, older: int
) -> None:
    assert older_in_a_row([at(second) for second in seconds], UNTIL, before) == older


def test_no_conversation_is_older_than_a_walk_to_the_end_of_the_inbox() -> None:
    assert older_in_a_row([at(-10_000)], None, 0) == 0


def test_the_overlap_is_before_the_instant() -> None:
    assert overlap_before(at(0), 600.0) == at(-600)


OVERLAP = 600.0


@pytest.mark.parametrize(
    ("started", "newest", "start"),
    [
        pytest.param(0, -5, 0, id="a busy inbox agrees with the clock"),
        pytest.param(0, -601, 0, id="a quiet inbox agrees with it up to the overlap"),
        pytest.param(0, -3600, -3600 + 601, id="a very quiet inbox overrides the clock"),
        pytest.param(30 * 86400, -5, -5 + 601, id="a clock that is ahead is not trusted"),
        pytest.param(-86400, -5, -86400, id="a clock that is behind costs no more than reading again"),
    ],
)
def test_a_walk_starts_no_later_than_the_newest_conversation_allows(started: int, newest: int, start: int) -> None:
    assert walk_start(at(started), [at(newest - 7), at(newest), at(newest - 3)], OVERLAP, None) == at(start)


def test_a_first_batch_without_conversations_leaves_the_watermark_where_it_was() -> None:
    assert walk_start(at(0), [], OVERLAP, None) == EPOCH
    assert walk_start(at(0), [], OVERLAP, at(-50)) == at(-50)
    assert walk_start(at(0), [], OVERLAP, at(50)) == at(0)


instants = st.datetimes(EPOCH.replace(tzinfo=None), timezones=st.just(UTC))


@given(instants, st.lists(instants, min_size=1), st.floats(0, 7 * 86400.0))
def test_whatever_the_clocks_say_the_next_walk_reaches_back_to_the_newest_conversation(
    asked_at: datetime, times: list[datetime], overlap_seconds: float
) -> None:
    start = walk_start(asked_at, times, overlap_seconds, None)
    assert start <= asked_at
    assert overlap_before(start, overlap_seconds) <= max(times) + timedelta(seconds=1.001)
