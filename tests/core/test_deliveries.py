"""When a destination is tried again, with how many changes, and its states."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.builders import NOON, at
from milepost.core.changes import (
    MAX_CHANGES,
    MAX_WAIT_SECONDS,
    Answer,
    Delivery,
    DeliveryResult,
    DeliveryState,
    delivered,
    failed,
    is_due,
    lag_seconds,
    next_limit,
    state_of,
    wait_seconds,
)

REFUSED = Answer(DeliveryResult.REFUSED, "HTTP 500")
SOME = Delivery("crm", 7)


def test_waits_double_up_to_the_longest_one() -> None:
    waits = [wait_seconds(failures, None, 1.0) for failures in range(1, 13)]
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]


@given(st.integers(1, 10**9), st.none() | st.floats(0, 10**9), st.floats(0, 1))
def test_a_wait_is_never_nothing_and_always_ends(failures: int, asked: float | None, random: float) -> None:
    assert 0.5 <= wait_seconds(failures, asked, random) <= MAX_WAIT_SECONDS


def test_a_receiver_may_ask_for_a_longer_wait() -> None:
    assert wait_seconds(1, 60.0, 0.5) == 60.0
    assert wait_seconds(12, 60.0, 1.0) == MAX_WAIT_SECONDS


def test_what_fails_is_tried_again_after_a_growing_wait_for_as_long_as_it_takes() -> None:
    delivery, now = SOME, NOON
    for _ in range(200):
        assert is_due(delivery, now)
        delivery = failed(delivery, REFUSED, now, 0.5)
        assert not is_due(delivery, now)
        assert delivery.retry_at is not None
        now = delivery.retry_at
    assert (delivery.place, delivery.failures, delivery.failing_since) == (7, 200, NOON)
    assert now - NOON > timedelta(days=1)


def test_a_confirmation_forgets_the_failures() -> None:
    assert delivered(failed(SOME, REFUSED, NOON, 0.5), 9, None, at(5)) == Delivery("crm", 9, delivered_at=at(5))


def test_a_paused_destination_stays_paused_whatever_comes_of_a_request() -> None:
    paused = replace(SOME, paused_at=NOON)
    assert not is_due(paused, at(10**6))
    assert delivered(paused, 9, None, at(5)).paused_at == failed(paused, REFUSED, NOON, 0.5).paused_at == NOON


def test_a_retry_that_was_dated_by_a_clock_that_was_ahead_is_due() -> None:
    assert is_due(replace(SOME, retry_at=NOON + timedelta(days=400)), NOON)


def test_a_receiver_that_refuses_gets_less_and_then_slowly_more() -> None:
    limit, limits = MAX_CHANGES, []
    for result in (DeliveryResult.REFUSED, DeliveryResult.TIMED_OUT, DeliveryResult.UNREACHABLE):
        limit = next_limit(limit, result)
        limits.append(limit)
    assert limits == [50, 25, 25]
    for _ in range(20):
        limit = next_limit(limit, DeliveryResult.REFUSED)
    assert limit == 1
    for _ in range(30):
        limit = next_limit(limit, DeliveryResult.DELIVERED)
    assert limit == MAX_CHANGES


@pytest.mark.parametrize(
    ("delivery", "state"),
    [
        (SOME, DeliveryState.UP_TO_DATE),
        (replace(SOME, behind_since=NOON), DeliveryState.DELIVERING),
        (failed(SOME, REFUSED, NOON, 0.5), DeliveryState.FAILING),
        (replace(failed(SOME, REFUSED, NOON, 0.5), paused_at=NOON), DeliveryState.PAUSED),
    ],
)
def test_a_state_says_what_a_destination_is_doing(delivery: Delivery, state: DeliveryState) -> None:
    assert state_of(delivery) is state


def test_the_lag_is_the_age_of_what_waits() -> None:
    assert lag_seconds(SOME, at(60)) == 0.0
    assert lag_seconds(replace(SOME, behind_since=NOON), at(60)) == 60.0
    assert lag_seconds(replace(SOME, behind_since=at(90)), at(60)) == 0.0
