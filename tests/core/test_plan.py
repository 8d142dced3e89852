"""plan.plan: the next action of a run."""

from datetime import datetime

import pytest

from kit.builders import (
    NETWORK,
    NOON,
    POLICY,
    at,
    budget,
    catching_up,
    checkpoint_of,
    given,
    run_started,
    sweep_started,
    walking,
)
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.events import (
    BatchStored,
    FetchFailed,
    Mode,
    Reason,
    RunEnded,
    RunStatus,
    StreamPaused,
    StreamResumed,
    SweepCompleted,
    Tally,
)
from milepost.core.evolve import skip_unchanged
from milepost.core.plan import (
    Fetch,
    Finish,
    Policy,
    RunBudget,
    Wait,
    batches_read,
    is_over,
    next_mode,
    plan,
    walk_limit,
)
from milepost.core.ports import Request

HOUR = 3600.0
DAY = 24 * HOUR


def planned(checkpoint: Checkpoint, during: RunBudget, now: datetime = NOON) -> Fetch | Wait | Finish:
    return plan(checkpoint, now, during, POLICY)


def requested(checkpoint: Checkpoint, during: RunBudget) -> Request:
    action = planned(checkpoint, during)
    assert isinstance(action, Fetch)
    return action.request


def completed(mode: Mode = Mode.FULL, walk_started_at: datetime = NOON) -> SweepCompleted:
    return SweepCompleted(mode, walk_started_at, walk_started_at, Tally(batches=1))


def read(batches: int) -> Checkpoint:
    return given(run_started(), sweep_started(), BatchStored(walking("x"), Tally(batches=batches)))


class TestRequest:
    def test_a_first_request_starts_at_the_head_and_goes_to_the_end(self) -> None:
        assert requested(checkpoint_of(), budget()) == Request(None, 50, 20, until=None)

    def test_a_request_of_a_new_sweep_goes_to_the_watermark_less_the_overlap(self) -> None:
        assert requested(given(completed()), budget("run-2")) == Request(None, 50, 20, until=at(-600))

    def test_a_request_continues_the_walk(self) -> None:
        sweep = sweep_started(Mode.INCREMENTAL, at(0), walk_until=at(-HOUR))
        checkpoint = given(run_started(), sweep, BatchStored(walking("after 1"), Tally(batches=1)))

        assert requested(checkpoint, budget()) == Request("after 1", 50, 20, until=at(-HOUR))

    def test_a_request_continues_the_catch_up_scan(self) -> None:
        sweep = sweep_started(Mode.INCREMENTAL, at(0), walk_until=at(-HOUR))
        checkpoint = given(run_started(), sweep, BatchStored(catching_up("after 1"), Tally(batches=3)))

        assert requested(checkpoint, budget()) == Request("after 1", 50, 20, until=at(-600))

    def test_a_request_continues_after_unchanged_batches(self) -> None:
        checkpoint = read(1)
        assert checkpoint.sweep is not None
        after = skip_unchanged(checkpoint, BatchUnchanged(checkpoint.sweep, Tally(batches=1)))

        assert requested(after, budget()).cursor == "x"

    def test_a_request_of_a_forced_full_sweep_leaves_the_open_incremental_one(self) -> None:
        sweep = sweep_started(Mode.INCREMENTAL, at(0), walk_until=at(-HOUR))
        checkpoint = given(run_started(), sweep, BatchStored(walking("after 1"), Tally(batches=1)))

        assert requested(checkpoint, budget(wants_full=True)) == Request(None, 50, 20, until=None)

    def test_a_request_of_a_forced_full_sweep_continues_an_open_full_one(self) -> None:
        assert requested(read(1), budget(wants_full=True)).cursor == "x"

    def test_a_request_says_whether_it_is_the_last_of_the_run(self) -> None:
        assert not requested(read(3), budget(max_batches=5)).is_last
        assert requested(read(4), budget(max_batches=5)).is_last


class TestLimits:
    def test_the_batch_limit_ends_the_run(self) -> None:
        assert isinstance(planned(read(4), budget(max_batches=5)), Fetch)
        assert planned(read(5), budget(max_batches=5)) == Finish(Reason.BATCH_LIMIT)

    def test_the_batch_limit_counts_unchanged_batches(self) -> None:
        checkpoint = read(4)
        assert checkpoint.sweep is not None
        after = skip_unchanged(checkpoint, BatchUnchanged(checkpoint.sweep, Tally(batches=1)))

        assert batches_read(after, budget()) == 5
        assert planned(after, budget(max_batches=5)) == Finish(Reason.BATCH_LIMIT)

    def test_the_batch_limit_does_not_count_an_earlier_run(self) -> None:
        assert batches_read(read(5), budget("run-2")) == 0

    def test_the_time_limit_ends_the_run(self) -> None:
        assert isinstance(planned(read(1), budget(deadline_at=at(10)), now=at(9.999)), Fetch)
        assert planned(read(1), budget(deadline_at=at(10)), now=at(10)) == Finish(Reason.TIME_LIMIT)

    def test_a_stop_takes_precedence_over_a_limit(self) -> None:
        stopping = budget(deadline_at=NOON, max_batches=1, stops_for=Reason.SHUTDOWN)

        assert planned(read(1), stopping) == Finish(Reason.SHUTDOWN)

    def test_a_removal_takes_precedence_over_a_limit(self) -> None:
        assert planned(read(1), budget(deadline_at=NOON, stops_for=Reason.REMOVED)) == Finish(Reason.REMOVED)


class TestRetryState:
    def retrying(self, retry_at: datetime) -> Checkpoint:
        return given(run_started(), FetchFailed(1, NETWORK, retry_at))

    def test_a_retry_is_waited_out(self) -> None:
        assert planned(self.retrying(at(2)), budget()) == Wait(at(2))

    def test_a_retry_that_is_due_is_made(self) -> None:
        assert isinstance(planned(self.retrying(at(2)), budget(), now=at(2)), Fetch)

    @pytest.mark.parametrize("retry_at", [at(10), at(11)])
    def test_a_retry_due_after_the_deadline_ends_the_run_now(self, retry_at: datetime) -> None:
        assert planned(self.retrying(retry_at), budget(deadline_at=at(10))) == Finish(Reason.TIME_LIMIT)


class TestRateLimit:
    """What a run does about a rate limit; whose calls it holds is tested in test_rate_limits.py."""

    def held(self, until: datetime, *, now: datetime = NOON, checkpoint: Checkpoint | None = None) -> object:
        return plan(checkpoint or read(1), now, budget(deadline_at=at(270)), POLICY, until)

    def test_a_rate_limit_is_waited_out(self) -> None:
        assert self.held(at(60)) == Wait(at(60))

    def test_a_rate_limit_that_is_over_holds_nothing_up(self) -> None:
        assert isinstance(self.held(at(60), now=at(60)), Fetch)
        assert isinstance(self.held(at(60), now=at(61)), Fetch)

    @pytest.mark.parametrize("seconds", [270, 3600])
    def test_a_rate_limit_that_outlasts_the_deadline_ends_the_run_now(self, seconds: float) -> None:
        assert self.held(at(seconds)) == Finish(Reason.RATE_LIMIT)

    def test_a_retry_that_outlasts_the_rate_limit_is_waited_for(self) -> None:
        retrying = given(run_started(), FetchFailed(1, NETWORK, at(30)))

        assert self.held(at(20), checkpoint=retrying) == Wait(at(30))
        assert self.held(at(120), checkpoint=retrying) == Wait(at(120))

    def test_a_rate_limit_prevents_no_stop_and_hides_no_limit(self) -> None:
        assert plan(read(1), NOON, budget(stops_for=Reason.SHUTDOWN), POLICY, at(3600)) == Finish(Reason.SHUTDOWN)
        assert plan(read(5), NOON, budget(max_batches=5), POLICY, at(3600)) == Finish(Reason.BATCH_LIMIT)


class TestNextMode:
    def next(
        self, checkpoint: Checkpoint, now: datetime = NOON, *, forced: bool = False, interval: float = DAY
    ) -> Mode:
        return next_mode(checkpoint, now, budget(wants_full=forced), Policy(full_sweep_interval_seconds=interval))

    def test_the_next_mode_is_full_if_none_was_complete(self) -> None:
        assert self.next(checkpoint_of()) is Mode.FULL

    def test_the_next_mode_is_incremental_after_a_full_one(self) -> None:
        assert self.next(given(completed())) is Mode.INCREMENTAL

    def test_the_next_mode_is_full_again_after_the_interval(self) -> None:
        assert self.next(given(completed()), at(DAY - 1)) is Mode.INCREMENTAL
        assert self.next(given(completed()), at(DAY)) is Mode.FULL

    def test_a_full_sweep_is_not_delayed_by_incremental_ones(self) -> None:
        checkpoint = given(completed(Mode.INCREMENTAL, at(HOUR)), after=given(completed()), recorded_at=at(HOUR))

        assert self.next(checkpoint, at(DAY)) is Mode.FULL

    def test_the_next_mode_is_never_full_again_if_the_interval_is_zero(self) -> None:
        assert self.next(given(completed()), at(1000 * DAY), interval=0.0) is Mode.INCREMENTAL

    def test_the_next_mode_is_full_if_the_watermark_is_in_the_future(self) -> None:
        assert self.next(given(completed(walk_started_at=at(59)))) is Mode.INCREMENTAL
        assert self.next(given(completed(walk_started_at=at(61)))) is Mode.FULL

    def test_the_next_mode_is_full_if_the_last_full_sweep_is_too_far_in_the_future(self) -> None:
        assert self.next(given(completed()), at(-DAY)) is Mode.FULL
        assert self.next(given(completed(walk_started_at=at(-2 * DAY))), at(-DAY)) is Mode.INCREMENTAL
        assert self.next(given(completed(walk_started_at=at(-2 * DAY))), at(-DAY - 1)) is Mode.FULL

    def test_the_next_mode_is_full_if_it_is_wanted(self) -> None:
        assert self.next(given(completed()), forced=True) is Mode.FULL

    def test_the_next_mode_decides_how_far_the_walk_goes(self) -> None:
        assert walk_limit(given(completed()), Mode.FULL, POLICY) is None
        assert walk_limit(given(completed()), Mode.INCREMENTAL, POLICY) == at(-600)
        assert walk_limit(checkpoint_of(), Mode.INCREMENTAL, POLICY) is None


class TestIsOver:
    def test_a_run_is_over_once_its_sweep_is_complete_or_it_ended(self) -> None:
        assert is_over(given(completed()), budget())
        assert is_over(given(run_started(), RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT)), budget())

    def test_a_run_is_not_over_while_it_is_open(self) -> None:
        assert not is_over(read(1), budget())

    def test_a_run_is_not_over_because_an_earlier_one_is(self) -> None:
        assert not is_over(given(completed()), budget("run-2"))
        assert not is_over(checkpoint_of(), budget())


class TestOperatorPause:
    def test_a_paused_stream_reads_nothing_and_ends_its_run(self) -> None:
        checkpoint = given(run_started(), sweep_started(), StreamPaused("API"))

        assert planned(checkpoint, budget()) == Finish(Reason.REQUEST)
        assert planned(given(StreamPaused("API")), budget()) == Finish(Reason.REQUEST)

    def test_an_operator_pause_is_over_once_the_stream_is_resumed(self) -> None:
        checkpoint = given(run_started(), sweep_started(), StreamPaused("API"), StreamResumed("API"))

        assert isinstance(planned(checkpoint, budget()), Fetch)
