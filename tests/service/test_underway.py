"""What a stream is at between two entries, as the API tells it."""

from datetime import datetime, timedelta

from kit.builders import NOON, STREAM, at, given, run_started, sweep_started, walking
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.events import BatchStored, Mode, SweepCompleted, Tally
from milepost.core.evolve import skip_unchanged
from milepost.core.ports import Committed
from milepost.engine.feed import Recorded, UnchangedRead
from milepost.reporting.status import ConditionContext, State
from milepost.service.stream_status import StreamStatus, status_of
from milepost.service.underway import MAX_AGE, Underway

QUIET = Tally(batches=1, unchanged=50)
WALKING = given(run_started(), sweep_started(), BatchStored(walking("c1"), Tally(batches=1, inserted=50)))
COMPLETE = given(SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=4, inserted=200)))


class Clock:
    def __init__(self) -> None:
        self.now = at(60)

    def __call__(self) -> datetime:
        return self.now


def passing(checkpoint: Checkpoint, batches: int = 1) -> Checkpoint:
    """Give where a stream stands after batches that changed nothing."""
    sweep = WALKING.sweep
    assert sweep is not None
    for _ in range(batches):
        checkpoint = skip_unchanged(checkpoint, BatchUnchanged(sweep, QUIET))
    return checkpoint


def hearing(underway: Underway, checkpoint: Checkpoint, batches: int = 1) -> None:
    underway.read(UnchangedRead(passing(checkpoint, batches), QUIET, 0.1))


def status(checkpoint: Checkpoint, now: datetime) -> StreamStatus:
    around = ConditionContext(now, is_at_work=True, interval_seconds=300.0, batch_size=50)
    return status_of(checkpoint, around, {}, is_configured=True)


def test_a_sweep_that_finds_nothing_new_gets_on_all_the_same() -> None:
    underway = Underway(clock := Clock())
    hearing(underway, WALKING, batches=2)
    told = status(underway.since(WALKING), clock.now)
    assert told.sweep is not None
    assert (told.sweep.batches, told.sweep.conversations) == (3, 150)
    assert told.state is State.SYNCING


def test_a_run_without_an_entry_so_far_is_syncing_and_its_next_run_is_nobodys_question() -> None:
    underway = Underway(clock := Clock())
    hearing(underway, COMPLETE)
    before, after = status(COMPLETE, clock.now), status(underway.since(COMPLETE), clock.now)
    assert (before.state, before.next_run_at is None) == (State.COMPLETE, False)
    assert (after.state, after.next_run_at) == (State.SYNCING, None)


def test_the_next_entry_tells_more() -> None:
    underway = Underway(Clock())
    hearing(underway, WALKING)
    underway.read(Recorded((), Committed(1, 0.0, 0.0), COMPLETE, 0.0, None))
    assert underway.since(WALKING) == WALKING


def test_an_entry_that_was_not_heard_of_tells_more_too() -> None:
    underway = Underway(Clock())
    hearing(underway, WALKING)
    assert underway.since(COMPLETE) == COMPLETE


def test_a_run_that_broke_off_is_not_under_way_for_ever() -> None:
    underway = Underway(clock := Clock())
    hearing(underway, WALKING)
    clock.now += MAX_AGE - timedelta(seconds=1)
    assert underway.since(WALKING) != WALKING
    clock.now += timedelta(seconds=1)
    assert underway.since(WALKING) == WALKING


def test_of_a_stream_that_nothing_was_heard_of_the_journal_tells() -> None:
    assert Underway(Clock()).since(Checkpoint(STREAM.key)) == Checkpoint(STREAM.key)
