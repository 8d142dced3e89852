"""schedule: when a stream's next turn is due."""

from datetime import timedelta

import pytest

from kit.builders import NOON
from milepost.core.checkpoint import Run
from milepost.core.events import Reason, RunStatus, Tally
from milepost.core.schedule import next_turn_at

MINUTE = timedelta(minutes=1)


def due(run: Run | None, luck: float = 0.5, minutes_later: int = 1) -> float:
    """Minutes from the run's start to the next turn, asked some minutes after that start, for a 5 minute interval."""
    at = next_turn_at(run, NOON + minutes_later * MINUTE, luck, interval_seconds=300)
    return (at - NOON) / MINUTE


def test_the_next_turn_comes_an_interval_after_the_last_one_started() -> None:
    assert due(Run("r_1", NOON, status=RunStatus.COMPLETE)) == 5


@pytest.mark.parametrize(("luck", "minutes"), [(0.0, 4.5), (0.25, 4.75), (0.999999, 5.5)])
def test_luck_moves_it_by_up_to_a_tenth_of_the_interval(luck: float, minutes: float) -> None:
    assert due(Run("r_1", NOON, status=RunStatus.COMPLETE), luck) == pytest.approx(minutes, abs=1e-4)


def test_a_run_longer_than_the_interval_is_followed_at_once() -> None:
    assert due(Run("r_1", NOON, status=RunStatus.COMPLETE), minutes_later=20) == 20


@pytest.mark.parametrize("reason", [Reason.TIME_LIMIT, Reason.BATCH_LIMIT])
def test_a_run_at_its_limit_goes_on_at_once(reason: Reason) -> None:
    assert due(Run("r_1", NOON, status=RunStatus.PAUSED, reason=reason, tally=Tally(batches=3))) == 1


def test_a_run_at_its_limit_that_got_nowhere_waits_for_its_interval() -> None:
    assert due(Run("r_1", NOON, status=RunStatus.PAUSED, reason=Reason.TIME_LIMIT, retries=1)) == 5


@pytest.mark.parametrize("reason", [Reason.RATE_LIMIT, Reason.RETRIES_EXHAUSTED, Reason.AUTHORIZATION])
def test_a_run_that_was_held_up_waits_for_its_interval(reason: Reason) -> None:
    assert due(Run("r_1", NOON, status=RunStatus.PAUSED, reason=reason)) == 5


def test_a_turn_that_left_no_run_is_followed_an_interval_from_now() -> None:
    assert due(None) == 6
