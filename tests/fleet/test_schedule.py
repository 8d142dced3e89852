"""When a stream is due: by the journal, by runs that people ask for, and by runs that left nothing in the journal."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM, at, entries
from kit.virtual_time import LeapingClock
from milepost.core.checkpoint import Checkpoint, OperatorPause, Run
from milepost.core.events import (
    Event,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    StreamPaused,
    StreamResumed,
    SweepCompleted,
    SyncRequested,
    Tally,
    TokenChecked,
)
from milepost.core.evolve import fold
from milepost.core.model import TokenHealth
from milepost.core.position import Mode
from milepost.engine.interrupt import Stop
from milepost.engine.supervisor import Schedule
from milepost.fleet.schedule import FleetSchedule, due_at, jitter_of

PACE = Schedule(interval_seconds=1000)
COMPLETE = (RunStarted(NOON), SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))


class Followed:
    """A schedule, and the journal that it reads."""

    def __init__(self, *events: Event) -> None:
        self.checkpoint = Checkpoint(STREAM)
        self.clock = LeapingClock(Stop())
        self.schedule = FleetSchedule(lambda: {STREAM: self.checkpoint}, self.clock)
        self.append(*events)

    def append(self, *events: Event, seconds: float = 0.0, run_id: str = "r_1") -> None:
        appended = entries(*events, after=self.checkpoint, recorded_at=at(seconds), run_id=run_id)
        self.checkpoint = fold(appended, self.checkpoint)
        self.clock.time = at(seconds)
        self.schedule.on_entries(appended)

    def is_due(self, seconds: float, held_seconds: float | None = None) -> bool:
        self.clock.time = now = at(seconds)
        held_until = None if held_seconds is None else at(held_seconds)
        due = self.schedule.due_at(STREAM, now, PACE, held_until)
        return due is not None and due <= now


def test_a_stream_with_a_requested_sync_is_due_at_once_until_a_run_has_begun() -> None:
    followed = Followed(*COMPLETE)
    assert not followed.is_due(20)
    followed.append(SyncRequested("Ada", full=True), seconds=10)
    assert followed.is_due(20)
    assert followed.schedule.wants_full(STREAM)
    followed.append(RunStarted(at(21)), seconds=21, run_id="r_2")
    assert not followed.is_due(22)
    followed.append(SweepCompleted(Mode.FULL, at(21), at(21), Tally(batches=1)), seconds=22, run_id="r_2")
    assert not followed.is_due(23)
    assert not followed.schedule.wants_full(STREAM)


@pytest.mark.parametrize("is_quiet", [False, True])
def test_a_full_sweep_is_still_requested_after_a_run_that_began_without_knowing(*, is_quiet: bool) -> None:
    """By a worker that read of the request a moment after it had begun."""
    followed = Followed(*COMPLETE)
    followed.append(SyncRequested("Ada", full=True), seconds=10)
    if not is_quiet:
        followed.append(RunStarted(at(11)), seconds=11, run_id="r_2")
        assert not followed.is_due(12)
    followed.append(SweepCompleted(Mode.INCREMENTAL, at(11), at(11), Tally(batches=1)), seconds=12, run_id="r_2")
    assert followed.is_due(13)
    assert followed.schedule.wants_full(STREAM)
    followed.append(SweepCompleted(Mode.FULL, at(13), at(13), Tally(batches=1)), seconds=14, run_id="r_3")
    assert not followed.is_due(15)
    assert not followed.schedule.wants_full(STREAM)


def test_such_a_run_of_a_worker_whose_clock_is_ahead_is_followed_by_one_full_sweep() -> None:
    followed = Followed(*COMPLETE)
    followed.append(SyncRequested("Ada", full=True), seconds=10)
    appended = entries(
        SweepCompleted(Mode.INCREMENTAL, at(11), at(3611), Tally(batches=1)),
        after=followed.checkpoint,
        recorded_at=at(3612),
        run_id="r_2",
    )
    followed.clock.time = at(12)
    followed.checkpoint = fold(appended, followed.checkpoint)
    followed.schedule.on_entries(appended)
    assert followed.is_due(13)
    followed.append(SweepCompleted(Mode.FULL, at(13), at(13), Tally(batches=1)), seconds=14, run_id="r_3")
    assert not followed.is_due(15)
    assert not followed.schedule.wants_full(STREAM)


def test_a_full_sweep_that_was_stopped_goes_on_as_one() -> None:
    followed = Followed(*COMPLETE)
    followed.append(SyncRequested("Ada", full=True), seconds=10)
    followed.append(RunStarted(at(11)), RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED), seconds=12, run_id="r_2")
    assert not followed.is_due(13)
    assert followed.schedule.wants_full(STREAM)


def test_a_requested_run_waits_for_the_end_of_a_rate_limit() -> None:
    followed = Followed(*COMPLETE)
    followed.append(SyncRequested("Ada"), seconds=10)
    assert not followed.is_due(20, held_seconds=50)
    assert followed.is_due(50, held_seconds=50)


def test_a_stream_that_is_resumed_is_due_at_once_and_one_that_is_paused_is_not() -> None:
    followed = Followed(*COMPLETE)
    followed.append(StreamPaused("Ada"), seconds=10)
    assert not followed.is_due(100_000)
    followed.append(SyncRequested("Ada"), seconds=11)
    assert not followed.is_due(20)
    followed.append(StreamResumed("Ada"), seconds=12)
    assert followed.is_due(20)


def test_a_run_under_way_is_not_interrupted_by_a_request() -> None:
    followed = Followed(RunStarted(NOON))
    followed.append(SyncRequested("Ada"), seconds=10)
    assert not followed.is_due(20)


def test_a_run_that_left_nothing_is_not_repeated_at_once() -> None:
    followed = Followed()
    assert followed.is_due(1)
    followed.schedule.postpone(STREAM, at(100))
    assert not followed.is_due(99)
    assert followed.is_due(100)


def test_a_full_sweep_whose_run_left_nothing_is_still_wanted_and_waits_as_any_run() -> None:
    followed = Followed(*COMPLETE)
    followed.append(SyncRequested("Ada", full=True), seconds=10)
    followed.schedule.postpone(STREAM, at(100))
    assert not followed.is_due(99)
    assert followed.is_due(100)
    assert followed.schedule.wants_full(STREAM)


def test_a_request_is_not_postponed_by_the_run_before_it() -> None:
    followed = Followed(*COMPLETE)
    followed.schedule.postpone(STREAM, at(100))
    followed.append(SyncRequested("Ada"), seconds=10)
    assert followed.is_due(11)


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_run_that_ended_in_the_future_counts_as_ended_when_it_was_first_read() -> None:
    followed = Followed()
    followed.append(RunStarted(at(3600)), SweepCompleted(Mode.FULL, NOON, at(3600), Tally(batches=1)), seconds=3700)
    assert not followed.is_due(0)
    assert not followed.is_due(700)
    assert followed.is_due(1100), "an interval after it began"


def test_a_later_entry_does_not_bring_the_future_back() -> None:
    followed = Followed()
    followed.append(RunStarted(at(3600)), SweepCompleted(Mode.FULL, NOON, at(3600), Tally(batches=1)), seconds=3700)
    followed.append(TokenChecked(TokenHealth(is_valid=True)), seconds=0)
    assert not followed.is_due(0)
    assert followed.is_due(1100)


def test_a_request_recorded_by_a_worker_whose_clock_is_ahead_is_one_run() -> None:
    followed = Followed(*COMPLETE)
    appended = entries(SyncRequested("Ada"), after=followed.checkpoint, recorded_at=at(3600))
    followed.clock.time = at(10)
    followed.checkpoint = fold(appended, followed.checkpoint)
    followed.schedule.on_entries(appended)
    assert followed.is_due(20)
    followed.append(
        RunStarted(at(20)), SweepCompleted(Mode.FULL, NOON, at(20), Tally(batches=1)), seconds=21, run_id="r_2"
    )
    assert not followed.is_due(30)


class Stepping(LeapingClock):
    """A clock that can be set."""

    set_by = timedelta()

    def steady(self) -> float:
        return (self.time - self.set_by - NOON).total_seconds()

    def step(self, by: timedelta) -> None:
        self.set_by += by
        self.time += by


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(days=1)], ids=["back by an hour", "forward by a day"])
def test_a_step_of_the_clock_neither_delays_nor_hastens_a_run(step: timedelta) -> None:
    followed = Followed(*COMPLETE)
    followed.clock = clock = Stepping(Stop())
    followed.schedule = FleetSchedule(lambda: {STREAM: followed.checkpoint}, clock)
    by = step.total_seconds()
    assert not followed.is_due(100)
    clock.step(step)
    assert not followed.is_due(800 + by)
    assert followed.is_due(1101 + by)
    followed.schedule.postpone(STREAM, clock.time + timedelta(seconds=100))
    clock.step(step)
    assert not followed.is_due(1200 + 2 * by)
    assert followed.is_due(1202 + 2 * by)


# --- from the journal alone -------------------------------------------------------------------------------------------

SHORT = Schedule(interval_seconds=100, max_run_seconds=270)


def after(status: RunStatus, reason: Reason | None = None, ended_seconds: float | None = 10.0) -> Checkpoint:
    """Return a stream whose latest run began at noon."""
    ended_at = None if ended_seconds is None else at(ended_seconds)
    return Checkpoint(STREAM, 5, updated_at=at(10), run=Run("r_1", NOON, status, None, reason, ended_at))


def seconds_to(checkpoint: Checkpoint, held_seconds: float | None = None) -> float:
    due = due_at(checkpoint, at(10), SHORT, None if held_seconds is None else at(held_seconds))
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
    assert seconds_to(after(RunStatus.RUNNING, ended_seconds=None)) > 10 + SHORT.max_run_seconds


def test_a_paused_stream_is_never_due() -> None:
    assert (
        due_at(replace(after(RunStatus.COMPLETE), operator_pause=OperatorPause(NOON, "Ada")), at(1000), SHORT, None)
        is None
    )


def test_all_workers_use_the_same_jitter_after_a_run() -> None:
    assert jitter_of("r_1") == 0.4861918983515352, "workers of two releases agree"


def test_the_jitter_differs_from_run_to_run() -> None:
    jitters = {jitter_of(f"20261128T0{n}") for n in range(100)}
    assert len(jitters) == 100
    assert timedelta(seconds=min(jitters)) < timedelta(seconds=0.1)
    assert max(jitters) > 0.9
