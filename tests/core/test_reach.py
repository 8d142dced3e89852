"""checkpoint.reaches_back: where a walk may end."""

import pytest

from kit.builders import at
from milepost.core.reach import older_in_a_row, overlap_before, reaches_back

UNTIL = at(0)


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [
        pytest.param((), False, id="an empty batch says nothing"),
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
        pytest.param((1, -2), 3, 1, id="a newer one begins the count anew"),
        pytest.param((-1, 2), 3, 0, id="the last is newer"),
        pytest.param((0,), 3, 0, id="the boundary itself is not older"),
    ],
)
def test_older_ones_are_counted_in_a_row_over_batches(seconds: tuple[float, ...], before: int, older: int) -> None:
    assert older_in_a_row([at(second) for second in seconds], UNTIL, before) == older


def test_none_is_older_than_a_walk_to_the_end_of_the_inbox_goes_back() -> None:
    assert older_in_a_row([at(-10_000)], None, 0) == 0


def test_the_overlap_lies_before_the_instant() -> None:
    assert overlap_before(at(0), 600.0) == at(-600)
