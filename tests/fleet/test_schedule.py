"""What a worker knows of what is wanted: turns that people ask for, and turns that came to nothing."""

from datetime import timedelta

import pytest

from kit.builders import NOON, STREAM, at, entries
from kit.leaping_clock import LeapingClock
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import (
    Event,
    Mode,
    RunStarted,
    StreamPaused,
    StreamResumed,
    SweepCompleted,
    SyncRequested,
    Tally,
    TokenChecked,
)
from milepost.core.evolve import fold
from milepost.core.model import TokenHealth
from milepost.engine.interrupt import Stop
from milepost.engine.supervisor import Schedule
from milepost.fleet.schedule import FleetSchedule

PACE = Schedule(interval_seconds=1000)
COMPLETE = (RunStarted(NOON), SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))


class Heard:
    """An agenda, and the journal that it hears."""

    def __init__(self, *events: Event) -> None:
        self.checkpoint = Checkpoint(STREAM.key)
        self.clock = LeapingClock(Stop())
        self.schedule = FleetSchedule(lambda: {STREAM.key: self.checkpoint}, self.clock)
        self.hear(*events)

    def hear(self, *events: Event, seconds: float = 0.0, run_id: str = "r_1") -> None:
        appended = entries(*events, after=self.checkpoint, recorded_at=at(seconds), run_id=run_id)
        self.checkpoint = fold(appended, self.checkpoint)
        self.clock.time = at(seconds)
        self.schedule.hear(appended)

    def is_due(self, seconds: float, held_seconds: float | None = None) -> bool:
        self.clock.time = now = at(seconds)
        held_until = None if held_seconds is None else at(held_seconds)
        due = self.schedule.due_at(STREAM, now, PACE, held_until)
        return due is not None and due <= now


def test_a_stream_that_somebody_wants_synced_is_due_at_once_until_a_run_has_begun() -> None:
    heard = Heard(*COMPLETE)
    assert not heard.is_due(20)
    heard.hear(SyncRequested("Ada", full=True), seconds=10)
    assert heard.is_due(20)
    assert heard.schedule.wants_full(STREAM)
    heard.hear(RunStarted(at(21)), seconds=21, run_id="r_2")
    assert not heard.is_due(22)
    assert not heard.schedule.wants_full(STREAM)


def test_a_turn_that_is_wanted_waits_for_the_end_of_a_limit() -> None:
    heard = Heard(*COMPLETE)
    heard.hear(SyncRequested("Ada"), seconds=10)
    assert not heard.is_due(20, held_seconds=50)
    assert heard.is_due(50, held_seconds=50)


def test_a_stream_that_is_resumed_is_due_at_once_and_one_that_is_paused_is_not() -> None:
    heard = Heard(*COMPLETE)
    heard.hear(StreamPaused("Ada"), seconds=10)
    assert not heard.is_due(100_000)
    heard.hear(SyncRequested("Ada"), seconds=11)
    assert not heard.is_due(20)
    heard.hear(StreamResumed("Ada"), seconds=12)
    assert heard.is_due(20)


def test_a_run_that_is_under_way_is_not_interrupted_by_what_is_wanted() -> None:
    heard = Heard(RunStarted(NOON))
    heard.hear(SyncRequested("Ada"), seconds=10)
    assert not heard.is_due(20)


def test_a_turn_that_came_to_nothing_is_not_followed_by_another_at_once() -> None:
    heard = Heard()
    assert heard.is_due(1)
    heard.schedule.put_off(STREAM, at(100))
    assert not heard.is_due(99)
    assert heard.is_due(100)


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_run_that_ended_in_the_future_counts_as_ended_when_it_was_heard_of() -> None:
    heard = Heard()
    heard.hear(RunStarted(at(3600)), SweepCompleted(Mode.FULL, NOON, at(3600), Tally(batches=1)), seconds=3700)
    assert not heard.is_due(0)
    assert not heard.is_due(700)
    assert heard.is_due(1100), "an interval after it began"


def test_an_entry_that_follows_does_not_bring_the_future_back() -> None:
    heard = Heard()
    heard.hear(RunStarted(at(3600)), SweepCompleted(Mode.FULL, NOON, at(3600), Tally(batches=1)), seconds=3700)
    heard.hear(TokenChecked(TokenHealth(is_valid=True)), seconds=0)
    assert heard.is_due(1100) or not heard.is_due(0)
    assert heard.is_due(2200)


def test_what_another_worker_whose_clock_is_ahead_was_asked_for_is_one_turn() -> None:
    heard = Heard(*COMPLETE)
    appended = entries(SyncRequested("Ada"), after=heard.checkpoint, recorded_at=at(3600))
    heard.clock.time = at(10)
    heard.checkpoint = fold(appended, heard.checkpoint)
    heard.schedule.hear(appended)
    assert heard.is_due(20)
    heard.hear(RunStarted(at(20)), SweepCompleted(Mode.FULL, NOON, at(20), Tally(batches=1)), seconds=21, run_id="r_2")
    assert not heard.is_due(30)


class Stepping(LeapingClock):
    """A clock that is set, beside going on."""

    set_by = timedelta()

    def steady(self) -> float:
        return (self.time - self.set_by - NOON).total_seconds()

    def step(self, by: timedelta) -> None:
        self.set_by += by
        self.time += by


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(days=1)], ids=["back by an hour", "forward by a day"])
def test_a_step_of_the_clock_neither_puts_off_nor_hastens_what_is_due(step: timedelta) -> None:
    heard = Heard(*COMPLETE)
    heard.clock = clock = Stepping(Stop())
    heard.schedule = FleetSchedule(lambda: {STREAM.key: heard.checkpoint}, clock)
    by = step.total_seconds()
    assert not heard.is_due(100)
    clock.step(step)
    assert not heard.is_due(800 + by)
    assert heard.is_due(1101 + by)
    heard.schedule.put_off(STREAM, clock.time + timedelta(seconds=100))
    clock.step(step)
    assert not heard.is_due(1200 + 2 * by)
    assert heard.is_due(1202 + 2 * by)
