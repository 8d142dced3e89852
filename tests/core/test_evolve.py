"""evolve.evolve: what each event does to the checkpoint."""

import pytest
from msgspec.structs import replace

from kit.builders import (
    NETWORK,
    NOON,
    RATE_LIMIT,
    RUN_ID,
    at,
    catching_up,
    checkpoint_of,
    entries,
    given,
    run_started,
    sweep_started,
    walking,
)
from milepost.core.checkpoint import (
    BatchUnchanged,
    Checkpoint,
    DeadLetter,
    GivenUp,
    RateLimit,
    ReducedRequest,
    RetryState,
    Run,
    Sweep,
)
from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    FetchFailed,
    RateLimited,
    Reason,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStatus,
    Stage,
    StoreReturned,
    StreamPaused,
    StreamRemoved,
    SweepCompleted,
    Tally,
)
from milepost.core.evolve import evolve, fold, skip_unchanged
from milepost.core.journal import Projected, RunOf, dead_letter_after, project, since_removal
from milepost.core.model import Detail
from milepost.core.position import Mode
from milepost.core.problems import Scope

ONE = Tally(batches=1, inserted=2, contacts=2, interaction_events=5)
TWO = Tally(batches=2, unchanged=3)
WALKING = (run_started(), sweep_started(), BatchStored(walking("after 1"), ONE))


def completed(tally: Tally, mode: Mode = Mode.FULL) -> SweepCompleted:
    return SweepCompleted(mode, NOON, at(-1), tally)


class TestEveryEntry:
    def test_every_entry_sets_the_version_hash_and_time_of_the_checkpoint(self) -> None:
        (entry,) = entries(StoreReturned(5.0, 2), recorded_at=at(7))

        after = evolve(checkpoint_of(), entry)

        assert (after.version, after.hash, after.updated_at) == (1, entry.hash, at(7))

    def test_no_entry_changes_the_checkpoint_before_it(self) -> None:
        before = given(*WALKING)

        given(completed(ONE), after=before)

        assert before == given(*WALKING)


class TestRunStarted:
    def test_run_started_opens_the_run(self) -> None:
        assert given(run_started(at(-1))).run == Run(RUN_ID, at(-1))

    def test_run_started_takes_the_mode_of_the_open_sweep(self) -> None:
        paused = given(*WALKING, RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking("after 1")))

        after = given(run_started(at(9)), after=paused, run_id="run-2")

        assert after.run == Run("run-2", at(9), mode=Mode.FULL)


class TestSweepStarted:
    def test_sweep_started_starts_at_the_head_and_sets_the_mode_of_the_run(self) -> None:
        after = given(run_started(), sweep_started(Mode.INCREMENTAL, at(0), at(-3600)))

        assert after.sweep == Sweep(Mode.INCREMENTAL, NOON, at(-600), at(-3600))
        assert after.run is not None
        assert after.run.mode is Mode.INCREMENTAL

    def test_sweep_started_replaces_the_open_sweep(self) -> None:
        after = given(*WALKING, sweep_started(Mode.FULL, at(60)))

        assert after.sweep == Sweep(Mode.FULL, at(60), at(-540))


class TestBatchStored:
    def test_batch_stored_moves_the_sweep_and_counts_for_sweep_run_and_stream(self) -> None:
        after = given(*WALKING, BatchStored(catching_up(), TWO))

        assert after.sweep is not None
        assert after.sweep.position == catching_up()
        assert after.run is not None
        assert after.sweep.tally == after.run.tally == after.total == ONE + TWO

    def test_batch_stored_ends_the_retry_state(self) -> None:
        after = given(run_started(), FetchFailed(1, NETWORK, at(2)), sweep_started(), BatchStored(walking("x"), ONE))

        assert after.retry is None


class TestFetchFailed:
    def test_fetch_failed_sets_the_retry_state_and_counts_a_retry_of_the_run(self) -> None:
        after = given(*WALKING, FetchFailed(1, NETWORK, at(2)), FetchFailed(2, NETWORK, at(6)))

        assert after.retry == RetryState(2, NETWORK, at(6))
        assert after.run is not None
        assert after.run.retries == 2
        assert after.sweep == given(*WALKING).sweep


class TestBatchFailed:
    def test_batch_failed_is_counted_and_sets_the_problem_of_the_run(self) -> None:
        after = given(*WALKING, FetchFailed(1, NETWORK, at(2)), BatchFailed(Stage.FETCH, 2, NETWORK))

        assert after.retry is None
        assert after.run is not None
        assert (after.run.failed_batches, after.run.problem) == (1, NETWORK)


class TestDeadLetterOpened:
    def test_an_opened_dead_letter_is_counted_as_open(self) -> None:
        after = given(*(DeadLetterOpened(str(number), Stage.FETCH, "t", "bad") for number in range(3)))

        assert after.open_dead_letters == 3

    def test_batch_failed_resets_the_reduced_request(self) -> None:
        """In an outage the search finds no faulty thread, and the next run must not step over a healthy one."""
        after = given(*WALKING, BatchShrunk(1, Detail.POSITION, NETWORK), BatchFailed(Stage.FETCH, 2, NETWORK))

        assert after.reduced_request is None


class TestRateLimited:
    def test_rate_limited_sets_the_rate_limit_and_changes_nothing_else(self) -> None:
        before = given(*WALKING, FetchFailed(1, NETWORK, at(2)))

        after = given(RateLimited(Scope.APP, 3, NOON, at(240), RATE_LIMIT), after=before)

        assert after.rate_limit == RateLimit(Scope.APP, 3, NOON, at(240), RATE_LIMIT)
        assert (after.sweep, after.run, after.retry) == (before.sweep, before.run, before.retry)


class TestBatchShrunk:
    def test_batch_shrunk_sets_the_reduced_request_and_ends_the_retry_state(self) -> None:
        after = given(*WALKING, FetchFailed(1, NETWORK, at(2)), BatchShrunk(12, Detail.NESTED, NETWORK))

        assert after.reduced_request == ReducedRequest(12, Detail.NESTED, NETWORK)
        assert after.retry is None

    def test_batch_shrunk_remembers_the_limit_that_worked_before(self) -> None:
        good = BatchStored(walking("after 2"), Tally(batches=1, inserted=1))
        shrunk, smaller = BatchShrunk(12, Detail.NESTED, NETWORK), BatchShrunk(6, Detail.NESTED, NETWORK)

        after = given(*WALKING, shrunk, good, smaller, BatchShrunk(3, Detail.NESTED, NETWORK))
        assert after.reduced_request == ReducedRequest(3, Detail.NESTED, NETWORK, worked=12)

        failed = given(BatchFailed(Stage.FETCH, 3, NETWORK), after=after)
        assert failed.reduced_request == ReducedRequest(12, Detail.NESTED, NETWORK)


class TestGivenUp:
    def given_up(self, *events: Event) -> int:
        return given(*WALKING, BatchShrunk(1, Detail.POSITION, NETWORK, "t_1"), *events).given_up_in_a_row

    STEP = BatchStored(walking("after 2"), Tally(batches=1, dead_lettered=1, unreadable=1))
    KNOWN = BatchStored(walking("after 2"), Tally(batches=1, unreadable=1))
    READ = BatchStored(walking("after 3"), Tally(batches=1, inserted=1))

    def test_threads_that_make_lists_fail_are_remembered_while_their_dead_letters_are_open(self) -> None:
        opened = [DeadLetterOpened(f"d_{n}", Stage.FETCH, f"t_{n}", "code 2") for n in range(40)]
        after = given(*WALKING)
        for n, each in enumerate(opened):
            after = given(BatchShrunk(1, Detail.POSITION, NETWORK, f"t_{n}"), each, self.STEP, after=after)

        assert [each.conversation_id for each in after.given_up] == [f"t_{n}" for n in range(8, 40)], "the latest"
        closed = given(DeadLetterClosed("d_20", Resolution.REDRIVEN), after=after)
        assert GivenUp("d_20", "t_20", Detail.POSITION) in after.given_up
        assert GivenUp("d_20", "t_20", Detail.POSITION) not in closed.given_up

    def test_other_dead_letters_are_not_remembered(self) -> None:
        lean = BatchShrunk(1, Detail.LEAN, NETWORK, "t_1")
        unreadable = DeadLetterOpened("d_1", Stage.FETCH, "t_1", "id: expected str")
        messages = DeadLetterOpened("d_2", Stage.FETCH, "t_1/messages", "code 2")
        row = DeadLetterOpened("d_3", Stage.STORE, "t_1/row", "too long")

        assert given(*WALKING, unreadable).given_up == ()
        assert given(*WALKING, lean, row).given_up == ()
        assert given(*WALKING, lean, messages).given_up == (GivenUp("d_2", "t_1", Detail.LEAN),)

    def test_dead_letters_in_a_row_are_counted(self) -> None:
        again = BatchShrunk(1, Detail.POSITION, NETWORK, "t_2")

        assert self.given_up(self.STEP) == 1
        assert self.given_up(self.STEP, again, self.STEP) == 2
        assert self.given_up(self.STEP, RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, walking("after 2"))) == 1

    def test_a_thread_whose_dead_letter_is_open_already_is_not_counted(self) -> None:
        assert self.given_up(self.KNOWN) == 0

    def test_a_thread_that_is_read_begins_another_row(self) -> None:
        assert self.given_up(self.STEP, self.READ) == 0

    def test_the_end_of_a_walk_begins_another_row(self) -> None:
        scan = BatchStored(catching_up(), Tally(batches=1, dead_lettered=1, unreadable=1))

        assert self.given_up(scan) == 0
        assert self.given_up(self.STEP, SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1))) == 0


class TestCursorLost:
    def test_cursor_lost_restarts_the_phase_at_its_head_and_keeps_the_cursor(self) -> None:
        after = given(*WALKING, FetchFailed(1, NETWORK, at(2)), CursorLost(NETWORK))

        assert after.retry is None
        assert after.sweep is not None
        assert (after.sweep.position, after.sweep.lost_cursor, after.sweep.resets) == (walking(), "after 1", 1)
        assert after.sweep.tally == ONE

    def test_a_lost_cursor_is_dropped_once_a_batch_was_read(self) -> None:
        after = given(*WALKING, CursorLost(NETWORK), BatchStored(walking("x"), ONE))

        assert after.sweep is not None
        assert (after.sweep.lost_cursor, after.sweep.resets) == (None, 1)


class TestDeadLetters:
    OPENED = DeadLetterOpened("d_1", Stage.FETCH, "t_1", "bad", at(900), "fingerprint")

    def test_dead_letters_are_counted_while_they_are_open(self) -> None:
        tally = Tally(inserted=1, interaction_events=3)

        opened = given(self.OPENED)
        failed = given(RedriveFailed("d_1", 1, "still bad", at(2700), Tally(contacts=1)), after=opened)
        closed = given(DeadLetterClosed("d_1", Resolution.REDRIVEN, tally), after=failed)

        assert [each.open_dead_letters for each in (opened, failed, closed)] == [1, 1, 0]
        assert closed.total == tally + Tally(contacts=1)

    def test_redrives_count_for_no_run(self) -> None:
        before = given(*WALKING)

        after = given(self.OPENED, DeadLetterClosed("d_1", Resolution.RECOVERED), after=before)

        assert (after.run, after.sweep) == (before.run, before.sweep)

    def test_dead_letters_are_projected_from_their_entries(self) -> None:
        opened, failed, closed = entries(
            self.OPENED,
            RedriveFailed("d_1", 1, "still bad", at(2700)),
            DeadLetterClosed("d_1", Resolution.DISCARDED, reason="a test thread"),
            recorded_at=at(7),
        )
        dead_letters: dict[str, DeadLetter] = {}

        states = []
        for entry in (opened, failed, closed):
            dead_letter = dead_letter_after(entry, dead_letters.get)
            assert dead_letter is not None
            dead_letters[dead_letter.dead_letter_id] = dead_letter
            states.append(
                (
                    dead_letter.attempts,
                    dead_letter.reason,
                    dead_letter.redrive_at,
                    dead_letter.resolution,
                    dead_letter.note,
                )
            )

        assert states == [
            (0, "bad", at(900), None, ""),
            (1, "still bad", at(2700), None, ""),
            (1, "still bad", None, Resolution.DISCARDED, "a test thread"),
        ]
        assert dead_letters["d_1"].closed_at == at(7)

    def test_dead_letters_that_were_never_opened_are_not_projected(self) -> None:
        (closed,) = entries(DeadLetterClosed("d_9", Resolution.RECOVERED))

        dead_letters: dict[str, DeadLetter] = {}

        assert dead_letter_after(closed, dead_letters.get) is None


class TestSweepCompleted:
    def test_sweep_completed_ends_sweep_and_run_and_sets_the_watermark_to_the_start_of_the_walk(self) -> None:
        after = given(*WALKING)

        after = given(completed(TWO), after=after, recorded_at=at(30))

        assert after.sweep is None
        assert after.watermark == NOON
        assert after.last_success_at == after.last_full_sweep_at == at(30)
        assert after.total == ONE + TWO
        assert after.run is not None
        assert (after.run.status, after.run.ended_at, after.run.tally) == (RunStatus.COMPLETE, at(30), ONE + TWO)

    def test_a_lone_sweep_completed_is_a_whole_run(self) -> None:
        after = given(completed(TWO, Mode.INCREMENTAL), run_id="run-2")

        assert after.run == Run("run-2", at(-1), RunStatus.COMPLETE, Mode.INCREMENTAL, ended_at=NOON, tally=TWO)

    def test_a_lone_sweep_completed_is_a_run_of_its_own_after_an_earlier_one(self) -> None:
        earlier = given(completed(ONE), run_id="run-1")

        after = given(completed(TWO), after=earlier, run_id="run-2")

        assert after.run is not None
        assert (after.run.run_id, after.run.tally) == ("run-2", TWO)
        assert after.total == ONE + TWO

    def test_completing_an_incremental_sweep_completes_no_full_one(self) -> None:
        after = given(completed(ONE))

        after = given(completed(ONE, Mode.INCREMENTAL), after=after, run_id="run-2", recorded_at=at(60))

        assert after.last_full_sweep_at == NOON
        assert after.last_success_at == at(60)

    def test_a_sweep_with_dead_letters_in_any_of_its_runs_is_complete_with_errors(self) -> None:
        with_dead_letter = Tally(batches=1, dead_lettered=1)
        paused = RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking("x"))
        first_run = given(run_started(), sweep_started(), BatchStored(walking("x"), with_dead_letter), paused)

        after = given(completed(ONE), after=first_run, run_id="run-2")

        assert after.run is not None
        assert after.run.status is RunStatus.COMPLETE_WITH_ERRORS

    def test_a_sweep_completed_with_errors_says_so_without_its_past(self) -> None:
        after = given(replace(completed(ONE), has_errors=True), run_id="run-2")

        assert after.run is not None
        assert after.run.status is RunStatus.COMPLETE_WITH_ERRORS

    def test_dead_letters_of_another_sweep_do_not_count(self) -> None:
        with_dead_letter = Tally(batches=1, dead_lettered=1)
        abandoned = given(
            run_started(), sweep_started(Mode.INCREMENTAL), BatchStored(walking("x"), with_dead_letter), run_id="run-1"
        )

        after = given(completed(ONE, Mode.FULL), after=abandoned, run_id="run-2")

        assert after.run is not None
        assert after.run.status is RunStatus.COMPLETE


class TestRunEnded:
    def test_run_ended_saves_the_position_and_counts_unchanged_batches(self) -> None:
        after = given(*WALKING, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, walking("after 3"), TWO, RATE_LIMIT))

        assert after.sweep is not None
        assert after.sweep.position == walking("after 3")
        assert after.run is not None
        assert (after.run.status, after.run.reason, after.run.ended_at) == (RunStatus.PAUSED, Reason.RATE_LIMIT, NOON)
        assert after.run.problem == RATE_LIMIT
        assert after.sweep.tally == after.run.tally == after.total == ONE + TWO

    def test_run_ended_without_a_position_leaves_the_sweep_where_it_was(self) -> None:
        after = given(*WALKING, RunEnded(RunStatus.INTERRUPTED, Reason.PROCESS_DIED))

        assert after.sweep == given(*WALKING).sweep

    def test_run_ended_ends_the_retry_state_and_keeps_the_earlier_problem(self) -> None:
        after = given(
            *WALKING, BatchFailed(Stage.FETCH, 3, NETWORK), RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED)
        )

        assert after.retry is None
        assert after.run is not None
        assert after.run.problem == NETWORK

    def test_run_ended_does_not_move_the_watermark(self) -> None:
        after = given(*WALKING, RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT, walking("x")))

        assert after.watermark is None
        assert after.last_success_at is None


class TestStoreReturned:
    def test_store_returned_changes_nothing_but_the_version(self) -> None:
        before = given(*WALKING, FetchFailed(1, NETWORK, at(2)))

        after = given(StoreReturned(5.0, 2), after=before)

        assert after.retry == before.retry
        assert (after.sweep, after.run, after.total) == (before.sweep, before.run, before.total)


class TestFold:
    def test_folding_two_halves_is_folding_the_whole(self) -> None:
        all_entries = entries(*WALKING, FetchFailed(1, NETWORK, at(2)), BatchStored(catching_up(), TWO), completed(ONE))

        for cut in range(len(all_entries) + 1):
            half = fold(all_entries[:cut], checkpoint_of())
            assert fold(all_entries[cut:], half) == fold(all_entries, checkpoint_of())


class TestSkipUnchanged:
    QUIET = Tally(batches=1, unchanged=2)

    def skip(self, before: Checkpoint, cursor: str) -> Checkpoint:
        assert before.sweep is not None
        return skip_unchanged(before, BatchUnchanged(replace(before.sweep, position=walking(cursor)), self.QUIET))

    def test_an_unchanged_batch_moves_the_sweep_in_memory_and_is_kept_as_unrecorded(self) -> None:
        before = given(*WALKING)

        after = self.skip(self.skip(before, "after 2"), "after 3")

        assert after.sweep is not None
        assert after.sweep.position == walking("after 3")
        assert after.unrecorded == self.QUIET + self.QUIET
        assert (after.version, after.total, after.run) == (before.version, before.total, before.run)
        assert after.sweep_is_recorded

    def test_an_unchanged_batch_ends_the_retry_state(self) -> None:
        assert self.skip(given(*WALKING, FetchFailed(1, NETWORK, at(2))), "after 2").retry is None

    def test_a_new_sweep_of_unchanged_batches_is_not_recorded(self) -> None:
        unchanged = BatchUnchanged(Sweep(Mode.FULL, NOON, at(-600), position=walking("after 1")), self.QUIET)

        assert not skip_unchanged(checkpoint_of(), unchanged).sweep_is_recorded
        assert not skip_unchanged(skip_unchanged(checkpoint_of(), unchanged), unchanged).sweep_is_recorded

    def test_another_sweep_than_the_recorded_one_is_not_recorded(self) -> None:
        recorded = given(run_started(), sweep_started(Mode.INCREMENTAL), BatchStored(walking("x"), ONE))
        unchanged = BatchUnchanged(Sweep(Mode.FULL, at(60), at(-540), position=walking("after 1")), self.QUIET)

        assert not skip_unchanged(recorded, unchanged).sweep_is_recorded


class TestNextEntry:
    """It brings a checkpoint that was ahead of the journal to what the journal alone says."""

    QUIET = Tally(batches=1, unchanged=2)

    @pytest.mark.parametrize(
        "event",
        [
            BatchStored(walking("after 3"), QUIET + ONE),
            completed(QUIET + ONE),
            RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN, walking("after 2"), QUIET),
        ],
    )
    def test_the_next_entry_of_a_recorded_sweep_counts_unchanged_batches(self, event: Event) -> None:
        recorded = given(*WALKING, FetchFailed(1, NETWORK, at(2)))
        assert recorded.sweep is not None
        unchanged = BatchUnchanged(replace(recorded.sweep, position=walking("after 2")), self.QUIET)

        assert given(event, after=skip_unchanged(recorded, unchanged)) == given(event, after=recorded)
        assert given(event, after=recorded).retry is None

    @pytest.mark.parametrize(
        "events",
        [
            (run_started(), sweep_started(), BatchStored(walking("after 3"), QUIET + ONE)),
            (completed(QUIET + ONE),),
            (run_started(), sweep_started(), RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN, walking("after 2"), QUIET)),
        ],
    )
    def test_the_next_entry_records_a_sweep_of_unchanged_batches(self, events: tuple[Event, ...]) -> None:
        unchanged = BatchUnchanged(Sweep(Mode.FULL, NOON, at(-600), position=walking("after 2")), self.QUIET)

        assert given(*events, after=skip_unchanged(checkpoint_of(), unchanged)) == given(*events)


class TestStreamRemoved:
    LIVED = (
        *WALKING,
        DeadLetterOpened("d_1", Stage.FETCH, "t_1", "unreadable"),
        StreamPaused("API"),
        SweepCompleted(Mode.FULL, NOON, NOON, TWO),
    )

    def test_removal_resets_the_stream_and_continues_its_chain(self) -> None:
        checkpoint = given(*self.LIVED)
        removed, (entry,) = given(*self.LIVED, StreamRemoved("Ada")), entries(StreamRemoved("Ada"), after=checkpoint)

        assert removed == Checkpoint(
            checkpoint.stream, checkpoint.version + 1, entry.hash, entry.recorded_at, removed_at=entry.recorded_at
        )

    def test_removal_leaves_a_rate_limit_in_force_because_it_may_hold_the_whole_app(self) -> None:
        limited = RateLimited(Scope.APP, 1, NOON, at(3600), RATE_LIMIT)

        rate_limit = given(*WALKING, limited, StreamRemoved("Ada")).rate_limit

        assert rate_limit is not None
        assert rate_limit == given(*WALKING, limited).rate_limit

    def test_removal_is_over_with_the_next_entry(self) -> None:
        anew = given(*self.LIVED, StreamRemoved("Ada"), run_started(), sweep_started())

        assert anew.removed_at is None
        assert anew.run is not None
        assert (anew.total, anew.watermark, anew.open_dead_letters, anew.operator_pause) == (Tally(), None, 0, None)

    def test_removal_leaves_no_earlier_run_or_dead_letter_in_any_projection(self) -> None:
        reopened = DeadLetterOpened("d_2", Stage.FETCH, "t_1", "unreadable")
        sealed = entries(*self.LIVED, StreamRemoved("Ada"), run_started(), reopened)

        projected: list[Projected] = list(project(sealed, {sealed[0].stream: len(self.LIVED) + 1}))

        assert [each.dead_letter_id for each in projected if isinstance(each, DeadLetter)] == ["d_2"]
        assert [each.run.tally for each in projected if isinstance(each, RunOf)] == [Tally()]
        assert projected[-1] == given(*self.LIVED, StreamRemoved("Ada"), run_started(), reopened)

    def test_removal_splits_the_entries_of_a_commit(self) -> None:
        sealed = entries(run_started(), StreamRemoved("Ada"), sweep_started())

        assert since_removal(sealed) == sealed[2:]
        assert since_removal(sealed[:1]) == sealed[:1]
        assert since_removal(sealed[:2]) == ()
