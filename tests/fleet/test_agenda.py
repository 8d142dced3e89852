"""What a worker knows of what is wanted: turns that people ask for, and turns that came to nothing."""

from kit.builders import NOON, STREAM, at, entries
from kit.leaping_clock import LeapingClock
from milepost.core.checkpoint import Checkpoint, fold
from milepost.core.events import (
    Event,
    Mode,
    RunStarted,
    StreamPaused,
    StreamResumed,
    SweepCompleted,
    SyncRequested,
    Tally,
)
from milepost.engine.stop import Stop
from milepost.engine.supervisor import Pace
from milepost.fleet.agenda import Agenda

PACE = Pace(interval_seconds=1000)
COMPLETE = (RunStarted(NOON), SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))


class Heard:
    """An agenda, and the journal that it hears."""

    def __init__(self, *events: Event) -> None:
        self.checkpoint = Checkpoint(STREAM.key)
        self.clock = LeapingClock(Stop())
        self.agenda = Agenda(lambda: {STREAM.key: self.checkpoint}, self.clock)
        self.hear(*events)

    def hear(self, *events: Event, seconds: float = 0.0, run_id: str = "r_1") -> None:
        appended = entries(*events, after=self.checkpoint, recorded_at=at(seconds), run_id=run_id)
        self.checkpoint = fold(appended, self.checkpoint)
        self.clock.time = at(seconds)
        self.agenda.hear(appended)

    def is_due(self, seconds: float, held_seconds: float | None = None) -> bool:
        self.clock.time = now = at(seconds)
        held_until = None if held_seconds is None else at(held_seconds)
        due = self.agenda.due_at(STREAM, now, PACE, held_until)
        return due is not None and due <= now


def test_a_stream_that_somebody_wants_synced_is_due_at_once_until_a_run_has_begun() -> None:
    heard = Heard(*COMPLETE)
    assert not heard.is_due(20)
    heard.hear(SyncRequested("Ada", full=True), seconds=10)
    assert heard.is_due(20)
    assert heard.agenda.wants_full(STREAM)
    heard.hear(RunStarted(at(21)), seconds=21, run_id="r_2")
    assert not heard.is_due(22)
    assert not heard.agenda.wants_full(STREAM)


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
    heard.agenda.put_off(STREAM, at(100))
    assert not heard.is_due(99)
    assert heard.is_due(100)
