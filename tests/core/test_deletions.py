"""Deletions: what a full sweep misses is noted, and marked as deleted at its end if it saw everything."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from kit.builders import (
    DEAD_CURSOR,
    NOON,
    STREAM,
    UNKNOWN,
    at,
    batch,
    budget,
    catching_up,
    checkpoint_of,
    context,
    conversation,
    fetched,
    given,
    refused,
    run_started,
    sweep_started,
    unreadable,
    walking,
)
from kit.decisions import decision_on, looked_up, record, then
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.events import BatchShrunk, BatchStored, Reason, SweepCompleted, Tally
from milepost.core.merge import difference
from milepost.core.model import Detail, Keys, Known
from milepost.core.ports import Fetched
from milepost.core.position import Mode, Phase, Position, Scan, Stretch
from milepost.core.records import conclude

WALKED_BEFORE = given(SweepCompleted(Mode.FULL, at(-86400), at(-86400), Tally(batches=1)), run_id="run-0")
FORCED = context(during=budget(wants_full=True))


def sweeping(position: Position, tally: Tally | None = None) -> Checkpoint:
    """Return a stream in the middle of a full sweep, with a complete one behind it."""
    begun = given(run_started(), sweep_started(), after=WALKED_BEFORE)
    return given(BatchStored(position, tally or Tally(batches=1, unchanged=1)), after=begun)


def keys(checkpoint: Checkpoint, answer: Fetched) -> Keys:
    return looked_up(checkpoint, answer, FORCED)


def stored(*ids_and_times: tuple[str, datetime]) -> Known:
    read = batch(*(conversation(key, updated) for key, updated in ids_and_times))
    rows = difference(STREAM, read, Known(), NOON).changes.conversations
    return Known({row.conversation_id: row for row in rows})


class TestStretch:
    def test_the_stretch_of_a_whole_inbox_has_no_bounds(self) -> None:
        answer = fetched(conversation("t_1", at(-5)), conversation("t_2", at(-9)), asked_at=at(-1))

        assert keys(WALKED_BEFORE, answer).stretch == Stretch(at(-1), None, None, ("t_1", "t_2"))

    def test_a_stretch_lies_between_the_previous_batch_and_its_own_end(self) -> None:
        answer = fetched(conversation("t_3", at(-20)), conversation("t_4", at(-30)), next_cursor="after 4")

        assert keys(sweeping(walking("after 2", at(-9))), answer).stretch == Stretch(
            NOON, at(-9), at(-30), ("t_3", "t_4")
        )

    def test_the_last_stretch_reaches_to_the_end_of_the_inbox(self) -> None:
        found = keys(sweeping(walking("after 2", at(-9))), fetched(conversation("t_3", at(-20))))
        nothing_left = keys(sweeping(walking("after 2", at(-9))), fetched())

        assert found.stretch == Stretch(NOON, at(-9), None, ("t_3",))
        assert nothing_left.stretch == Stretch(NOON, at(-9), None, ())

    @pytest.mark.parametrize(
        ("checkpoint", "answer"),
        [
            pytest.param(checkpoint_of(), fetched(conversation()), id="the first sweep of all"),
            pytest.param(sweeping(catching_up()), fetched(conversation()), id="a catch-up scan"),
            pytest.param(sweeping(walking("x", NOON)), fetched(next_cursor="y"), id="an empty batch"),
            pytest.param(
                sweeping(walking("x")), fetched(conversation()), id="how far it got before the cursor is unknown"
            ),
        ],
    )
    def test_an_answer_without_a_known_range_has_no_stretch(self, checkpoint: Checkpoint, answer: Fetched) -> None:
        assert keys(checkpoint, answer).stretch is None

    def test_a_stretch_may_begin_at_the_end_of_the_calendar(self) -> None:
        latest = datetime.max.replace(tzinfo=UTC)
        edge = replace(walking("after 2", latest), edge=("t_2",))

        found = keys(sweeping(edge), fetched(conversation("t_3", at(-20)))).stretch

        assert found == Stretch(NOON, latest, None, ("t_2", "t_3"))

    def test_there_is_no_stretch_in_an_incremental_sweep(self) -> None:
        found = looked_up(WALKED_BEFORE, fetched(conversation()), context())

        assert (found.stretch, found.full_sweep_at) == (None, None)

    def test_there_is_no_stretch_right_after_a_lost_cursor_is_tried_again(self) -> None:
        """How far the walk had got is lost with the cursor, and everything before that would be missed."""
        lost = then(sweeping(walking("after 2", at(-9))), refused(DEAD_CURSOR))
        ending = conclude(lost, Reason.SHUTDOWN, budget())
        assert ending is not None
        again = given(*ending.events, after=lost)
        assert again.sweep is not None
        assert again.sweep.position.cursor == "after 2"

        assert keys(again, fetched(conversation("t_3", at(-20)), next_cursor="x")).stretch is None


class TestMissedConversations:
    ANSWER = fetched(conversation("t_3", at(-20)), next_cursor="after 3")
    BEFORE = sweeping(walking("after 2", at(-9)))

    def test_missed_conversations_are_noted_with_the_batch(self) -> None:
        known = replace(stored(("t_3", at(-20))), unseen=1)

        decision = record(decision_on(self.BEFORE, self.ANSWER, FORCED, known))

        assert decision.changes.missed == Stretch(NOON, at(-9), at(-20), ("t_3",))
        assert decision.changes.missed_are_deleted_at is None

    def test_missed_conversations_are_noted_once(self) -> None:
        known = stored(("t_3", at(-20)))

        assert isinstance(decision_on(self.BEFORE, self.ANSWER, FORCED, known), BatchUnchanged)

    def test_a_missed_conversation_that_is_seen_later_is_removed_from_the_notes(self) -> None:
        known = replace(stored(("t_3", at(-20))), missed=frozenset({"t_3", "t_9"}), all_missed=2)

        decision = record(decision_on(self.BEFORE, self.ANSWER, FORCED, known))

        assert decision.changes.found == ("t_3",)


class TestEndOfAFullSweep:
    SCAN = sweeping(catching_up(), Tally(batches=3, unchanged=3))
    LAST = fetched(conversation("t_1", at(-700)))
    KNOWN = stored(("t_1", at(-700)))

    def test_a_full_sweep_marks_what_is_still_missed_as_deleted(self) -> None:
        decision = record(decision_on(self.SCAN, self.LAST, FORCED, replace(self.KNOWN, all_missed=2)))

        assert decision.changes.missed_are_deleted_at == NOON
        assert not decision.changes.forgets_missed
        completed = decision.events[-1]
        assert isinstance(completed, SweepCompleted)
        assert completed.tally.deleted == 2

    def test_a_full_sweep_does_not_mark_what_its_last_batch_found(self) -> None:
        known = replace(self.KNOWN, all_missed=2, missed=frozenset({"t_1"}))

        decision = record(decision_on(self.SCAN, self.LAST, FORCED, known))

        assert decision.changes.found == ("t_1",)
        completed = decision.events[-1]
        assert isinstance(completed, SweepCompleted)
        assert completed.tally.deleted == 1

    def test_a_conversation_that_its_last_batch_lists_twice_is_found_once(self) -> None:
        last = fetched(conversation("t_1", at(-700)), conversation("t_1", at(-700)))
        known = replace(self.KNOWN, all_missed=2, missed=frozenset({"t_1"}))

        decision = record(decision_on(self.SCAN, last, FORCED, known))

        assert decision.changes.missed_are_deleted_at == NOON
        completed = decision.events[-1]
        assert isinstance(completed, SweepCompleted)
        assert completed.tally.deleted == 1

    def test_a_full_sweep_of_one_batch_marks_what_it_does_not_see(self) -> None:
        decision = record(decision_on(WALKED_BEFORE, self.LAST, FORCED, replace(self.KNOWN, unseen=3)))

        assert decision.changes.missed is not None
        assert decision.changes.missed_are_deleted_at == NOON
        (completed,) = decision.events
        assert isinstance(completed, SweepCompleted)
        assert completed.tally.deleted == 3

    @pytest.mark.parametrize(
        "flaw",
        [
            Tally(batches=3, unreadable=1),
            Tally(batches=3, dead_lettered=1),
            Tally(batches=3, order_violations=1),
        ],
    )
    def test_a_full_sweep_with_a_flaw_marks_nothing(self, flaw: Tally) -> None:
        scan = sweeping(catching_up(), flaw)

        decision = record(decision_on(scan, self.LAST, FORCED, replace(self.KNOWN, all_missed=2)))

        assert decision.changes.missed_are_deleted_at is None
        assert decision.changes.forgets_missed
        completed = decision.events[-1]
        assert isinstance(completed, SweepCompleted)
        assert completed.tally.deleted == 0

    @pytest.mark.parametrize(
        "last",
        [
            pytest.param(fetched(conversation("t_1", at(-700)), unreadable()), id="an unreadable item"),
            pytest.param(fetched(conversation("t_1", at(-700)), conversation("t_2", at(-699))), id="a wrong order"),
        ],
    )
    def test_a_full_sweep_with_a_flaw_in_its_last_batch_marks_nothing(self, last: Fetched) -> None:
        decision = record(decision_on(self.SCAN, last, FORCED, replace(self.KNOWN, all_missed=2)))

        assert decision.changes.missed_are_deleted_at is None
        assert decision.changes.forgets_missed

    def test_a_full_sweep_that_stepped_over_a_thread_marks_nothing(self) -> None:
        stepping = given(BatchShrunk(1, Detail.POSITION, UNKNOWN), after=self.SCAN)

        decision = record(decision_on(stepping, self.LAST, FORCED, Known(all_missed=2)))

        assert decision.changes.missed_are_deleted_at is None

    def test_a_full_sweep_that_stepped_over_a_thread_stored_as_new_still_marks(self) -> None:
        stepping = given(BatchShrunk(1, Detail.POSITION, UNKNOWN), after=self.SCAN)

        decision = record(decision_on(stepping, self.LAST, FORCED, replace(self.KNOWN, all_missed=2)))

        assert decision.changes.missed_are_deleted_at is not None

    def test_a_scan_that_an_older_version_began_is_repeated_before_anything_is_marked(self) -> None:
        begun = sweeping(catching_up("after 1", at(-1)), Tally(batches=3, unchanged=3))

        decision = decision_on(begun, self.LAST, FORCED, replace(self.KNOWN, all_missed=2))

        assert isinstance(decision, BatchUnchanged)
        assert decision.sweep.position == Position(Phase.CATCH_UP, scan=Scan(2))

    def test_a_repeated_scan_whose_cursor_is_lost_goes_back_as_far_as_before(self) -> None:
        position = replace(catching_up("after 1", at(-1)), scan=Scan(2, at(-60), NOON))

        lost = then(sweeping(position), refused(DEAD_CURSOR))

        assert lost.sweep is not None
        assert lost.sweep.position.cursor is None
        assert lost.sweep.until == at(-60)

    def test_a_full_sweep_that_missed_nothing_marks_nothing(self) -> None:
        decision = record(decision_on(self.SCAN, self.LAST, FORCED, self.KNOWN))

        assert decision.changes.missed_are_deleted_at is None
        assert not decision.changes.forgets_missed


def test_an_incremental_sweep_marks_nothing() -> None:
    decision = record(decision_on(WALKED_BEFORE, fetched(conversation("t_1", at(-99_999))), context(), Known()))

    (completed,) = decision.events
    assert isinstance(completed, SweepCompleted)
    assert completed.mode is Mode.INCREMENTAL
    assert (decision.changes.missed, decision.changes.missed_are_deleted_at) == (None, None)
