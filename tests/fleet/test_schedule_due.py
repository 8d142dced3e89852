"""When a stream is due: the same for every worker, from the journal alone."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kit.builders import NOON, STREAM, at
from milepost.core.checkpoint import Checkpoint, OperatorPause, Run
from milepost.core.events import Reason, RunStatus
from milepost.engine.supervisor import Schedule
from milepost.fleet.schedule import due_at, jitter_of

PACE = Schedule(interval_seconds=100, max_run_seconds=270)


def after(status: RunStatus, reason: Reason | None = None, ended_seconds: float | None = 10.0) -> Checkpoint:
    """Return a stream whose latest run began at noon."""
    ended_at = None if ended_seconds is None else at(ended_seconds)
    return Checkpoint(STREAM, 5, updated_at=at(10), run=Run("r_1", NOON, status, None, reason, ended_at))


def seconds_to(checkpoint: Checkpoint, held_seconds: float | None = None) -> float:
    due = due_at(checkpoint, at(10), PACE, None if held_seconds is None else at(held_seconds))
    assert due is not None
    return (due - NOON).total_seconds()


def test_a_stream_that_never_ran_is_due_at_once() -> None:
    assert seconds_to(Checkpoint(STREAM)) == 10


def test_a_stream_that_is_complete_comes_back_an_interval_after_its_run_began() -> None:
    assert seconds_to(after(RunStatus.COMPLETE)) == pytest.approx(100, abs=10)


def test_a_run_ended_by_the_shutdown_of_its_worker_continues_at_once() -> None:
    assert seconds_to(after(RunStatus.PAUSED, Reason.SHUTDOWN)) == 10
    assert seconds_to(after(RunStatus.PAUSED, Reason.SHUTDOWN), held_seconds=50) == 50


def test_a_stream_under_a_rate_limit_is_due_when_that_ends() -> None:
    assert seconds_to(after(RunStatus.PAUSED, Reason.RATE_LIMIT), held_seconds=500) == 500
    assert seconds_to(Checkpoint(STREAM), held_seconds=500) == 500


def test_an_open_run_belongs_to_a_worker_until_it_is_silent_for_longer_than_it_can_last() -> None:
    assert seconds_to(after(RunStatus.RUNNING, ended_seconds=None)) > 10 + PACE.max_run_seconds


def test_a_paused_stream_is_never_due() -> None:
    assert (
        due_at(replace(after(RunStatus.COMPLETE), operator_pause=OperatorPause(NOON, "Ada")), at(1000), PACE, None)
        is None
    )


@given(st.text(max_size=40))
def test_all_workers_use_the_same_jitter_after_a_run(run_id: str) -> None:
    assert 0 <= jitter_of(run_id) < 1
    assert jitter_of(run_id) == jitter_of(str(run_id))


def test_the_jitter_differs_from_run_to_run() -> None:
    jitters = {jitter_of(f"20261128T0{n}") for n in range(100)}
    assert len(jitters) == 100
    assert timedelta(seconds=min(jitters)) < timedelta(seconds=0.1)
    assert max(jitters) > 0.9
