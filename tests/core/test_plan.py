"""plan: the next action of a run, and where walks start and end."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from msgspec.structs import replace

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
from milepost.core.position import Mode
from milepost.core.walk import EPOCH, older_in_a_row, overlap_before, reaches_back, walk_start

HOUR = 3600.0
DAY = 24 * HOUR
UNTIL = at(0)
OVERLAP = 600.0


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
        assert requested(checkpoint_of(), budget()) == Request(None, 50, 20, until=None, batches_left=499)

    def test_a_request_of_a_new_sweep_goes_to_the_watermark_less_the_overlap(self) -> None:
        assert requested(given(completed()), budget("run-2")) == Request(None, 50, 20, until=at(-600), batches_left=499)

    def test_a_request_continues_the_walk(self) -> None:
        sweep = sweep_started(Mode.INCREMENTAL, at(0), walk_until=at(-HOUR))
        checkpoint = given(run_started(), sweep, BatchStored(walking("after 1"), Tally(batches=1)))

        assert requested(checkpoint, budget()) == Request("after 1", 50, 20, until=at(-HOUR), batches_left=498)

    @pytest.mark.parametrize(("is_prompted", "cursor"), [(False, "after 1"), (True, None)])
    def test_a_run_because_of_news_reads_the_head_first_however_recently_that_was_read(
        self, is_prompted: bool, cursor: str | None
    ) -> None:
        sweep = sweep_started(Mode.FULL, at(0))
        stored = BatchStored(walking("after 1", head_read_at=NOON), Tally(batches=1))
        checkpoint = given(run_started(), sweep, stored, RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT))
        during = replace(budget("run-2"), interval_seconds=HOUR, is_prompted=is_prompted)

        assert requested(checkpoint, during).cursor == cursor

    def test_a_request_continues_the_catch_up_scan(self) -> None:
        sweep = sweep_started(Mode.INCREMENTAL, at(0), walk_until=at(-HOUR))
        checkpoint = given(run_started(), sweep, BatchStored(catching_up("after 1"), Tally(batches=3)))

        assert requested(checkpoint, budget()) == Request("after 1", 50, 20, until=at(-600), batches_left=496)

    def test_a_request_continues_after_unchanged_batches(self) -> None:
        checkpoint = read(1)
        assert checkpoint.sweep is not None
        after = skip_unchanged(checkpoint, BatchUnchanged(checkpoint.sweep, Tally(batches=1)))

        assert requested(after, budget()).cursor == "x"

    def test_a_request_of_a_forced_full_sweep_leaves_the_open_incremental_one(self) -> None:
        sweep = sweep_started(Mode.INCREMENTAL, at(0), walk_until=at(-HOUR))
        checkpoint = given(run_started(), sweep, BatchStored(walking("after 1"), Tally(batches=1)))

        assert requested(checkpoint, budget(wants_full=True)) == Request(None, 50, 20, until=None, batches_left=498)

    def test_a_request_of_a_forced_full_sweep_continues_an_open_full_one(self) -> None:
        assert requested(read(1), budget(wants_full=True)).cursor == "x"

    def test_a_request_says_how_many_batches_the_run_has_left(self) -> None:
        assert requested(read(3), budget(max_batches=5)).batches_left == 1
        assert requested(read(4), budget(max_batches=5)).batches_left == 0


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


# --- where walks start and end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [
        pytest.param((), False, id="an empty batch proves nothing"),
        pytest.param((-1, -2), True, id="all older"),
        pytest.param((1, -2), False, id="the first is newer"),
        pytest.param((-1, 2), False, id="the last is newer, against the order"),
        pytest.param((-1, 2, -3), False, id="one old row is not enough"),
        pytest.param((0,), False, id="the boundary itself is not older"),
        pytest.param((0, -1), False, id="the boundary and older ones"),
        pytest.param((-0.001,), True, id="a millisecond older"),
    ],
)
def test_a_walk_ends_at_a_batch_wholly_older(seconds: tuple[float, ...], answer: bool) -> None:
    assert reaches_back([at(second) for second in seconds], UNTIL) is answer


def test_a_walk_to_the_end_of_the_inbox_reaches_back_nowhere() -> None:
    assert not reaches_back([at(-10_000)], None)


@pytest.mark.parametrize(
    ("seconds", "before", "older"),
    [
        pytest.param((), 3, 3, id="an empty batch changes nothing"),
        pytest.param((-1, -2), 3, 5, id="all older"),
        pytest.param((1, -2), 3, 1, id="a newer one restarts the count"),
        pytest.param((-1, 2), 3, 0, id="the last is newer"),
        pytest.param((0,), 3, 0, id="the boundary itself is not older"),
    ],
)
def test_older_conversations_are_counted_in_a_row_across_batches(
    seconds: tuple[float, ...], before: int, older: int
) -> None:
    assert older_in_a_row([at(second) for second in seconds], UNTIL, before) == older


def test_no_conversation_is_older_than_a_walk_to_the_end_of_the_inbox() -> None:
    assert older_in_a_row([at(-10_000)], None, 0) == 0


def test_the_overlap_is_before_the_instant() -> None:
    assert overlap_before(at(0), 600.0) == at(-600)


@pytest.mark.parametrize(
    ("started", "newest", "start"),
    [
        pytest.param(0, -5, 0, id="a busy inbox agrees with the clock"),
        pytest.param(0, -601, 0, id="a quiet inbox agrees with it up to the overlap"),
        pytest.param(0, -3600, -3600 + 601, id="a very quiet inbox overrides the clock"),
        pytest.param(30 * 86400, -5, -5 + 601, id="a clock that is ahead is not trusted"),
        pytest.param(-86400, -5, -86400, id="a clock that is behind costs no more than reading again"),
    ],
)
def test_a_walk_starts_no_later_than_the_newest_conversation_allows(started: int, newest: int, start: int) -> None:
    assert walk_start(at(started), [at(newest - 7), at(newest), at(newest - 3)], OVERLAP, None) == at(start)


def test_a_first_batch_without_conversations_leaves_the_watermark_where_it_was() -> None:
    assert walk_start(at(0), [], OVERLAP, None) == EPOCH
    assert walk_start(at(0), [], OVERLAP, at(-50)) == at(-50)
    assert walk_start(at(0), [], OVERLAP, at(50)) == at(0)


instants = st.datetimes(EPOCH.replace(tzinfo=None), timezones=st.just(UTC))


@drawn(instants, st.lists(instants, min_size=1), st.floats(0, 7 * 86400.0))
def test_whatever_the_clocks_say_the_next_walk_reaches_back_to_the_newest_conversation(
    asked_at: datetime, times: list[datetime], overlap_seconds: float
) -> None:
    start = walk_start(asked_at, times, overlap_seconds, None)
    assert start <= asked_at
    assert overlap_before(start, overlap_seconds) <= max(times) + timedelta(seconds=1.001)
