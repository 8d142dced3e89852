"""retry.backoff_seconds: exponential backoff with full jitter."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.core.retry import backoff_seconds

LARGEST_JITTER = 1 - 2**-53  # the largest value of random.random()


def wait(attempt: int, jitter: float, base: float = 2.0, largest: float = 32.0) -> float:
    return backoff_seconds(attempt, jitter, base_delay_seconds=base, max_delay_seconds=largest)


@pytest.mark.parametrize(
    ("attempt", "ceiling"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0), (5, 32.0), (6, 32.0), (10_000, 32.0)]
)
def test_the_ceiling_doubles_up_to_the_largest_delay(attempt: int, ceiling: float) -> None:
    assert wait(attempt, 0.0) == 0.0
    assert wait(attempt, 0.5) == ceiling / 2
    assert wait(attempt, LARGEST_JITTER) == pytest.approx(ceiling)
    assert wait(attempt, LARGEST_JITTER) < ceiling


@settings(derandomize=True, deadline=None)
@given(
    attempt=st.integers(1, 10**9),
    jitter=st.floats(0, LARGEST_JITTER),
    base=st.floats(0.001, 3600),
    largest=st.floats(0.001, 86400),
)
def test_no_delay_is_negative_or_above_its_ceiling(attempt: int, jitter: float, base: float, largest: float) -> None:
    assert 0 <= wait(attempt, jitter, base, largest) <= largest
    assert wait(1, jitter, base, largest) <= base


def test_jitter_is_spread_over_the_whole_range() -> None:
    waits = [wait(3, number / 1000) for number in range(1000)]

    assert sum(waits) / len(waits) == pytest.approx(4.0, rel=0.01)
