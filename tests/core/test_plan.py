"""plan: the next step of a run, and the mode of its sweep."""

from datetime import datetime

import pytest
from msgspec.structs import replace

from kit.builders import (
    NETWORK,
    NOON,
    POLICY,
    RATE_LIMIT,
    at,
    budget,
    catching_up,
    checkpoint_of,
    given,
    refused,
    run_started,
    sweep_started,
    walking,
)
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.events import (
    BatchStored,
    Event,
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
    Interruptions,
    Policy,
    ReadMessages,
    Reload,
    RunBudget,
    RunCommands,
    SettleRefusal,
    Step,
    Wait,
    batches_read,
    is_over,
    next_mode,
    next_step,
    plan,
    walk_limit,
)
from milepost.core.ports import Request
from milepost.core.position import Mode

HOUR = 3600.0
ONE_BATCH = Tally(batches=1)
DAY = 24 * HOUR


def requested(checkpoint: Checkpoint, during: RunBudget) -> Request:
    action = plan(checkpoint, NOON, during, POLICY)
    assert isinstance(action, Fetch)
    return action.request


def completed(mode: Mode = Mode.FULL, walk_started_at: datetime = NOON, tally: Tally = ONE_BATCH) -> Event:
    return SweepCompleted(mode, walk_started_at, walk_started_at, tally)


def read(batches: int) -> Checkpoint:
    return given(run_started(), sweep_started(), BatchStored(walking("x"), Tally(batches=batches)))


def with_unchanged(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint after another batch, which changed nothing."""
    assert checkpoint.sweep is not None
    return skip_unchanged(checkpoint, BatchUnchanged(checkpoint.sweep, Tally(batches=1)))


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
        assert requested(with_unchanged(read(1)), budget()).cursor == "x"

    def test_a_request_of_a_forced_full_sweep_leaves_the_open_incremental_one(self) -> None:
        sweep = sweep_started(Mode.INCREMENTAL, at(0), walk_until=at(-HOUR))
        checkpoint = given(run_started(), sweep, BatchStored(walking("after 1"), Tally(batches=1)))

        assert requested(checkpoint, budget(wants_full=True)) == Request(None, 50, 20, until=None, batches_left=498)

    def test_a_request_of_a_forced_full_sweep_continues_an_open_full_one(self) -> None:
        assert requested(read(1), budget(wants_full=True)).cursor == "x"

    def test_a_request_says_how_many_batches_the_run_has_left(self) -> None:
        assert requested(read(3), budget(max_batches=5)).batches_left == 1
        assert requested(read(4), budget(max_batches=5)).batches_left == 0


RETRYING = given(run_started(), FetchFailed(1, NETWORK, at(30)))
PAUSED = given(run_started(), sweep_started(), StreamPaused("API"))
STOPPING = budget(deadline_at=NOON, max_batches=1, stops_for=Reason.SHUTDOWN)
IN_FIVE, IN_TEN, IN_LONG = budget(max_batches=5), budget(deadline_at=at(10)), budget(deadline_at=at(270))


class TestPlan:
    """Whose calls a rate limit holds is tested in test_rate_limits.py."""

    @pytest.mark.parametrize(
        ("checkpoint", "during", "seconds", "held_seconds", "expected"),
        [
            pytest.param(read(4), IN_FIVE, 0, None, None, id="below the batch limit"),
            pytest.param(read(5), IN_FIVE, 0, None, Finish(Reason.BATCH_LIMIT), id="at the batch limit"),
            pytest.param(
                with_unchanged(read(4)), IN_FIVE, 0, None, Finish(Reason.BATCH_LIMIT), id="unchanged ones count"
            ),
            pytest.param(read(1), IN_TEN, 9.999, None, None, id="before the deadline"),
            pytest.param(read(1), IN_TEN, 10, None, Finish(Reason.TIME_LIMIT), id="at the deadline"),
            pytest.param(read(1), STOPPING, 0, None, Finish(Reason.SHUTDOWN), id="a stop takes precedence over limits"),
            pytest.param(
                read(1),
                budget(deadline_at=NOON, stops_for=Reason.REMOVED),
                0,
                None,
                Finish(Reason.REMOVED),
                id="so does a removal",
            ),
            pytest.param(RETRYING, IN_LONG, 0, None, Wait(at(30)), id="a retry is waited out"),
            pytest.param(RETRYING, IN_LONG, 30, None, None, id="a retry that is due is made"),
            pytest.param(RETRYING, IN_TEN, 0, None, Finish(Reason.TIME_LIMIT), id="a retry after the deadline"),
            pytest.param(
                RETRYING, budget(deadline_at=at(30)), 0, None, Finish(Reason.TIME_LIMIT), id="a retry at the deadline"
            ),
            pytest.param(read(1), IN_LONG, 0, 60, Wait(at(60)), id="a rate limit is waited out"),
            pytest.param(read(1), IN_LONG, 60, 60, None, id="a rate limit that is over"),
            pytest.param(read(1), IN_LONG, 61, 60, None, id="a rate limit that has been over"),
            pytest.param(read(1), IN_LONG, 0, 270, Finish(Reason.RATE_LIMIT), id="a rate limit until the deadline"),
            pytest.param(read(1), IN_LONG, 0, 3600, Finish(Reason.RATE_LIMIT), id="a rate limit beyond the deadline"),
            pytest.param(RETRYING, IN_LONG, 0, 20, Wait(at(30)), id="a retry outlasts the rate limit"),
            pytest.param(RETRYING, IN_LONG, 0, 120, Wait(at(120)), id="a rate limit outlasts the retry"),
            pytest.param(read(1), STOPPING, 0, 3600, Finish(Reason.SHUTDOWN), id="a rate limit prevents no stop"),
            pytest.param(read(5), IN_FIVE, 0, 3600, Finish(Reason.BATCH_LIMIT), id="a rate limit hides no limit"),
            pytest.param(PAUSED, IN_LONG, 0, None, Finish(Reason.REQUEST), id="a paused stream reads nothing"),
            pytest.param(
                given(StreamPaused("API")), IN_LONG, 0, None, Finish(Reason.REQUEST), id="nor begins anything"
            ),
            pytest.param(
                given(StreamResumed("API"), after=PAUSED), IN_LONG, 0, None, None, id="a resumed stream reads"
            ),
        ],
    )
    def test_the_next_action_follows_from_the_state_of_the_run(
        self,
        checkpoint: Checkpoint,
        during: RunBudget,
        seconds: float,
        held_seconds: float | None,
        expected: Wait | Finish | None,  # None: a fetch
    ) -> None:
        held_until = at(held_seconds) if held_seconds is not None else None

        action = plan(checkpoint, at(seconds), during, POLICY, held_until)

        assert (None if isinstance(action, Fetch) else action) == expected

    def test_batches_are_those_of_this_run_unchanged_ones_included(self) -> None:
        assert batches_read(with_unchanged(read(4)), budget()) == 5
        assert batches_read(read(5), budget("run-2")) == 0


TOOK_OVER = Tally(batches=1, updated=3, moved=3)


class TestNextMode:
    @pytest.mark.parametrize(
        ("events", "seconds", "interval", "mode"),
        [
            pytest.param((), 0, DAY, Mode.FULL, id="no sweep was complete"),
            pytest.param((completed(),), 0, DAY, Mode.INCREMENTAL, id="after a full one"),
            pytest.param((completed(),), DAY - 1, DAY, Mode.INCREMENTAL, id="within the interval"),
            pytest.param((completed(),), DAY, DAY, Mode.FULL, id="after the interval"),
            pytest.param((completed(),), 1000 * DAY, 0.0, Mode.INCREMENTAL, id="never again"),
            pytest.param((completed(walk_started_at=at(59)),), 0, DAY, Mode.INCREMENTAL, id="clocks differ a little"),
            pytest.param((completed(walk_started_at=at(61)),), 0, DAY, Mode.FULL, id="a watermark in the future"),
            pytest.param((completed(),), -DAY, DAY, Mode.FULL, id="all is a day in the future"),
            pytest.param((completed(walk_started_at=at(-2 * DAY)),), -DAY, DAY, Mode.INCREMENTAL, id="full in a day"),
            pytest.param((completed(walk_started_at=at(-2 * DAY)),), -DAY - 1, DAY, Mode.FULL, id="full in more"),
            pytest.param((completed(tally=TOOK_OVER),), 0, DAY, Mode.INCREMENTAL, id="a full one took threads over"),
        ],
    )
    def test_the_next_mode_follows_from_the_previous_sweeps(
        self, events: tuple[Event, ...], seconds: float, interval: float, mode: Mode
    ) -> None:
        policy = Policy(full_sweep_interval_seconds=interval)

        assert next_mode(given(*events), at(seconds), budget(), policy) is mode

    def test_a_full_sweep_is_not_delayed_by_incremental_ones(self) -> None:
        checkpoint = given(completed(Mode.INCREMENTAL, at(HOUR)), after=given(completed()), recorded_at=at(HOUR))

        assert next_mode(checkpoint, at(DAY), budget(), Policy(full_sweep_interval_seconds=DAY)) is Mode.FULL

    @pytest.mark.parametrize(
        "events",
        [
            (completed(Mode.INCREMENTAL, at(60), TOOK_OVER),),
            (
                sweep_started(Mode.INCREMENTAL, at(60), NOON),
                BatchStored(walking("after 1"), TOOK_OVER),
                completed(Mode.INCREMENTAL, at(60)),
            ),
        ],
    )
    def test_the_next_mode_is_full_if_an_incremental_sweep_took_conversations_over(
        self, events: tuple[Event, ...]
    ) -> None:
        assert next_mode(given(*events, after=given(completed())), at(120), budget(), Policy()) is Mode.FULL

    def test_the_next_mode_is_full_if_it_is_wanted(self) -> None:
        assert next_mode(given(completed()), NOON, budget(wants_full=True), Policy()) is Mode.FULL

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


REFUSED = refused(RATE_LIMIT)


class TestInterruptions:
    @pytest.mark.parametrize(
        ("interruptions", "stops_for", "expected"),
        [
            pytest.param(
                Interruptions(is_outdated=True, refused=REFUSED, has_commands=True), None, Reload(), id="others wrote"
            ),
            pytest.param(
                Interruptions(refused=REFUSED, has_commands=True), None, SettleRefusal(REFUSED), id="a refusal"
            ),
            pytest.param(
                Interruptions(refused=REFUSED), Reason.SHUTDOWN, SettleRefusal(REFUSED), id="a refusal before a stop"
            ),
            pytest.param(Interruptions(has_commands=True), Reason.SHUTDOWN, RunCommands(), id="commands before a stop"),
            pytest.param(Interruptions(are_messages_due=True), None, ReadMessages(), id="older messages"),
            pytest.param(
                Interruptions(are_messages_due=True),
                Reason.SHUTDOWN,
                Finish(Reason.SHUTDOWN),
                id="older messages only where a batch would be read",
            ),
            pytest.param(
                Interruptions(has_commands=True, are_messages_due=True), None, RunCommands(), id="commands before them"
            ),
            pytest.param(Interruptions(), Reason.SHUTDOWN, Finish(Reason.SHUTDOWN), id="nothing: the plan"),
        ],
    )
    def test_what_has_come_up_is_settled_the_most_urgent_first(
        self, interruptions: Interruptions, stops_for: Reason | None, expected: Step
    ) -> None:
        during = budget(stops_for=stops_for)

        assert next_step(checkpoint_of(), NOON, during, POLICY, None, interruptions) == expected

    def test_a_run_that_nothing_interrupts_follows_its_plan(self) -> None:
        assert isinstance(next_step(checkpoint_of(), NOON, budget(), POLICY, None, Interruptions()), Fetch)
