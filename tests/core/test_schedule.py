"""schedule.next_turn_at: when a stream is worked again."""

import pytest
from msgspec.structs import replace

from kit.builders import NOON, at
from milepost.core.checkpoint import Run
from milepost.core.events import Reason, RunStatus
from milepost.core.schedule import next_turn_at

RUN = Run("run-1", NOON, RunStatus.COMPLETE)


@pytest.mark.parametrize("luck", [0.0, 0.5, 0.999])
def test_a_stream_comes_back_an_interval_after_its_run_started_or_nearly(luck: float) -> None:
    due = next_turn_at(RUN, at(20), luck, interval_seconds=300)

    assert at(270) <= due <= at(330)
    assert (due == at(300)) == (luck == 0.5)


def test_a_stream_that_was_never_worked_comes_an_interval_from_now() -> None:
    assert next_turn_at(None, NOON, 0.5, interval_seconds=300) == at(300)


def test_a_turn_that_is_overdue_is_due_now_and_not_before() -> None:
    assert next_turn_at(RUN, at(1000), 0.5, interval_seconds=300) == at(1000)


@pytest.mark.parametrize("reason", [Reason.TIME_LIMIT, Reason.BATCH_LIMIT])
def test_a_run_that_read_up_to_its_limit_goes_on_at_once(reason: Reason) -> None:
    paused = replace(RUN, status=RunStatus.PAUSED, reason=reason)
    paused = replace(paused, tally=replace(paused.tally, batches=5))

    assert next_turn_at(paused, at(20), 0.5, interval_seconds=300) == at(20)


@pytest.mark.parametrize("reason", [reason for reason in Reason if not reason.endswith("_limit")])
def test_a_run_that_ended_for_another_reason_waits_for_its_turn(reason: Reason) -> None:
    ended = replace(RUN, status=RunStatus.FAILED, reason=reason)

    assert next_turn_at(ended, at(20), 0.5, interval_seconds=300) == at(300)
