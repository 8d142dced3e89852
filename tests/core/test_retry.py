"""retry: exponential backoff with full jitter, and when a stream's next run is due."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.builders import NOON, at
from milepost.core.checkpoint import Run
from milepost.core.events import Reason, RunStatus, Tally
from milepost.core.retry import JITTER, backoff_seconds, in_step, next_run_at

MINUTE = timedelta(minutes=1)
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


# --- the next run -----------------------------------------------------------------------------------------------------


def due(
    run: Run | None,
    jitter: float = 0.5,
    minutes_later: int = 1,
    *,
    interval_minutes: float = 5,
    held_until: datetime | None = None,
) -> float:
    """Return the minutes from a run's start to the next one, as computed some minutes after that start."""
    now = NOON + minutes_later * MINUTE
    at = next_run_at(run, now, jitter, interval_seconds=60 * interval_minutes, held_until=held_until)
    return (at - NOON) / MINUTE


def test_the_next_run_is_due_an_interval_after_the_last_one_started() -> None:
    assert due(Run("r_1", NOON, status=RunStatus.COMPLETE)) == 5


@pytest.mark.parametrize(("jitter", "minutes"), [(0.0, 4.5), (0.25, 4.75), (0.999999, 5.5)])
def test_jitter_moves_the_next_run_by_up_to_a_tenth_of_the_interval(jitter: float, minutes: float) -> None:
    assert due(Run("r_1", NOON, status=RunStatus.COMPLETE), jitter) == pytest.approx(minutes, abs=1e-4)


def test_a_run_longer_than_the_interval_is_followed_at_once() -> None:
    assert due(Run("r_1", NOON, status=RunStatus.COMPLETE), minutes_later=20) == 20


@pytest.mark.parametrize("reason", [Reason.TIME_LIMIT, Reason.BATCH_LIMIT])
def test_a_run_at_its_limit_continues_at_once(reason: Reason) -> None:
    assert due(Run("r_1", NOON, status=RunStatus.PAUSED, reason=reason, tally=Tally(batches=3))) == 1


def test_a_run_at_its_limit_without_progress_waits_for_its_interval() -> None:
    assert due(Run("r_1", NOON, status=RunStatus.PAUSED, reason=Reason.TIME_LIMIT, retries=1)) == 5


def test_a_rate_limited_run_continues_as_soon_as_the_limit_is_over() -> None:
    limited = Run("r_1", NOON, status=RunStatus.PAUSED, reason=Reason.RATE_LIMIT)

    assert due(limited) == 1
    assert due(limited, held_until=NOON + 19 * MINUTE) == 19


def test_no_run_starts_during_a_rate_limit_and_none_is_hurried_by_one() -> None:
    complete = Run("r_1", NOON, status=RunStatus.COMPLETE)

    assert due(complete, held_until=NOON + 19 * MINUTE) == 19
    assert due(complete, held_until=NOON + 2 * MINUTE) == 5
    assert due(None, held_until=NOON + 19 * MINUTE) == 19


@pytest.mark.parametrize(("interval_minutes", "minutes"), [(5, 5), (15, 15), (60, 15)])
@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.INTERRUPTED])
def test_a_run_that_failed_is_parked_for_minutes_however_long_the_interval(
    status: RunStatus, interval_minutes: float, minutes: float
) -> None:
    assert due(Run("r_1", NOON, status=status), interval_minutes=interval_minutes) == minutes


@pytest.mark.parametrize(
    ("reason", "interval_minutes", "minutes"),
    [
        (Reason.AUTHORIZATION, 5, 30),
        (Reason.CONFIGURATION, 5, 60),
        (Reason.AUTHORIZATION, 120, 120),
        (Reason.CONFIGURATION, 120, 120),
    ],
)
def test_a_stream_that_needs_an_operator_is_probed_slowly(
    reason: Reason, interval_minutes: float, minutes: float
) -> None:
    stopped = Run("r_1", NOON, status=RunStatus.STOPPED, reason=reason)

    assert due(stopped, interval_minutes=interval_minutes) == minutes


def test_the_next_run_is_due_an_interval_from_now_if_there_was_none() -> None:
    assert due(None) == 6


def test_a_run_that_started_in_the_future_counts_as_started_now() -> None:
    assert due(Run("r_1", NOON + 60 * MINUTE, status=RunStatus.COMPLETE), minutes_later=1) == 6


@pytest.mark.parametrize(
    ("due_after", "interval_seconds", "begins_after"),
    [(300.4, 300.0, 300.0), (300.6, 300.0, 301.0), (1.04, 1.0, 1.0), (1.06, 1.0, 1.1)],
    ids=["second", "next second", "tenth of a short interval", "next tenth"],
)
def test_runs_that_are_due_at_about_the_same_time_begin_together(
    due_after: float, interval_seconds: float, begins_after: float
) -> None:
    begins_at = in_step(at(due_after), NOON, interval_seconds)
    assert begins_at.timestamp() == pytest.approx(at(begins_after).timestamp(), abs=1e-5)


@pytest.mark.parametrize("seconds", [0.0, 0.4, 1.0])
def test_a_run_that_follows_at_once_waits_for_no_others(seconds: float) -> None:
    assert in_step(at(seconds), NOON, 300.0) == at(seconds)


@given(due_after=st.floats(0, 1e6), interval_seconds=st.floats(1, 86400.0))
def test_no_run_begins_earlier_or_later_than_its_jitter_allows(due_after: float, interval_seconds: float) -> None:
    moved = in_step(at(due_after), NOON, interval_seconds) - at(due_after)
    assert abs(moved.total_seconds()) <= min(1.0, JITTER * interval_seconds) / 2 + 1e-5
