"""decide.decide: what a refusal means, by its remedy. Shrinking has a file of its own."""

import pytest
from msgspec.structs import replace

from kit.builders import (
    APP_LIMIT,
    BAD_VERSION,
    DEAD_CURSOR,
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RATE_LIMIT,
    at,
    budget,
    catching_up,
    checkpoint_of,
    context,
    conversation,
    fetched,
    given,
    problem,
    refused,
    run_started,
    walking,
)
from kit.decisions import QUIET, decision_on, events, knowing, scanning, skipped, then
from kit.decisions import walking as walking_since_noon
from milepost.core.checkpoint import Checkpoint, FailureStreak
from milepost.core.events import (
    BatchFailed,
    BatchStored,
    CursorLost,
    FetchFailed,
    RateLimited,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.core.plan import Policy
from milepost.core.position import Mode
from milepost.core.problems import Problem, ProblemKind, Scope
from milepost.core.records import Record, conclude, recover

HOUR_LIMIT = problem(613, wait_seconds=3600.0)  # longer than a run
KNOWN = knowing(conversation("t_1"))


def walked_on(before: Checkpoint, cursor: str = "after 2") -> Checkpoint:
    """Skip a batch that changes nothing."""
    return skipped(before, fetched(conversation("t_1"), next_cursor=cursor), KNOWN)


class TestTransientRefusals:
    def test_a_transient_refusal_is_retried_after_a_delay(self) -> None:
        decision = decision_on(walking_since_noon(), refused(NETWORK), context(jitter=0.5))

        assert events(decision) == (FetchFailed(1, NETWORK, at(1)),)

    def test_a_refusal_of_the_first_batch_starts_the_run_and_no_sweep(self) -> None:
        decision = decision_on(checkpoint_of(), refused(NETWORK), context(jitter=0.5))

        assert events(decision) == (RunStarted(NOON), FetchFailed(1, NETWORK, at(1)))

    def test_the_delay_grows_with_each_attempt(self) -> None:
        before = given(FetchFailed(1, NETWORK, at(1)), after=walking_since_noon())

        assert events(decision_on(before, refused(NETWORK), context(at(1), jitter=0.5))) == (
            FetchFailed(2, NETWORK, at(3)),
        )

    def test_a_batch_is_given_up_for_this_run_after_the_last_attempt(self) -> None:
        before = given(FetchFailed(2, NETWORK, at(1)), after=walking_since_noon())

        decision = decision_on(before, refused(NETWORK), context(at(1)))

        assert events(decision) == (
            BatchFailed(Stage.FETCH, 3, NETWORK),
            RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, walking("after 1"), problem=NETWORK),
        )

    def test_a_batch_is_given_up_at_once_if_only_one_attempt_is_allowed(self) -> None:
        decision = decision_on(checkpoint_of(), refused(NETWORK), context(policy=Policy(attempts=1)))

        assert [type(event) for event in events(decision)] == [RunStarted, BatchFailed, RunEnded]

    def test_attempts_are_counted_anew_after_a_batch_was_read(self) -> None:
        before = walked_on(given(FetchFailed(2, NETWORK, at(1)), after=walking_since_noon()))

        assert events(decision_on(before, refused(NETWORK), context()))[-1] == FetchFailed(1, NETWORK, at(1))


class TestRateLimit:
    def test_a_rate_limit_that_ends_within_the_run_is_waited_out(self) -> None:
        decision = decision_on(walking_since_noon(), refused(RATE_LIMIT), context())

        assert events(decision) == (RateLimited(Scope.PAGE, 1, NOON, at(60), RATE_LIMIT),)

    @pytest.mark.parametrize("deadline", [3600, 3599])
    def test_a_rate_limit_beyond_the_deadline_ends_the_run_with_its_position_saved(self, deadline: float) -> None:
        decision = decision_on(
            walking_since_noon(), refused(HOUR_LIMIT), context(during=budget(deadline_at=at(deadline)))
        )

        assert events(decision) == (
            RateLimited(Scope.PAGE, 1, NOON, at(3600), HOUR_LIMIT),
            RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, walking("after 1"), problem=HOUR_LIMIT),
        )

    @pytest.mark.parametrize("limit", [RATE_LIMIT, HOUR_LIMIT, APP_LIMIT])
    def test_a_rate_limit_uses_up_no_retry_and_makes_no_dead_letter(self, limit: Problem) -> None:
        before = given(FetchFailed(2, NETWORK, at(1)), after=walking_since_noon())

        after = then(before, *[refused(limit)] * 5)

        assert after.retry == before.retry
        assert after.run is not None
        assert (after.run.retries, after.run.failed_batches, after.open_dead_letters) == (1, 0, 0)

    def test_a_rate_limited_catch_up_scan_continues_where_it_was(self) -> None:
        after = then(scanning("after 7"), refused(HOUR_LIMIT))

        assert after.sweep is not None
        assert after.sweep.position == catching_up("after 7")
        assert after.watermark is None

    def test_a_rate_limit_that_is_still_there_is_prolonged_since_the_same_instant(self) -> None:
        before = then(walking_since_noon(), refused(APP_LIMIT))

        after = then(before, refused(APP_LIMIT), during=context(at(60)))

        assert after.rate_limit is not None
        assert (after.rate_limit.attempts, after.rate_limit.since, after.rate_limit.until) == (2, NOON, at(60 + 120))

    def test_a_rate_limit_is_over_once_a_batch_was_read(self) -> None:
        limited = then(walking_since_noon(), refused(RATE_LIMIT))

        assert walked_on(limited).rate_limit is None
        assert then(limited, fetched(conversation("t_2"), next_cursor="after 2")).rate_limit is None

    def test_a_rate_limit_outlives_the_end_of_its_run_even_after_unchanged_batches(self) -> None:
        """The rate limit is in the journal, so that no restart can forget it."""
        before = walked_on(walking_since_noon())

        decision = decision_on(before, refused(HOUR_LIMIT), context())

        assert events(decision) == (
            BatchStored(walking("after 2", NOON), QUIET, batch=2),
            RateLimited(Scope.PAGE, 1, NOON, at(3600), HOUR_LIMIT),
            RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, walking("after 2", NOON), problem=HOUR_LIMIT),
        )
        after = given(*events(decision), after=walking_since_noon())
        assert after.rate_limit is not None
        assert after.rate_limit.until == at(3600)
        assert after.unrecorded == Tally()
        assert after.sweep is not None
        assert after.sweep.tally.batches == 2

    def test_a_rate_limit_after_unchanged_batches_records_the_start_of_the_run(self) -> None:
        decision = decision_on(walked_on(checkpoint_of()), refused(HOUR_LIMIT), context())

        assert [type(event) for event in events(decision)] == [
            RunStarted,
            SweepStarted,
            BatchStored,
            RateLimited,
            RunEnded,
        ]

    def test_a_rate_limit_does_not_prevent_a_stop(self) -> None:
        ending = conclude(then(walking_since_noon(), refused(RATE_LIMIT)), Reason.SHUTDOWN, budget())

        assert ending == Record((RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN, walking("after 1")),))


class TestStops:
    @pytest.mark.parametrize(
        ("problem", "reason"), [(DEAD_TOKEN, Reason.AUTHORIZATION), (BAD_VERSION, Reason.CONFIGURATION)]
    )
    def test_a_problem_for_an_operator_stops_the_run_with_its_position_saved(
        self, problem: Problem, reason: Reason
    ) -> None:
        decision = decision_on(walking_since_noon(), refused(problem), context())

        assert events(decision) == (RunEnded(RunStatus.STOPPED, reason, walking("after 1"), problem=problem),)

    @pytest.mark.parametrize("problem", [DEAD_TOKEN, BAD_VERSION])
    def test_a_stop_uses_up_no_retry_and_makes_no_dead_letter(self, problem: Problem) -> None:
        after = then(walking_since_noon(), refused(problem))

        assert after.run is not None
        assert (after.run.retries, after.run.failed_batches, after.open_dead_letters) == (0, 0, 0)

    def test_a_stop_at_the_first_batch_is_a_run_without_a_position(self) -> None:
        decision = decision_on(checkpoint_of(), refused(DEAD_TOKEN), context())

        assert events(decision) == (
            RunStarted(NOON),
            RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN),
        )

    def test_a_stop_is_recorded_after_unchanged_batches(self) -> None:
        *_, stored, ended = events(decision_on(walked_on(walking_since_noon()), refused(DEAD_TOKEN), context()))

        assert stored == BatchStored(walking("after 2", NOON), QUIET, batch=2)
        assert ended == RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, walking("after 2", NOON), problem=DEAD_TOKEN)

    def test_an_object_that_stays_missing_is_a_configuration_problem(self) -> None:
        gone = problem(100, subcode=33)
        tried = then(walking_since_noon(), refused(gone), refused(gone))
        assert tried.retry is not None
        assert tried.retry.attempts == 2

        (ended,) = events(decision_on(tried, refused(gone), context()))

        assert isinstance(ended, RunEnded)
        assert (ended.status, ended.reason) == (RunStatus.STOPPED, Reason.CONFIGURATION)


class TestFailureStreak:
    def stopped(self, before: Checkpoint, run_id: str, seconds: float, what: Problem = DEAD_TOKEN) -> Checkpoint:
        during = context(at(seconds), during=budget(run_id))
        return then(before, refused(what), during=during, run_id=run_id)

    def test_a_failure_streak_counts_the_runs_that_end_for_the_same_reason(self) -> None:
        after = self.stopped(self.stopped(walking_since_noon(), "run-1", 1), "run-2", 1801)

        assert after.failure_streak == FailureStreak(Reason.AUTHORIZATION, at(1), 2, DEAD_TOKEN)

    def test_a_failure_streak_restarts_for_another_reason(self) -> None:
        after = self.stopped(self.stopped(walking_since_noon(), "run-1", 1), "run-2", 1801, BAD_VERSION)

        assert after.failure_streak == FailureStreak(Reason.CONFIGURATION, at(1801), 1, BAD_VERSION)

    def test_a_failure_streak_restarts_in_a_run_that_made_progress(self) -> None:
        stood = self.stopped(walking_since_noon(), "run-1", 1)
        got_on = skipped(
            stood,
            fetched(conversation("t_1"), next_cursor="after 2"),
            KNOWN,
            context(during=budget("run-2")),
        )

        assert self.stopped(got_on, "run-2", 1801).failure_streak == FailureStreak(
            Reason.AUTHORIZATION, at(1801), 1, DEAD_TOKEN
        )

    def test_a_failure_streak_counts_failures_too_and_outlasts_a_rate_limit(self) -> None:
        one_attempt = context(policy=Policy(attempts=1))
        failed = then(walking_since_noon(), refused(NETWORK), during=one_attempt)
        assert failed.failure_streak == FailureStreak(Reason.RETRIES_EXHAUSTED, NOON, 1, NETWORK)

        assert then(failed, refused(HOUR_LIMIT)).failure_streak == failed.failure_streak

    def test_a_failure_streak_ends_with_a_batch(self) -> None:
        stood = self.stopped(walking_since_noon(), "run-1", 1)

        assert then(stood, fetched(conversation("t_2"), next_cursor="after 2")).failure_streak is None
        assert then(stood, fetched(conversation("t_1"), next_cursor="after 2"), known=KNOWN).failure_streak is None
        assert given(SweepCompleted(Mode.FULL, NOON, NOON, QUIET), after=stood, run_id="run-2").failure_streak is None


class TestDeadCursor:
    OTHER_WORDS = problem(100)  # also returned for a dead cursor

    @pytest.mark.parametrize("said", [DEAD_CURSOR, OTHER_WORDS])
    def test_a_dead_cursor_restarts_the_same_sweep_at_the_head(self, said: Problem) -> None:
        before = walking_since_noon()

        decision = decision_on(before, refused(said), context())

        assert events(decision) == (CursorLost(said),)
        after = given(*events(decision), after=before)
        assert after.sweep is not None
        assert before.sweep is not None
        assert after.sweep.position == walking()
        assert after.sweep.tally == before.sweep.tally
        assert after.sweep.walk_started_at == before.sweep.walk_started_at

    def test_a_dead_cursor_of_the_catch_up_scan_restarts_that_scan(self) -> None:
        after = then(scanning("after 7"), refused(DEAD_CURSOR))

        assert after.sweep is not None
        assert after.sweep.position == catching_up()

    def test_a_dead_cursor_is_recorded_after_unchanged_batches(self) -> None:
        decision = decision_on(walked_on(walking_since_noon()), refused(DEAD_CURSOR), context())

        assert events(decision) == (BatchStored(walking("after 2", NOON), QUIET, batch=2), CursorLost(DEAD_CURSOR))

    def test_a_second_dead_cursor_in_a_run_fails_it(self) -> None:
        again = then(
            walking_since_noon(),
            refused(DEAD_CURSOR),
            fetched(conversation("t_2"), next_cursor="after 2"),
        )

        decision = decision_on(again, refused(DEAD_CURSOR), context())

        assert events(decision) == (
            BatchFailed(Stage.FETCH, 1, DEAD_CURSOR),
            RunEnded(
                RunStatus.FAILED,
                Reason.RETRIES_EXHAUSTED,
                walking("after 2", NOON, head_read_at=NOON),
                problem=DEAD_CURSOR,
            ),
        )

    @pytest.mark.parametrize(
        "ended",
        [
            pytest.param(RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, walking("after 2")), id="ended"),
            pytest.param(RunEnded(RunStatus.INTERRUPTED, Reason.PROCESS_DIED), id="broken off"),
        ],
    )
    def test_a_dead_cursor_restarts_the_sweep_once_more_in_the_next_run(self, ended: RunEnded) -> None:
        again = then(
            walking_since_noon(),
            refused(DEAD_CURSOR),
            fetched(conversation("t_2"), next_cursor="after 2"),
        )
        next_run = given(run_started(), after=given(ended, after=again), run_id="run-2")

        decision = decision_on(next_run, refused(DEAD_CURSOR), context(during=budget("run-2")))

        assert events(decision) == (CursorLost(DEAD_CURSOR),)

    def test_a_refusal_at_the_head_too_is_about_the_query(self) -> None:
        """Nothing shows then that the cursor was at fault: the stream stops, and the cursor is kept for the probe."""
        lost = then(walking_since_noon(), refused(self.OTHER_WORDS))

        (ended,) = events(decision_on(lost, refused(self.OTHER_WORDS), context()))

        assert ended == RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION, walking("after 1"), problem=self.OTHER_WORDS)

    def test_a_lost_cursor_is_kept_if_the_run_ends_before_the_head_was_read(self) -> None:
        lost = then(walking_since_noon(), refused(DEAD_CURSOR))

        ending = conclude(lost, Reason.SHUTDOWN, budget())

        assert ending == Record((RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN, walking("after 1")),))
        assert given(*ending.events, after=lost).sweep == walking_since_noon().sweep

    def test_a_lost_cursor_is_forgotten_once_the_head_was_read(self) -> None:
        lost = then(walking_since_noon(), refused(DEAD_CURSOR))

        for read in (
            walked_on(lost, "after 5"),
            then(lost, fetched(conversation("t_2"), next_cursor="after 5")),
        ):
            ending = conclude(read, Reason.SHUTDOWN, budget())
            assert ending is not None
            ended = ending.events[-1]
            assert isinstance(ended, RunEnded)
            assert ended.position == walking("after 5", NOON, head_read_at=NOON)

    def test_a_refused_cursor_is_about_the_query_if_none_was_sent(self) -> None:
        decision = decision_on(checkpoint_of(), refused(self.OTHER_WORDS), context())

        assert events(decision)[-1] == RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION, problem=self.OTHER_WORDS)

    def test_a_dead_cursor_is_not_that_of_an_open_sweep_being_replaced(self) -> None:
        before = walking_since_noon(mode=Mode.INCREMENTAL)
        forced = context(during=budget(wants_full=True))

        (ended,) = events(decision_on(before, refused(self.OTHER_WORDS), forced))

        assert isinstance(ended, RunEnded)
        assert ended.status is RunStatus.STOPPED
        assert ended.position == walking("after 1")


class TestCursorLoop:
    LOOP = Problem(ProblemKind.CURSOR_LOOP, "the cursor of the next batch is the one just used")
    ANSWER = fetched(conversation(), next_cursor="after 1")

    def test_a_cursor_loop_is_a_transient_refusal(self) -> None:
        decision = decision_on(walking_since_noon(), self.ANSWER, context(jitter=0.5))

        assert decision == Record((FetchFailed(1, self.LOOP, at(1)),))

    def test_a_cursor_loop_that_persists_restarts_the_sweep_at_the_head(self) -> None:
        before = given(FetchFailed(2, self.LOOP, at(1)), after=walking_since_noon())

        assert events(decision_on(before, self.ANSWER, context())) == (CursorLost(self.LOOP, is_last=True),)

    def test_a_cursor_loop_that_is_met_again_fails_the_run(self) -> None:
        before = then(
            given(CursorLost(self.LOOP), after=walking_since_noon()),
            fetched(conversation("t_2"), next_cursor="after 1"),
        )

        after = then(before, *[self.ANSWER] * 3)

        assert after.run is not None
        assert (after.run.status, after.run.problem, after.run.failed_batches) == (RunStatus.FAILED, self.LOOP, 1)

    def test_the_cursor_of_a_replaced_sweep_is_no_loop(self) -> None:
        before = walking_since_noon(mode=Mode.INCREMENTAL)
        forced = context(during=budget("run-2", wants_full=True))

        decision = decision_on(before, self.ANSWER, forced)

        assert [type(event) for event in events(decision)] == [RunStarted, SweepStarted, BatchStored]


def test_a_run_that_broke_off_is_closed_without_a_position() -> None:
    lost = then(walking_since_noon(), refused(DEAD_CURSOR))
    record = recover(lost)
    assert record is not None

    after = given(*record.events, after=lost)

    assert after.sweep is not None
    assert lost.sweep is not None
    assert after.sweep == replace(lost.sweep, resets=0)
