"""decide.decide: what an outcome means."""

import pytest

from kit.builders import (
    BAD_VERSION,
    CODEC,
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RATE_LIMIT,
    STREAM,
    at,
    catching_up,
    checkpoint_of,
    circumstances,
    conversation,
    fetched,
    given,
    refused,
    run_started,
    sweep_started,
    unreadable,
    walking,
    work,
)
from milepost.core.checkpoint import BatchPassed, Checkpoint, pass_over
from milepost.core.decide import Circumstances, Decision, Record, decide, prepare
from milepost.core.events import (
    BatchFailed,
    BatchStored,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Mode,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.core.merge import dead_letter_id
from milepost.core.model import Conversation, Known
from milepost.core.plan import Policy
from milepost.core.ports import Outcome
from milepost.core.problems import Problem, ProblemKind

NEW = Tally(batches=1, inserted=1, without_contact=1)
QUIET = Tally(batches=1, unchanged=1, without_contact=1)


def knowing(*conversations: Conversation) -> Known:
    """Give what the store knows once these conversations are stored."""
    decision = decide(checkpoint_of(), fetched(*conversations), circumstances())
    assert isinstance(decision, Record)
    return Known({row.conversation_id: row for row in decision.changes.conversations})


def walking_since_noon(*, batches: int = 1, cursor: str = "after 1", mode: Mode = Mode.FULL) -> Checkpoint:
    until = None if mode is Mode.FULL else at(-3600)
    tally = Tally(batches=batches, inserted=batches)
    return given(run_started(), sweep_started(mode, walk_until=until), BatchStored(walking(cursor), tally))


def catching_up_since_noon(cursor: str | None = None) -> Checkpoint:
    return given(run_started(), sweep_started(), BatchStored(catching_up(cursor), Tally(batches=2, inserted=2)))


def events(decision: Decision) -> tuple[Event, ...]:
    assert isinstance(decision, Record)
    return decision.events


def passed(checkpoint: Checkpoint, outcome: Outcome, known: Known, during: Circumstances) -> Checkpoint:
    decision = decide(checkpoint, outcome, during, known)
    assert isinstance(decision, BatchPassed)
    return pass_over(checkpoint, decision)


class TestTheFirstBatch:
    def test_begins_run_and_sweep_and_stores_its_rows(self) -> None:
        decision = decide(
            checkpoint_of(), fetched(conversation("t_1"), next_cursor="after 1", asked_at=at(-2)), circumstances()
        )

        assert isinstance(decision, Record)
        assert decision.events == (
            RunStarted(NOON),
            SweepStarted(Mode.FULL, at(-2), at(-602)),
            BatchStored(walking("after 1"), NEW),
        )
        assert [row.conversation_id for row in decision.changes.conversations] == ["t_1"]

    def test_of_an_incremental_sweep_says_how_far_it_walks(self) -> None:
        before = given(SweepCompleted(Mode.FULL, NOON, NOON, NEW), run_id="run-0")

        decision = decide(
            before,
            fetched(conversation(updated_time=at(50)), next_cursor="x", asked_at=at(60)),
            circumstances(at(60)),
        )

        assert events(decision)[1] == SweepStarted(Mode.INCREMENTAL, at(60), at(60 - 600), at(-600))

    def test_that_is_the_only_one_completes_the_sweep_in_one_entry(self) -> None:
        decision = decide(checkpoint_of(), fetched(conversation(), asked_at=at(-2)), circumstances())

        assert events(decision) == (SweepCompleted(Mode.FULL, at(-2), NOON, NEW),)

    def test_of_an_empty_inbox_completes_the_sweep(self) -> None:
        decision = decide(checkpoint_of(), fetched(), circumstances())

        assert events(decision) == (SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)),)

    def test_that_is_known_is_passed_over(self) -> None:
        known = knowing(conversation("t_1"))

        decision = decide(checkpoint_of(), fetched(conversation("t_1"), next_cursor="x"), circumstances(), known)

        assert isinstance(decision, BatchPassed)
        assert decision.tally == QUIET
        assert decision.sweep.position == walking("x")

    def test_that_is_empty_and_has_a_next_one_is_passed_over(self) -> None:
        decision = decide(checkpoint_of(), fetched(next_cursor="x"), circumstances())

        assert isinstance(decision, BatchPassed)
        assert decision.sweep.position == walking("x")


class TestAWalk:
    def test_goes_on_to_the_next_batch(self) -> None:
        decision = decide(walking_since_noon(), fetched(conversation(), next_cursor="after 2"), circumstances())

        assert events(decision) == (BatchStored(walking("after 2"), NEW),)

    def test_at_the_end_of_the_inbox_turns_to_the_catch_up_scan(self) -> None:
        decision = decide(walking_since_noon(), fetched(conversation()), circumstances())

        assert events(decision) == (BatchStored(catching_up(), NEW),)

    def test_to_the_watermark_turns_at_a_batch_wholly_older(self) -> None:
        before = walking_since_noon(mode=Mode.INCREMENTAL)
        old, older = conversation("t_1", at(-3601)), conversation("t_2", at(-3602))

        assert events(decide(before, fetched(old, older, next_cursor="x"), circumstances())) == (
            BatchStored(catching_up(), NEW + Tally(inserted=1, without_contact=1)),
        )

    def test_to_the_watermark_goes_on_past_a_single_old_row(self) -> None:
        before = walking_since_noon(mode=Mode.INCREMENTAL)
        new, old = conversation("t_1", at(-3600)), conversation("t_2", at(-3601))

        (stored,) = events(decide(before, fetched(new, old, next_cursor="x"), circumstances()))

        assert isinstance(stored, BatchStored)
        assert stored.position == walking("x")

    def test_to_the_watermark_goes_on_past_an_empty_batch(self) -> None:
        decision = decide(walking_since_noon(mode=Mode.INCREMENTAL), fetched(next_cursor="x"), circumstances())

        assert isinstance(decision, BatchPassed)
        assert decision.sweep.position == walking("x")

    def test_of_a_full_sweep_does_not_end_at_old_rows(self) -> None:
        decision = decide(
            walking_since_noon(), fetched(conversation(updated_time=at(-1e8)), next_cursor="x"), circumstances()
        )

        (stored,) = events(decision)
        assert isinstance(stored, BatchStored)
        assert stored.position == walking("x")

    def test_of_two_batches_of_which_one_was_passed_over_needs_its_catch_up_scan(self) -> None:
        known = knowing(conversation("t_1"))
        before = passed(checkpoint_of(), fetched(conversation("t_1"), next_cursor="x"), known, circumstances())

        decision = decide(before, fetched(conversation("t_2")), circumstances())

        assert events(decision)[-1] == BatchStored(catching_up(), QUIET + NEW)

    def test_that_is_resumed_at_its_last_batch_needs_its_catch_up_scan(self) -> None:
        ended = RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking("after 1"))
        before = given(ended, after=walking_since_noon())

        decision = decide(before, fetched(conversation()), circumstances(during=work("run-2")))

        assert events(decision) == (RunStarted(NOON), BatchStored(catching_up(), NEW))


class TestACatchUpScan:
    def test_goes_on_while_a_batch_has_something_younger_than_the_start_of_the_walk(self) -> None:
        decision = decide(
            catching_up_since_noon(), fetched(conversation(updated_time=at(-600)), next_cursor="x"), circumstances()
        )

        assert events(decision) == (BatchStored(catching_up("x"), NEW),)

    def test_ends_the_sweep_at_a_batch_wholly_older(self) -> None:
        decision = decide(
            catching_up_since_noon(), fetched(conversation(updated_time=at(-601)), next_cursor="x"), circumstances()
        )

        assert events(decision) == (SweepCompleted(Mode.FULL, NOON, NOON, NEW),)

    def test_ends_the_sweep_at_the_end_of_the_inbox(self) -> None:
        decision = decide(catching_up_since_noon("x"), fetched(conversation()), circumstances())

        assert events(decision) == (SweepCompleted(Mode.FULL, NOON, NOON, NEW),)

    def test_goes_on_past_an_empty_batch(self) -> None:
        decision = decide(catching_up_since_noon(), fetched(next_cursor="x"), circumstances())

        assert isinstance(decision, BatchPassed)
        assert decision.sweep.position == catching_up("x")


class TestWhatWasPassedOver:
    def test_is_carried_by_the_next_entry(self) -> None:
        known = knowing(conversation("t_1"))
        before = walking_since_noon()
        for cursor in ("after 2", "after 3"):
            before = passed(before, fetched(conversation("t_1"), next_cursor=cursor), known, circumstances())

        decision = decide(before, fetched(conversation("t_2"), next_cursor="after 4"), circumstances())

        assert events(decision) == (BatchStored(walking("after 4"), QUIET + QUIET + NEW),)

    def test_brings_the_beginning_of_its_sweep_with_it(self) -> None:
        known = knowing(conversation("t_1"))
        first = fetched(conversation("t_1"), next_cursor="after 1", asked_at=at(-2))
        before = passed(checkpoint_of(), first, known, circumstances())

        decision = decide(before, fetched(conversation("t_2"), next_cursor="after 2", asked_at=at(5)), circumstances())

        assert events(decision) == (
            RunStarted(NOON),
            SweepStarted(Mode.FULL, at(-2), at(-602)),
            BatchStored(walking("after 2"), QUIET + NEW),
        )

    def test_and_nothing_else_is_a_sweep_of_one_entry(self) -> None:
        known = knowing(conversation("t_1"))
        checkpoint = checkpoint_of()
        for cursor in ("after 1", "after 2", None):  # the third batch is the last of the walk
            checkpoint = passed(checkpoint, fetched(conversation("t_1"), next_cursor=cursor), known, circumstances())

        decision = decide(checkpoint, fetched(conversation("t_1", at(-601))), circumstances(), known)

        four = QUIET + QUIET + QUIET + QUIET
        assert events(decision) == (SweepCompleted(Mode.FULL, NOON, NOON, four),)

    def test_is_recorded_before_a_failure(self) -> None:
        known = knowing(conversation("t_1"))
        before = passed(checkpoint_of(), fetched(conversation("t_1"), next_cursor="x"), known, circumstances())

        decision = decide(before, refused(NETWORK), circumstances())

        assert [type(event) for event in events(decision)] == [RunStarted, SweepStarted, BatchStored, FetchFailed]
        assert events(decision)[2] == BatchStored(walking("x"), QUIET)


class TestAForcedFullSweep:
    def test_replaces_the_open_incremental_one(self) -> None:
        decision = decide(
            walking_since_noon(mode=Mode.INCREMENTAL),
            fetched(conversation(), next_cursor="x", asked_at=at(60)),
            circumstances(at(60), during=work("run-2", wants_full=True)),
        )

        assert events(decision) == (
            RunStarted(NOON),
            SweepStarted(Mode.FULL, at(60), at(-540)),
            BatchStored(walking("x"), NEW),
        )

    def test_of_a_single_batch_leaves_nothing_of_the_incremental_one(self) -> None:
        before = walking_since_noon(mode=Mode.INCREMENTAL)
        during = circumstances(at(60), during=work("run-2", wants_full=True))

        decision = decide(before, fetched(conversation(), asked_at=at(60)), during)

        assert events(decision) == (SweepCompleted(Mode.FULL, at(60), NOON, NEW),)
        assert given(*events(decision), after=before, run_id="run-2").sweep is None

    def test_that_is_refused_leaves_the_open_one_where_it_was(self) -> None:
        before = walking_since_noon(mode=Mode.INCREMENTAL)

        decision = decide(before, refused(RATE_LIMIT), circumstances(during=work("run-2", wants_full=True)))

        assert given(*events(decision), after=before, run_id="run-2").sweep == before.sweep


class TestAnUnreadableItem:
    KEY = dead_letter_id(STREAM, unreadable())

    def test_becomes_a_dead_letter_in_the_same_record(self) -> None:
        decision = decide(walking_since_noon(), fetched(unreadable(), next_cursor="x"), circumstances())

        assert events(decision) == (
            DeadLetterOpened(self.KEY, Stage.FETCH, "t_bad", "id: expected str"),
            BatchStored(walking("x"), Tally(batches=1, dead_lettered=1)),
        )
        assert isinstance(decision, Record)
        assert [payload.dead_letter_id for payload in decision.changes.payloads] == [self.KEY]

    def test_in_a_sweep_of_one_batch_brings_its_beginning_and_ends_with_errors(self) -> None:
        decision = decide(checkpoint_of(), fetched(unreadable()), circumstances())

        assert [type(event) for event in events(decision)] == [
            RunStarted,
            SweepStarted,
            DeadLetterOpened,
            SweepCompleted,
        ]
        after = given(*events(decision))
        assert after.run is not None
        assert after.run.status is RunStatus.COMPLETE_WITH_ERRORS
        assert after.open_dead_letters == 1

    def test_that_is_known_is_passed_over(self) -> None:
        known = Known(dead_letters=frozenset({self.KEY}))

        assert isinstance(
            decide(checkpoint_of(), fetched(unreadable(), next_cursor="x"), circumstances(), known), BatchPassed
        )


class TestARefusalThatMayPass:
    def test_is_tried_again_after_a_wait(self) -> None:
        decision = decide(walking_since_noon(), refused(NETWORK), circumstances(luck=0.5))

        assert events(decision) == (FetchFailed(1, NETWORK, at(1)),)

    def test_of_the_first_batch_begins_the_run_and_no_sweep(self) -> None:
        decision = decide(checkpoint_of(), refused(NETWORK), circumstances(luck=0.5))

        assert events(decision) == (RunStarted(NOON), FetchFailed(1, NETWORK, at(1)))

    def test_is_waited_for_longer_each_time(self) -> None:
        before = given(FetchFailed(1, NETWORK, at(1)), after=walking_since_noon())

        assert events(decide(before, refused(NETWORK), circumstances(at(1), luck=0.5))) == (
            FetchFailed(2, NETWORK, at(3)),
        )

    def test_is_given_up_for_this_run_after_the_last_attempt(self) -> None:
        before = given(FetchFailed(2, NETWORK, at(1)), after=walking_since_noon())

        decision = decide(before, refused(NETWORK), circumstances(at(1)))

        assert events(decision) == (
            BatchFailed(Stage.FETCH, 3, NETWORK),
            RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, walking("after 1"), problem=NETWORK),
        )

    def test_is_given_up_at_once_where_one_attempt_is_all(self) -> None:
        decision = decide(checkpoint_of(), refused(NETWORK), circumstances(policy=Policy(attempts=1)))

        assert [type(event) for event in events(decision)] == [RunStarted, BatchFailed, RunEnded]

    def test_begins_to_count_anew_after_a_batch_was_read(self) -> None:
        known = knowing(conversation("t_1"))
        before = given(FetchFailed(2, NETWORK, at(1)), after=walking_since_noon())
        before = passed(before, fetched(conversation("t_1"), next_cursor="after 2"), known, circumstances())

        assert events(decide(before, refused(NETWORK), circumstances()))[-1] == FetchFailed(1, NETWORK, at(1))


class TestARefusalThatEndsTheRun:
    @pytest.mark.parametrize(
        ("problem", "status", "reason"),
        [
            (RATE_LIMIT, RunStatus.PAUSED, Reason.RATE_LIMIT),
            (DEAD_TOKEN, RunStatus.STOPPED, Reason.AUTHORIZATION),
            (BAD_VERSION, RunStatus.STOPPED, Reason.CONFIGURATION),
        ],
    )
    def test_saves_the_place(self, problem: Problem, status: RunStatus, reason: Reason) -> None:
        decision = decide(walking_since_noon(), refused(problem), circumstances())

        assert events(decision) == (RunEnded(status, reason, walking("after 1"), problem=problem),)

    @pytest.mark.parametrize("problem", [RATE_LIMIT, DEAD_TOKEN, BAD_VERSION])
    def test_uses_up_no_retry_and_makes_no_dead_letter(self, problem: Problem) -> None:
        before = walking_since_noon()

        after = given(*events(decide(before, refused(problem), circumstances())), after=before)

        assert after.run is not None
        assert (after.run.retries, after.run.failed_batches, after.open_dead_letters) == (0, 0, 0)

    def test_in_the_middle_of_a_catch_up_scan_goes_on_there(self) -> None:
        before = catching_up_since_noon("after 7")

        after = given(*events(decide(before, refused(RATE_LIMIT), circumstances())), after=before)

        assert after.sweep is not None
        assert after.sweep.position == catching_up("after 7")
        assert after.watermark is None

    def test_of_the_first_batch_is_a_run_without_a_place(self) -> None:
        decision = decide(checkpoint_of(), refused(DEAD_TOKEN), circumstances())

        assert events(decision) == (
            RunStarted(NOON),
            RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN),
        )

    def test_carries_what_was_passed_over(self) -> None:
        known = knowing(conversation("t_1"))
        before = passed(
            walking_since_noon(), fetched(conversation("t_1"), next_cursor="after 2"), known, circumstances()
        )

        (ended,) = events(decide(before, refused(RATE_LIMIT), circumstances()))

        assert isinstance(ended, RunEnded)
        assert (ended.position, ended.tally) == (walking("after 2"), QUIET)


class TestACursorThatLeadsToItself:
    LOOP = Problem(ProblemKind.CURSOR_LOOP, "the cursor of the next batch is the one just used")

    def test_is_a_refusal_that_may_pass(self) -> None:
        decision = decide(walking_since_noon(), fetched(conversation(), next_cursor="after 1"), circumstances(luck=0.5))

        assert decision == Record((FetchFailed(1, self.LOOP, at(1)),))

    def test_is_given_up_and_never_silent(self) -> None:
        before = given(FetchFailed(2, self.LOOP, at(1)), after=walking_since_noon())

        decision = decide(before, fetched(conversation(), next_cursor="after 1"), circumstances())

        assert [type(event) for event in events(decision)] == [BatchFailed, RunEnded]

    def test_of_a_sweep_that_is_left_is_none(self) -> None:
        before = walking_since_noon(mode=Mode.INCREMENTAL)
        forced = circumstances(during=work("run-2", wants_full=True))

        decision = decide(before, fetched(conversation(), next_cursor="after 1"), forced)

        assert [type(event) for event in events(decision)] == [RunStarted, SweepStarted, BatchStored]


class TestPrepare:
    def test_seals_the_events_and_gives_the_projections_after_them(self) -> None:
        before = walking_since_noon()
        decision = decide(before, fetched(conversation(), next_cursor="after 2"), circumstances())
        assert isinstance(decision, Record)

        commit = prepare(before, decision, "run-1", at(3), CODEC)

        assert [(entry.version, entry.run_id, entry.recorded_at) for entry in commit.entries] == [
            (before.version + 1, "run-1", at(3))
        ]
        assert commit.changes == decision.changes
        assert commit.checkpoint == given(*decision.events, after=before, recorded_at=at(3))
        assert commit.run == commit.checkpoint.run
