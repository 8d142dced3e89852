"""core.records: the ends of runs that no outcome ends, and what of a record has just arrived."""

from datetime import datetime

from msgspec.structs import replace

from kit.builders import (
    GAP,
    NETWORK,
    NOON,
    at,
    budget,
    catching_up,
    checkpoint_of,
    context,
    conversation,
    fetched,
    given,
    message,
    messages_fetched,
    run_started,
    sweep_started,
    walking,
)
from milepost.core.checkpoint import BatchUnchanged, Checkpoint, Sweep
from milepost.core.decide import decide
from milepost.core.events import (
    BatchStored,
    FetchFailed,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.core.evolve import skip_unchanged
from milepost.core.message_reading import decide_messages
from milepost.core.model import Known
from milepost.core.position import Mode
from milepost.core.records import Record, conclude, recover

QUIET = Tally(batches=1, unchanged=50)
WALKING = (run_started(), sweep_started(), BatchStored(walking("after 1"), Tally(batches=1, inserted=50)))


def skipped(checkpoint: Checkpoint, cursor: str) -> Checkpoint:
    sweep = checkpoint.sweep or Sweep(Mode.FULL, NOON, at(-600))
    return skip_unchanged(checkpoint, BatchUnchanged(replace(sweep, position=walking(cursor)), QUIET))


class TestConclude:
    def test_the_end_of_a_recorded_run_saves_its_position(self) -> None:
        record = conclude(given(*WALKING), Reason.BATCH_LIMIT, budget())

        assert record == Record((RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking("after 1")),))

    def test_the_end_of_a_run_counts_unchanged_batches(self) -> None:
        record = conclude(skipped(given(*WALKING), "after 2"), Reason.TIME_LIMIT, budget())

        assert record == Record((RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, walking("after 2"), QUIET),))

    def test_a_run_of_unchanged_batches_is_recorded(self) -> None:
        record = conclude(skipped(skipped(checkpoint_of(), "after 1"), "after 2"), Reason.SHUTDOWN, budget())

        assert record == Record(
            (
                RunStarted(NOON),
                SweepStarted(Mode.FULL, NOON, at(-600)),
                RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN, walking("after 2"), QUIET + QUIET),
            )
        )

    def test_the_end_of_a_run_keeps_the_position_of_a_catch_up_scan(self) -> None:
        checkpoint = given(run_started(), sweep_started(), BatchStored(catching_up("x"), Tally(batches=4)))

        record = conclude(checkpoint, Reason.TIME_LIMIT, budget())

        assert record is not None
        assert given(*record.events, after=checkpoint).sweep == checkpoint.sweep

    def test_a_run_with_nothing_but_refusals_is_ended(self) -> None:
        checkpoint = given(run_started(), FetchFailed(1, NETWORK, at(9)))

        record = conclude(checkpoint, Reason.TIME_LIMIT, budget())

        assert record == Record((RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT),))

    def test_a_run_that_read_nothing_is_not_recorded(self) -> None:
        assert conclude(checkpoint_of(), Reason.SHUTDOWN, budget()) is None
        earlier = given(*WALKING, RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking("after 1")))
        assert conclude(earlier, Reason.SHUTDOWN, budget("run-2")) is None


class TestRecover:
    def test_recovery_closes_the_run_that_a_dead_process_left_open(self) -> None:
        record = recover(given(*WALKING))

        assert record == Record((RunEnded(RunStatus.INTERRUPTED, Reason.PROCESS_DIED),))

    def test_recovery_leaves_the_sweep_where_its_last_entry_put_it(self) -> None:
        checkpoint = given(*WALKING, FetchFailed(1, NETWORK, at(9)))
        record = recover(checkpoint)
        assert record is not None

        after = given(*record.events, after=checkpoint)

        assert after.sweep == checkpoint.sweep
        assert after.retry == checkpoint.retry, "the next run goes on counting attempts"
        assert after.run is not None
        assert after.run.status is RunStatus.INTERRUPTED

    def test_recovery_does_nothing_if_no_run_is_open(self) -> None:
        assert recover(checkpoint_of()) is None
        assert recover(given(*WALKING, RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN, walking("after 1")))) is None
        assert recover(given(SweepCompleted(Mode.FULL, NOON, NOON, QUIET))) is None

    def test_recovery_is_done_once(self) -> None:
        checkpoint = given(*WALKING)
        record = recover(checkpoint)
        assert record is not None

        assert recover(given(*record.events, after=checkpoint)) is None


class TestWhatHasArrived:
    """The messages whose delay says how soon new ones are stored."""

    def arrived(self, watermark: datetime | None, *seconds: float) -> tuple[datetime, ...]:
        before = replace(checkpoint_of(), watermark=watermark)
        messages = [message(f"m_{each:g}", at(each)) for each in sorted(seconds, reverse=True)]
        batch = fetched(conversation("t_1", at(max(seconds)), messages=messages))
        found = decide(before, batch, context()).record(Known())
        assert isinstance(found, Record)
        return found.arrived

    def test_arrived_messages_are_those_since_the_last_sweep(self) -> None:
        assert self.arrived(NOON, -60, 0, 60, 90) == (at(90), at(60))

    def test_a_first_copy_has_no_arrived_messages(self) -> None:
        assert self.arrived(None, -60, 60) == ()

    def test_messages_between_two_sweeps_that_are_read_later_have_arrived(self) -> None:
        page = messages_fetched(message("m_2", at(-180)), message("m_1", at(-4000)))
        gap = replace(GAP, back_to=at(-3600))

        between = decide_messages(checkpoint_of(), gap, page, context()).record(Known())
        history = decide_messages(checkpoint_of(), replace(gap, history_to=at(-9000)), page, context()).record(Known())

        assert isinstance(between, Record)
        assert isinstance(history, Record)
        assert (between.arrived, history.arrived) == ((at(-180),), ())
        assert (between.changes.news_after, history.changes.news_after) == (at(-3600), None)

    def test_the_change_feed_marks_messages_that_are_history(self) -> None:
        batch = fetched(conversation("t_1", at(60), messages=[message("m_1", at(60))]))

        def news_after(watermark: datetime | None) -> datetime | None:
            found = decide(replace(checkpoint_of(), watermark=watermark), batch, context()).record(Known())
            assert isinstance(found, Record)
            return found.changes.news_after

        assert (news_after(NOON), news_after(None)) == (NOON, None)
