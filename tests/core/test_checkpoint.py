"""checkpoint: stored instants in the future are found and named."""

from datetime import timedelta

from msgspec.structs import replace

from kit.builders import NOON, RATE_LIMIT, STREAM, at
from milepost.core.checkpoint import Checkpoint, RateLimit, Run, Sweep, furthest_ahead, is_ahead
from milepost.core.events import RunStatus
from milepost.core.position import Mode
from milepost.core.problems import Scope

CHECKPOINT = Checkpoint(
    STREAM,
    updated_at=at(100),
    run=Run("r_1", at(10), RunStatus.COMPLETE, ended_at=at(100)),
    watermark=at(50),
    last_full_sweep_at=at(40),
    sweep=Sweep(Mode.FULL, at(30), at(20)),
    rate_limit=RateLimit(Scope.PAGE, 1, at(90), at(150), RATE_LIMIT),
)


def test_nothing_is_ahead_of_a_steady_clock() -> None:
    assert furthest_ahead([CHECKPOINT, Checkpoint(STREAM)], at(100)) == {}


def test_clocks_may_differ_a_little() -> None:
    assert not is_ahead(at(60), NOON)
    assert is_ahead(at(61), NOON)
    assert not is_ahead(None, NOON)


def test_everything_stored_by_a_clock_that_was_ahead_is_named_with_its_latest_instant() -> None:
    later = replace(CHECKPOINT, watermark=at(500))
    found = furthest_ahead([CHECKPOINT, later, CHECKPOINT], NOON - timedelta(hours=1))
    assert found == {
        "a journal entry": at(100),
        "the watermark of a sweep": at(500),
        "a full sweep": at(40),
        "the start of a run": at(10),
        "the end of a run": at(100),
        "the start of a sweep": at(30),
        "a rate limit": at(90),
    }


def test_instants_that_may_be_in_the_future_are_not_named() -> None:
    held = Checkpoint(STREAM, rate_limit=RateLimit(Scope.PAGE, 1, NOON, at(86_400), RATE_LIMIT))
    assert furthest_ahead([held], NOON) == {}
