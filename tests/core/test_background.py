"""core.background: when older messages are read, and how many calls they get."""

import pytest
from msgspec.structs import replace

from kit.builders import GAP, NETWORK, NOON, POLICY, at, budget, given, run_started, sweep_started, walking
from milepost.core.background import (
    MAX_PARKED,
    MAX_USAGE_RATIO,
    SHARE_WAIT_SECONDS,
    Demand,
    HoldBack,
    ReadGap,
    next_gap,
    plan_backlog,
    reading_ends_at,
    reads_between,
)
from milepost.core.events import (
    BatchStored,
    FetchFailed,
    Reason,
    RunEnded,
    RunStatus,
    StreamPaused,
    SweepCompleted,
    Tally,
)
from milepost.core.plan import Wait
from milepost.core.ports import Usage
from milepost.core.position import MessagesOwed, Mode, Phase, Position
from milepost.core.problems import Scope

DONE = given(run_started(), SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)), MessagesOwed((GAP,)))
STOPPED = given(
    run_started(),
    sweep_started(),
    BatchStored(walking("c1"), Tally(batches=1)),
    MessagesOwed((GAP,)),
    RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT),
)
WALKING = given(run_started(), sweep_started(), BatchStored(walking("c1"), Tally(batches=1)), MessagesOwed((GAP,)))
HALF = Demand(batches=2, messages=1)
NO_SHARE = Demand(batches=2, messages=2)


def used(ratio: float) -> Demand:
    return Demand(Usage(Scope.APP, "call_count", ratio), batches=1)


class TestAfterTheSweep:
    def test_older_messages_are_read_after_the_sweep(self) -> None:
        assert plan_backlog(DONE, NOON, budget()) == ReadGap()

    def test_nothing_is_read_if_no_gap_is_open(self) -> None:
        done = given(run_started(), SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1)))
        assert plan_backlog(done, NOON, budget()) is None

    def test_reading_ends_at_the_time_limit_and_for_a_stop(self) -> None:
        assert plan_backlog(DONE, at(270), budget(), requests=1) is None
        assert plan_backlog(DONE, NOON, budget(stops_for=Reason.SHUTDOWN)) is None

    def test_a_rate_limit_is_waited_out_if_it_ends_within_the_run(self) -> None:
        assert plan_backlog(DONE, NOON, budget(), at(60)) == Wait(at(60))
        assert plan_backlog(DONE, at(60), budget(), at(60)) == ReadGap()
        assert plan_backlog(DONE, NOON, budget(), at(270)) is None

    @pytest.mark.parametrize(
        ("ended", "is_read"),
        [
            (RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT), True),
            (RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT), True),
            (RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT), False),
            (RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN), False),
            (RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED), False),
            (RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION), False),
        ],
    )
    def test_older_messages_are_read_after_a_run_that_could_read(self, ended: RunEnded, *, is_read: bool) -> None:
        after = given(run_started(), MessagesOwed((GAP,)), ended)
        assert (plan_backlog(after, NOON, budget()) == ReadGap()) is is_read

    def test_nothing_is_read_while_the_stream_is_paused_or_by_a_run_that_recorded_nothing(self) -> None:
        assert plan_backlog(given(StreamPaused("somebody"), after=DONE), NOON, budget()) is None
        assert plan_backlog(DONE, NOON, budget("another run")) is None

    def test_even_a_run_that_used_up_its_time_makes_a_request(self) -> None:
        assert plan_backlog(DONE, at(270), budget()) == ReadGap()

    def test_a_run_makes_no_more_requests_than_it_may_read_batches(self) -> None:
        assert plan_backlog(DONE, NOON, budget(), requests=budget().max_batches) is None

    def test_a_budget_that_is_nearly_used_up_holds_older_messages_back(self) -> None:
        too_much = used(MAX_USAGE_RATIO + 0.01)

        assert plan_backlog(DONE, NOON, budget(), demand=used(MAX_USAGE_RATIO)) == ReadGap()
        assert plan_backlog(DONE, NOON, budget(), demand=too_much) == HoldBack(too_much.usage)  # type: ignore[arg-type]

    def test_older_messages_get_half_of_the_calls_while_their_own_sweep_waits(self) -> None:
        assert plan_backlog(STOPPED, NOON, budget(), demand=HALF) == ReadGap()
        assert plan_backlog(STOPPED, NOON, budget(), demand=NO_SHARE) is None
        assert plan_backlog(DONE, NOON, budget(), demand=NO_SHARE) == ReadGap()

    def test_older_messages_wait_for_their_half_while_another_stream_of_the_page_is_swept(self) -> None:
        half, none = replace(HALF, is_swept=True), replace(NO_SHARE, is_swept=True)

        assert plan_backlog(DONE, NOON, budget(), demand=half) == ReadGap()
        assert plan_backlog(DONE, NOON, budget(), demand=none) == Wait(at(SHARE_WAIT_SECONDS))
        assert plan_backlog(DONE, NOON, budget(), at(60), demand=none) == Wait(at(60))
        assert plan_backlog(DONE, at(270), budget(), demand=none) is None

    def test_reading_ends_before_the_next_sweep_can_be_due(self) -> None:
        assert reading_ends_at(budget()) == at(270)
        assert reading_ends_at(replace(budget(), interval_seconds=60.0)) == at(54)
        assert reading_ends_at(replace(budget(), interval_seconds=3600.0)) == at(270)


class TestBetweenBatches:
    def test_a_request_may_be_made_before_the_next_batch(self) -> None:
        assert reads_between(WALKING, budget(), HALF, requests=0)

    def test_no_request_is_made_if_no_gap_is_open_or_the_share_is_used_up(self) -> None:
        nothing_owed = given(run_started(), sweep_started(), BatchStored(walking("c1"), Tally(batches=1)))

        assert not reads_between(nothing_owed, budget(), HALF, requests=0)
        assert not reads_between(WALKING, budget(), NO_SHARE, requests=0)
        assert not reads_between(WALKING, budget(), used(0.61), requests=0)
        assert not reads_between(WALKING, budget(), HALF, requests=budget().max_batches)

    def test_no_request_is_made_before_the_first_batch_of_a_run(self) -> None:
        assert not reads_between(WALKING, budget("another run"), HALF, requests=0)

    def test_new_conversations_at_the_head_come_first(self) -> None:
        at_head = given(BatchStored(Position(Phase.HEAD, "c2"), Tally(batches=1)), after=WALKING)

        assert not reads_between(at_head, budget(), HALF, requests=0)

    def test_no_request_is_made_while_the_list_fails(self) -> None:
        failing = given(FetchFailed(1, NETWORK, at(2)), after=WALKING)

        assert not reads_between(failing, budget(), HALF, requests=0)


class TestWhichIsNext:
    def test_a_gap_that_waits_for_a_retry_is_passed_over(self) -> None:
        waiting, other = replace(GAP, attempts=1, retry_at=at(5)), replace(GAP, gap_id="g_2")

        assert next_gap([waiting, other], {"g_1"}, NOON, POLICY) == other
        assert next_gap([waiting], {"g_1"}, NOON, POLICY) == Wait(at(5))
        assert next_gap([waiting], {"g_1"}, at(5), POLICY) == waiting

    def test_a_retry_that_a_clock_ahead_has_set_is_due(self) -> None:
        waiting = replace(GAP, attempts=1, retry_at=at(86_400))
        assert next_gap([waiting], {"g_1"}, NOON, POLICY) == waiting

    def test_a_gap_that_failed_often_enough_in_this_run_is_left_to_the_next(self) -> None:
        failed = replace(GAP, attempts=POLICY.attempts)

        assert next_gap([failed], {"g_1"}, NOON, POLICY) is None
        assert next_gap([failed], set(), NOON, POLICY) == failed

    def test_the_other_gaps_are_left_too_after_several_that_failed(self) -> None:
        failed = [replace(GAP, gap_id=f"g_{n}", attempts=POLICY.attempts) for n in range(MAX_PARKED)]
        other = replace(GAP, gap_id="other")
        tried = {gap.gap_id for gap in failed}

        assert next_gap([*failed[1:], other], tried, NOON, POLICY) == other
        assert next_gap([*failed, other], tried, NOON, POLICY) is None
