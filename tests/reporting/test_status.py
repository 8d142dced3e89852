"""What a stream is at and waits for: since when, until when, and what a person can do."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import pytest

from kit.builders import (
    BAD_VERSION,
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RATE_LIMIT,
    STREAM,
    at,
    given,
    problem,
    run_started,
    sweep_started,
    walking,
)
from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    BatchStored,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Mode,
    RateLimited,
    Reason,
    RunEnded,
    RunStatus,
    Stage,
    StreamPaused,
    StreamResumed,
    SweepCompleted,
    Tally,
)
from milepost.core.model import Detail, Platform, Scope, Stream
from milepost.core.rate_limits import PROBE_LEAD_SECONDS
from milepost.core.retry import AUTHORIZATION_PROBE_SECONDS, CONFIGURATION_PROBE_SECONDS, MAX_PARK_SECONDS
from milepost.reporting.status import Condition, ConditionContext, State, Wait, condition, limit_on, rate_limits_of

OTHER = Stream(Platform.MESSENGER, "2")
SIBLING = Stream(Platform.INSTAGRAM, STREAM.page_id)
WALKING = (run_started(), sweep_started(), BatchStored(walking("c1"), Tally(batches=1, inserted=50)))
COMPLETED = SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1))
LETTER = DeadLetterOpened("dl_1", Stage.FETCH, "t_bad", "id: expected str")
LIMITED = RateLimited(Scope.PAGE, 2, at(-60), at(120), RATE_LIMIT)
GIVEN_UP = (BatchFailed(Stage.FETCH, 3, NETWORK), RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=NETWORK))
UNAUTHORIZED = RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN)
MISCONFIGURED = RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION, problem=BAD_VERSION)
OUT_OF_TIME = RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT, walking("c1"))
INTERRUPTED = RunEnded(RunStatus.INTERRUPTED, Reason.PROCESS_DIED)


def around(
    now: datetime = NOON, *, at_work: bool = True, rate_limits: Mapping[Stream, RateLimit] | None = None
) -> ConditionContext:
    return ConditionContext(now, at_work, interval_seconds=300.0, batch_size=50, rate_limits=rate_limits or {})


def stands(*events: Event, now: datetime = NOON, at_work: bool = True) -> Condition:
    """Give the standing after events that were recorded at noon, with no other stream than this one."""
    return standing_of(given(*events), now, at_work=at_work)


def standing_of(checkpoint: Checkpoint, now: datetime = NOON, *others: Checkpoint, at_work: bool = True) -> Condition:
    return condition(checkpoint, around(now, at_work=at_work, rate_limits=rate_limits_of([checkpoint, *others])))


def limited(stream: Stream, scope: Scope, seconds: float = 120) -> Checkpoint:
    """Give a stream that met a limit at noon."""
    event = RateLimited(scope, 1, NOON, at(seconds), RATE_LIMIT)
    return given(run_started(), sweep_started(), event, after=Checkpoint(stream.key))


# --- the state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "state"),
    [
        (WALKING, State.SYNCING),
        ((*WALKING, FetchFailed(1, NETWORK, at(4))), State.RETRYING),
        ((*WALKING, LIMITED), State.RATE_LIMITED),
        ((*WALKING, LIMITED, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=RATE_LIMIT)), State.RATE_LIMITED),
        ((*WALKING, COMPLETED), State.COMPLETE),
        ((*WALKING, LETTER, SweepCompleted(Mode.FULL, NOON, NOON, Tally(dead_lettered=1))), State.COMPLETE_WITH_ERRORS),
        ((*WALKING, OUT_OF_TIME), State.PAUSED),
        ((*WALKING, *GIVEN_UP), State.FAILED),
        ((*WALKING, UNAUTHORIZED), State.STOPPED),
        ((*WALKING, INTERRUPTED), State.INTERRUPTED),
    ],
)
def test_the_state_is_what_the_last_entries_say(events: Sequence[Event], state: State) -> None:
    assert stands(*events).state is state


def test_every_status_of_a_run_that_ended_is_a_state() -> None:
    ended = {status.value for status in RunStatus} - {RunStatus.RUNNING.value}
    assert ended <= {state.value for state in State}


def test_a_stream_without_a_past_waits_for_nothing_but_its_turn() -> None:
    assert standing_of(Checkpoint(STREAM.key)) == Condition(State.NEVER_SYNCED, None, None, None, NOON)
    assert standing_of(Checkpoint(STREAM.key), at_work=False).next_run_at is None


@pytest.mark.parametrize("events", [WALKING, (*WALKING, FetchFailed(1, NETWORK, at(4))), (*WALKING, LIMITED)])
def test_a_run_that_is_open_where_no_milepost_is_at_work_is_interrupted(events: Sequence[Event]) -> None:
    assert stands(*events, at_work=False).state is State.INTERRUPTED


@pytest.mark.parametrize("ended", [OUT_OF_TIME, INTERRUPTED])
def test_whoever_has_more_to_read_and_may_not_ask_for_it_is_rate_limited(ended: RunEnded) -> None:
    assert stands(*WALKING, LIMITED, ended).state is State.RATE_LIMITED


def test_a_limit_that_is_over_holds_nobody() -> None:
    paused = given(*WALKING, LIMITED, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=RATE_LIMIT))
    found = standing_of(paused, at(120))
    assert (found.state, found.next_run_at) == (State.PAUSED, at(120))


# --- waits ------------------------------------------------------------------------------------------------------------


def test_a_run_that_gets_on_waits_for_nothing() -> None:
    assert stands(*WALKING) == Condition(State.SYNCING, None, None, None, None)


def test_a_retry_waits_from_the_failure_to_the_next_attempt() -> None:
    found = stands(*WALKING, FetchFailed(1, NETWORK, at(4)))
    assert found.wait == Wait("the next attempt at a batch that could not be read", NOON, at(4), NETWORK)
    assert found.advice is not None
    assert found.advice.startswith("nothing to do, as it is tried again by itself")


def test_a_limit_is_waited_for_since_it_was_first_met() -> None:
    found = stands(*WALKING, LIMITED)
    assert found.wait == Wait("the page's rate limit", at(-60), at(120), RATE_LIMIT)
    assert found.advice is not None
    assert found.advice.startswith("nothing to do")
    assert found.next_run_at is None  # the run goes on by itself


def test_the_next_run_does_not_begin_inside_a_pause() -> None:
    found = stands(*WALKING, LIMITED, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=RATE_LIMIT))
    assert found.next_run_at == at(120)


def test_the_apps_limit_that_one_stream_met_is_waited_for_by_another_and_named() -> None:
    waiting = standing_of(given(*WALKING), NOON, limited(OTHER, Scope.APP))
    expected = Wait("the app's rate limit (which messenger:2 met)", NOON, at(120 + PROBE_LEAD_SECONDS), RATE_LIMIT)
    assert (waiting.state, waiting.wait) == (State.RATE_LIMITED, expected)


def test_the_pages_limit_holds_the_same_page_only() -> None:
    assert standing_of(given(*WALKING), NOON, limited(SIBLING, Scope.PAGE)).state is State.RATE_LIMITED
    assert standing_of(given(*WALKING), NOON, limited(OTHER, Scope.PAGE)).state is State.SYNCING


def test_a_complete_stream_waits_for_a_limit_only_where_that_puts_off_its_next_run() -> None:
    complete = given(*WALKING, COMPLETED)
    short = standing_of(complete, NOON, limited(OTHER, Scope.APP, 120))
    assert (short.state, short.wait, short.next_run_at) == (State.COMPLETE, None, at(300))
    long = standing_of(complete, NOON, limited(OTHER, Scope.APP, 3600))
    assert (long.state, long.next_run_at) == (State.COMPLETE, at(3600 + PROBE_LEAD_SECONDS))
    assert long.wait is not None
    assert long.wait.waits_for == "the app's rate limit (which messenger:2 met)"


def test_a_limit_is_told_where_no_milepost_is_at_work_because_a_sync_would_meet_it() -> None:
    paused = given(*WALKING, LIMITED, RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=RATE_LIMIT))
    found = standing_of(paused, at_work=False)
    assert (found.state, found.next_run_at) == (State.RATE_LIMITED, None)
    assert limit_on(STREAM, rate_limits_of([paused]), at(119)) == found.wait
    died = standing_of(given(*WALKING, LIMITED), at_work=False)
    assert (died.state, died.wait) == (State.INTERRUPTED, found.wait)


@pytest.mark.parametrize(
    ("ended", "waits_for", "probe_seconds"),
    [
        (UNAUTHORIZED, "somebody to mend the token or a permission", AUTHORIZATION_PROBE_SECONDS),
        (MISCONFIGURED, "somebody to mend the configuration", CONFIGURATION_PROBE_SECONDS),
    ],
)
def test_a_stopped_stream_waits_since_it_first_stopped_until_it_is_probed(
    ended: RunEnded, waits_for: str, probe_seconds: float
) -> None:
    first = given(*WALKING, ended)
    again = given(run_started(at(1800)), ended, after=first, run_id="run-2", recorded_at=at(1801))
    found = standing_of(again, at(1900))
    assert found.state is State.STOPPED
    assert found.wait == Wait(waits_for, NOON, at(1800 + probe_seconds), ended.problem)
    assert found.next_run_at == at(1800 + probe_seconds)
    assert found.advice is not None
    assert "nothing to do" not in found.advice


def test_a_failed_stream_waits_for_the_next_try_and_counts_the_runs() -> None:
    failed = given(*WALKING, *GIVEN_UP)
    assert standing_of(failed).wait == Wait("the next try", NOON, at(300), NETWORK)
    again = given(run_started(at(300)), *GIVEN_UP, after=failed, run_id="run-2", recorded_at=at(310))
    assert standing_of(again, at(310)).wait == Wait(
        "the next try, after 2 runs in a row that failed", NOON, at(600), NETWORK
    )


def test_a_failed_stream_is_parked_for_minutes_however_long_the_interval() -> None:
    surroundings = ConditionContext(NOON, is_at_work=True, interval_seconds=86400.0, batch_size=50)
    assert condition(given(*WALKING, *GIVEN_UP), surroundings).next_run_at == at(MAX_PARK_SECONDS)


@pytest.mark.parametrize("ended", [UNAUTHORIZED, *GIVEN_UP[1:], OUT_OF_TIME])
def test_nobody_can_say_until_when_where_no_milepost_is_at_work(ended: RunEnded) -> None:
    found = stands(*WALKING, ended, at_work=False)
    assert found.wait is not None
    assert (found.wait.since, found.wait.until, found.next_run_at) == (NOON, None, None)


@pytest.mark.parametrize("ended", [OUT_OF_TIME, INTERRUPTED])
def test_a_run_that_ended_early_waits_for_the_next_one(ended: RunEnded) -> None:
    wait = stands(*WALKING, ended).wait
    assert wait is not None
    assert wait.waits_for == "the next run, which goes on where the last one ended"
    assert wait.since == NOON


def test_a_run_that_ended_between_two_attempts_still_tells_the_problem() -> None:
    wait = stands(*WALKING, FetchFailed(1, NETWORK, at(4)), OUT_OF_TIME).wait
    assert wait is not None
    assert wait.problem == NETWORK


def test_what_a_good_batch_ended_is_waited_for_no_more() -> None:
    recovered = (*WALKING, UNAUTHORIZED, BatchStored(walking("c2"), Tally(batches=1)), COMPLETED)
    assert stands(*recovered) == Condition(State.COMPLETE, None, None, None, at(300))


# --- remarks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "detail", "words"),
    [
        (6, Detail.NESTED, "asks for 6 conversations at a time, because of this: it went wrong (code 1)"),
        (1, Detail.NESTED, "asks for 1 conversation at a time, because"),
        (1, Detail.SEPARATE, "for its messages by themselves, because"),
        (1, Detail.BARE, "asks for 1 conversation without its messages, because"),
        (1, Detail.POSITION, "asks for the place of 1 conversation only, to step over it, because"),
    ],
)
def test_a_stream_that_asks_for_less_says_how_much_and_why(limit: int, detail: Detail, words: str) -> None:
    found = stands(*WALKING, BatchShrunk(limit, detail, problem(1)))
    assert found.remark is not None
    assert words in found.remark


def test_the_remark_grows_with_what_is_asked_for_and_ends_with_the_whole_batch() -> None:
    shrunk = given(*WALKING, BatchShrunk(25, Detail.NESTED, problem(1)))
    four = given(BatchStored(walking("c2"), Tally(batches=4)), after=shrunk)
    remark = standing_of(four).remark
    assert remark is not None
    assert "25 conversations" in remark
    assert standing_of(given(BatchStored(walking("c3"), Tally(batches=1)), after=four)).remark is None


def test_open_dead_letters_are_explained_where_nothing_worse_is() -> None:
    dead_letters = stands(*WALKING, LETTER, COMPLETED).advice
    assert dead_letters is not None
    assert "milepost dead-letters list" in dead_letters
    stopped = stands(*WALKING, LETTER, UNAUTHORIZED).advice
    assert stopped is not None
    assert "access_token" in stopped


class TestOnHold:
    def test_waits_for_somebody_and_says_who_paused_it_and_how_to_resume_it(self) -> None:
        operator_pause = stands(COMPLETED, StreamPaused("API from 10.0.0.7"))

        assert operator_pause.state is State.ON_HOLD
        assert operator_pause.wait == Wait("somebody to resume it", NOON, None)
        assert operator_pause.advice is not None
        assert operator_pause.advice.startswith("API from 10.0.0.7 paused it")
        assert f"POST /api/streams/{STREAM.key}/resume" in operator_pause.advice
        assert operator_pause.next_run_at is None

    def test_hides_what_else_is_the_matter_until_it_is_resumed(self) -> None:
        events = (*WALKING, LIMITED, StreamPaused("API"))

        assert stands(*events).state is State.ON_HOLD
        assert stands(*events, at_work=False).state is State.ON_HOLD
        assert stands(*events, StreamResumed("API")).state is State.RATE_LIMITED
