"""The condition of a stream: its state and what it waits for, since when, until when, and what a person can do."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pytest
from msgspec.structs import replace

from kit.builders import (
    BAD_VERSION,
    DEAD_TOKEN,
    GAP,
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
from milepost.core import events
from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.model import Detail, Platform, Stream
from milepost.core.position import GapEnding, MessagesOwed, MessagesRead, Mode
from milepost.core.problems import Scope
from milepost.core.retry import (
    AUTHORIZATION_PROBE_SECONDS,
    CONFIGURATION_PROBE_SECONDS,
    MAX_PARK_SECONDS,
    PROBE_LEAD_SECONDS,
)
from milepost.core.walk import EPOCH
from milepost.reporting.advice import advice_on
from milepost.reporting.status import (
    Condition,
    ConditionContext,
    State,
    StoreOutage,
    Wait,
    condition,
    limit_on,
    rate_limits_of,
)

OTHER = Stream(Platform.MESSENGER, "2")
SIBLING = Stream(Platform.INSTAGRAM, STREAM.page_id)
WALKING = (run_started(), sweep_started(), events.BatchStored(walking("c1"), events.Tally(batches=1, inserted=50)))
COMPLETED = events.SweepCompleted(Mode.FULL, NOON, NOON, events.Tally(batches=1))
LETTER = events.DeadLetterOpened("dl_1", events.Stage.FETCH, "t_bad", "id: expected str")
LIMITED = events.RateLimited(Scope.PAGE, 2, at(-60), at(120), RATE_LIMIT)
GIVEN_UP = (
    events.BatchFailed(events.Stage.FETCH, 3, NETWORK),
    events.RunEnded(events.RunStatus.FAILED, events.Reason.RETRIES_EXHAUSTED, problem=NETWORK),
)
UNAUTHORIZED = events.RunEnded(events.RunStatus.STOPPED, events.Reason.AUTHORIZATION, problem=DEAD_TOKEN)
MISCONFIGURED = events.RunEnded(events.RunStatus.STOPPED, events.Reason.CONFIGURATION, problem=BAD_VERSION)
OUT_OF_TIME = events.RunEnded(events.RunStatus.PAUSED, events.Reason.TIME_LIMIT, walking("c1"))
INTERRUPTED = events.RunEnded(events.RunStatus.INTERRUPTED, events.Reason.PROCESS_DIED)


def context_at(
    now: datetime = NOON, *, at_work: bool = True, rate_limits: Mapping[Stream, RateLimit] | None = None
) -> ConditionContext:
    return ConditionContext(now, at_work, interval_seconds=300.0, batch_size=50, rate_limits=rate_limits or {})


def condition_after(*history: events.Event, now: datetime = NOON, at_work: bool = True) -> Condition:
    """Return the condition after events recorded at noon, with no other stream than this one."""
    return condition_of(given(*history), now, at_work=at_work)


def condition_of(checkpoint: Checkpoint, now: datetime = NOON, *others: Checkpoint, at_work: bool = True) -> Condition:
    return condition(checkpoint, context_at(now, at_work=at_work, rate_limits=rate_limits_of([checkpoint, *others])))


def limited(stream: Stream, scope: Scope, seconds: float = 120) -> Checkpoint:
    """Return a stream that met a rate limit at noon."""
    event = events.RateLimited(scope, 1, NOON, at(seconds), RATE_LIMIT)
    return given(run_started(), sweep_started(), event, after=Checkpoint(stream))


# --- the state --------------------------------------------------------------------------------------------------------


EVERY_STATE = {
    Checkpoint(STREAM): State.NEVER_SYNCED,
    given(*WALKING): State.SYNCING,
    given(*WALKING, events.FetchFailed(1, NETWORK, at(4))): State.RETRYING,
    given(*WALKING, LIMITED): State.RATE_LIMITED,
    given(
        *WALKING, LIMITED, events.RunEnded(events.RunStatus.PAUSED, events.Reason.RATE_LIMIT, problem=RATE_LIMIT)
    ): State.RATE_LIMITED,
    given(*WALKING, COMPLETED): State.COMPLETE,
    given(
        *WALKING, LETTER, events.SweepCompleted(Mode.FULL, NOON, NOON, events.Tally(dead_lettered=1))
    ): State.COMPLETE_WITH_ERRORS,
    given(*WALKING, OUT_OF_TIME): State.PAUSED,
    given(*WALKING, *GIVEN_UP): State.FAILED,
    given(*WALKING, UNAUTHORIZED): State.STOPPED,
    given(*WALKING, INTERRUPTED): State.INTERRUPTED,
    given(COMPLETED, events.StreamPaused("ada")): State.ON_HOLD,
}


@pytest.mark.parametrize(("checkpoint", "state"), EVERY_STATE.items())
def test_the_state_is_what_the_last_entries_say(checkpoint: Checkpoint, state: State) -> None:
    assert condition_of(checkpoint).state is state


def test_every_status_of_a_run_that_ended_is_a_state() -> None:
    ended = {status.value for status in events.RunStatus} - {events.RunStatus.RUNNING.value}
    assert ended <= {state.value for state in State}


def test_a_stream_without_a_past_waits_for_nothing_but_its_first_run() -> None:
    assert condition_of(Checkpoint(STREAM)) == Condition(State.NEVER_SYNCED, None, None, None, NOON)
    assert condition_of(Checkpoint(STREAM), at_work=False).next_run_at is None


@pytest.mark.parametrize("history", [WALKING, (*WALKING, events.FetchFailed(1, NETWORK, at(4))), (*WALKING, LIMITED)])
def test_a_run_that_is_open_where_no_milepost_is_at_work_is_interrupted(history: Sequence[events.Event]) -> None:
    assert condition_after(*history, at_work=False).state is State.INTERRUPTED


@pytest.mark.parametrize("ended", [OUT_OF_TIME, INTERRUPTED])
def test_a_stream_with_more_to_read_that_must_not_call_is_rate_limited(ended: events.RunEnded) -> None:
    assert condition_after(*WALKING, LIMITED, ended).state is State.RATE_LIMITED


def test_a_limit_that_is_over_holds_up_no_stream() -> None:
    paused = given(
        *WALKING, LIMITED, events.RunEnded(events.RunStatus.PAUSED, events.Reason.RATE_LIMIT, problem=RATE_LIMIT)
    )
    found = condition_of(paused, at(120))
    assert (found.state, found.next_run_at) == (State.PAUSED, at(120))


# --- waits ------------------------------------------------------------------------------------------------------------


def test_a_run_that_progresses_waits_for_nothing() -> None:
    assert condition_after(*WALKING) == Condition(State.SYNCING, None, None, None, None)


def test_a_retry_waits_from_the_failure_to_the_next_attempt() -> None:
    found = condition_after(*WALKING, events.FetchFailed(1, NETWORK, at(4)))
    assert found.wait == Wait("the next attempt at a batch that could not be read", NOON, at(4), NETWORK)
    assert found.advice is not None
    assert found.advice.startswith("nothing to do: it is retried automatically")


def test_a_limit_is_waited_for_since_it_was_first_met() -> None:
    found = condition_after(*WALKING, LIMITED)
    assert found.wait == Wait("the page's rate limit", at(-60), at(120), RATE_LIMIT, Scope.PAGE)
    assert found.advice is not None
    assert found.advice.startswith("nothing to do")
    assert found.next_run_at is None  # the run continues by itself


def test_the_next_run_does_not_begin_before_a_rate_limit_ends() -> None:
    found = condition_after(
        *WALKING, LIMITED, events.RunEnded(events.RunStatus.PAUSED, events.Reason.RATE_LIMIT, problem=RATE_LIMIT)
    )
    assert found.next_run_at == at(120)


def test_the_apps_limit_that_one_stream_met_is_waited_for_by_another_and_named() -> None:
    waiting = condition_of(given(*WALKING), NOON, limited(OTHER, Scope.APP))
    expected = Wait(
        "the app's rate limit (met by messenger:2)", NOON, at(120 + PROBE_LEAD_SECONDS), RATE_LIMIT, Scope.APP
    )
    assert (waiting.state, waiting.wait) == (State.RATE_LIMITED, expected)


def test_the_pages_limit_holds_the_same_page_only() -> None:
    assert condition_of(given(*WALKING), NOON, limited(SIBLING, Scope.PAGE)).state is State.RATE_LIMITED
    assert condition_of(given(*WALKING), NOON, limited(OTHER, Scope.PAGE)).state is State.SYNCING


def test_a_complete_stream_waits_for_a_limit_only_if_that_delays_its_next_run() -> None:
    complete = given(*WALKING, COMPLETED)
    short = condition_of(complete, NOON, limited(OTHER, Scope.APP, 120))
    assert (short.state, short.wait, short.next_run_at) == (State.COMPLETE, None, at(300))
    long = condition_of(complete, NOON, limited(OTHER, Scope.APP, 3600))
    assert (long.state, long.next_run_at) == (State.COMPLETE, at(3600 + PROBE_LEAD_SECONDS))
    assert long.wait is not None
    assert long.wait.waits_for == "the app's rate limit (met by messenger:2)"


def test_a_limit_is_shown_even_if_no_milepost_is_at_work_because_a_sync_would_meet_it() -> None:
    paused = given(
        *WALKING, LIMITED, events.RunEnded(events.RunStatus.PAUSED, events.Reason.RATE_LIMIT, problem=RATE_LIMIT)
    )
    found = condition_of(paused, at_work=False)
    assert (found.state, found.next_run_at) == (State.RATE_LIMITED, None)
    assert limit_on(STREAM, rate_limits_of([paused]), at(119)) == found.wait
    died = condition_of(given(*WALKING, LIMITED), at_work=False)
    assert (died.state, died.wait) == (State.INTERRUPTED, found.wait)


@pytest.mark.parametrize(
    ("ended", "waits_for", "probe_seconds"),
    [
        (UNAUTHORIZED, "the token or a permission to be fixed", AUTHORIZATION_PROBE_SECONDS),
        (MISCONFIGURED, "the configuration to be fixed", CONFIGURATION_PROBE_SECONDS),
    ],
)
def test_a_stopped_stream_waits_since_it_first_stopped_until_it_is_probed(
    ended: events.RunEnded, waits_for: str, probe_seconds: float
) -> None:
    first = given(*WALKING, ended)
    again = given(run_started(at(1800)), ended, after=first, run_id="run-2", recorded_at=at(1801))
    found = condition_of(again, at(1900))
    assert found.state is State.STOPPED
    assert found.wait == Wait(waits_for, NOON, at(1800 + probe_seconds), ended.problem)
    assert found.next_run_at == at(1800 + probe_seconds)
    assert found.advice is not None
    assert "nothing to do" not in found.advice


def test_a_failed_stream_waits_for_the_next_attempt_and_counts_the_runs() -> None:
    failed = given(*WALKING, *GIVEN_UP)
    assert condition_of(failed).wait == Wait("the next attempt", NOON, at(300), NETWORK)
    again = given(run_started(at(300)), *GIVEN_UP, after=failed, run_id="run-2", recorded_at=at(310))
    assert condition_of(again, at(310)).wait == Wait(
        "the next attempt, after 2 failed runs in a row", NOON, at(600), NETWORK
    )


def test_a_failed_stream_is_parked_for_minutes_however_long_the_interval() -> None:
    context = ConditionContext(NOON, is_at_work=True, interval_seconds=86400.0, batch_size=50)
    assert condition(given(*WALKING, *GIVEN_UP), context).next_run_at == at(MAX_PARK_SECONDS)


@pytest.mark.parametrize("ended", [UNAUTHORIZED, *GIVEN_UP[1:], OUT_OF_TIME])
def test_the_end_of_a_wait_is_unknown_if_no_milepost_is_at_work(ended: events.RunEnded) -> None:
    found = condition_after(*WALKING, ended, at_work=False)
    assert found.wait is not None
    assert (found.wait.since, found.wait.until, found.next_run_at) == (NOON, None, None)


@pytest.mark.parametrize("ended", [OUT_OF_TIME, INTERRUPTED])
def test_a_run_that_ended_early_waits_for_the_next_one(ended: events.RunEnded) -> None:
    wait = condition_after(*WALKING, ended).wait
    assert wait is not None
    assert wait.waits_for == "the next run, which continues where the last one ended"
    assert wait.since == NOON


def test_a_run_that_ended_between_two_attempts_still_shows_the_problem() -> None:
    wait = condition_after(*WALKING, events.FetchFailed(1, NETWORK, at(4)), OUT_OF_TIME).wait
    assert wait is not None
    assert wait.problem == NETWORK


@pytest.mark.parametrize(
    "ended", [UNAUTHORIZED, MISCONFIGURED, events.RunEnded(events.RunStatus.FAILED, events.Reason.RETRIES_EXHAUSTED)]
)
def test_a_run_that_ended_for_a_cause_of_its_own_shows_that_and_not_an_attempt_before_it(
    ended: events.RunEnded,
) -> None:
    cause = ended.problem or BAD_VERSION
    transient = (events.FetchFailed(1, NETWORK, at(4)), replace(ended, problem=cause))
    found = condition_after(*WALKING, *transient)
    assert found.wait is not None
    assert found.wait.problem == cause
    assert found.advice == advice_on(cause, STREAM)


def test_a_probe_of_a_stopped_stream_does_not_show_a_failed_attempt_of_the_run_before_it() -> None:
    stopped = given(*WALKING, events.FetchFailed(1, NETWORK, at(4)), UNAUTHORIZED)
    probing = given(run_started(at(1800)), after=stopped, run_id="run-2", recorded_at=at(1800))
    assert condition_of(probing, at(1801)) == Condition(State.SYNCING, None, None, None, None)


def test_a_run_that_waits_for_an_attempt_that_the_run_before_it_scheduled_is_retrying() -> None:
    failed = (events.FetchFailed(1, NETWORK, at(30)), OUT_OF_TIME)
    again = given(run_started(at(10)), after=given(*WALKING, *failed), run_id="run-2", recorded_at=at(10))
    found = condition_of(again, at(11))
    assert (found.state, found.wait and found.wait.until) == (State.RETRYING, at(30))


def test_a_good_batch_ends_the_wait_of_a_stopped_stream() -> None:
    recovered = (*WALKING, UNAUTHORIZED, events.BatchStored(walking("c2"), events.Tally(batches=1)), COMPLETED)
    assert condition_after(*recovered) == Condition(State.COMPLETE, None, None, None, at(300))


# --- what only the daemon knows ---------------------------------------------------------------------------------------


def condition_with(checkpoint: Checkpoint, **known: Any) -> Condition:  # noqa: ANN401
    context = replace(context_at(rate_limits=rate_limits_of([checkpoint])), **known)
    return condition(checkpoint, context)


AWAY = StoreOutage(at(-60), "the disk is full (make room)")


@pytest.mark.parametrize(("checkpoint", "state"), EVERY_STATE.items())
def test_while_the_database_is_away_no_stream_claims_to_get_on(checkpoint: Checkpoint, state: State) -> None:
    found = condition_with(checkpoint, store_outage=AWAY)
    at_rest = {State.COMPLETE, State.COMPLETE_WITH_ERRORS}
    if state in {State.RATE_LIMITED, State.FAILED, State.STOPPED, State.ON_HOLD} | at_rest:
        assert found == condition_with(checkpoint)
    else:
        assert (found.state, found.wait) == (State.RETRYING, Wait("the database", at(-60), None))
        assert found.advice == "it is unavailable: the disk is full (make room)"


@pytest.mark.parametrize(("checkpoint", "state"), EVERY_STATE.items())
def test_a_stream_that_waits_for_a_slot_says_so_unless_something_else_holds_it_up(
    checkpoint: Checkpoint, state: State
) -> None:
    found = condition_with(checkpoint, queued_since=at(-30))
    if state in {State.RATE_LIMITED, State.FAILED, State.STOPPED, State.ON_HOLD}:
        assert found == condition_with(checkpoint)
    else:
        assert found.state is State.QUEUED
        assert found.wait is not None
        assert (found.wait.waits_for[:11], found.wait.since) == ("a free slot", at(-30))


def test_a_stream_whose_calls_are_far_apart_says_why() -> None:
    why = "calls are 8 seconds apart, because 100% of the app's rate limit was reported as used"
    assert condition_with(given(*WALKING), slowed_down=why).remark == why
    shrunk = given(*WALKING, events.BatchShrunk(6, Detail.NESTED, problem(1)))
    remark = condition_with(shrunk, slowed_down=why).remark
    assert remark is not None
    assert remark.startswith("requests 6 conversations")
    assert remark.endswith(f"; {why}")


# --- remarks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "detail", "words"),
    [
        (6, Detail.NESTED, "requests 6 conversations at a time, because of this: it went wrong (code 1)"),
        (1, Detail.NESTED, "requests 1 conversation at a time, because"),
        (1, Detail.SEPARATE, "its messages separately, because"),
        (1, Detail.LEAN, "requests 1 conversation with its newest messages only, because"),
        (1, Detail.BARE, "requests 1 conversation without its messages, because"),
        (1, Detail.POSITION, "requests only the position of 1 conversation, to skip it, because"),
    ],
)
def test_a_stream_with_smaller_requests_says_how_small_and_why(limit: int, detail: Detail, words: str) -> None:
    found = condition_after(*WALKING, events.BatchShrunk(limit, detail, problem(1)))
    assert found.remark is not None
    assert words in found.remark


def test_the_remark_says_what_is_still_to_be_read_and_how_much_of_the_histories() -> None:
    history = replace(GAP, history_to=EPOCH)
    some = given(MessagesOwed((GAP, *(replace(history, gap_id=f"h_{n}") for n in range(1200)))))
    fewer = given(MessagesRead(GAP, ending=GapEnding.CLOSED), MessagesRead(history, ending=GapEnding.GONE), after=some)

    words = "1 conversation with older messages that are still to be read; "
    assert condition_of(some).remark == words + "history: 1,200 of 1,200 conversations still to read"
    assert condition_of(fewer).remark == "history: 1,199 of 1,200 conversations still to read"


def test_the_remark_follows_the_request_size_and_ends_with_the_whole_batch() -> None:
    shrunk = given(*WALKING, events.BatchShrunk(25, Detail.NESTED, problem(1)))
    four = given(events.BatchStored(walking("c2"), events.Tally(batches=4)), after=shrunk)
    remark = condition_of(four).remark
    assert remark is not None
    assert "25 conversations" in remark
    assert condition_of(given(events.BatchStored(walking("c3"), events.Tally(batches=1)), after=four)).remark is None


def test_a_stream_says_which_fields_it_reads_without() -> None:
    left_out = condition_after(*WALKING, events.FieldsLeftOut(("can_reply",)))
    assert left_out.remark == "reads without can_reply, which the API refuses by name"

    shrunk = condition_after(*WALKING, events.FieldsLeftOut(("link",)), events.BatchShrunk(6, Detail.NESTED, NETWORK))
    assert shrunk.remark is not None
    assert "6 conversations at a time" in shrunk.remark
    assert shrunk.remark.endswith("; reads without link, which the API refuses by name")

    assert condition_after(*WALKING, events.FieldsLeftOut(("link",)), events.FieldsLeftOut()).remark is None


def test_open_dead_letters_are_explained_unless_something_is_worse() -> None:
    dead_letters = condition_after(*WALKING, LETTER, COMPLETED).advice
    assert dead_letters is not None
    assert "milepost dead-letters list" in dead_letters
    stopped = condition_after(*WALKING, LETTER, UNAUTHORIZED).advice
    assert stopped is not None
    assert "access_token" in stopped


class TestOnHold:
    def test_a_paused_stream_waits_for_an_operator_and_says_who_paused_it_and_how_to_resume_it(self) -> None:
        operator_pause = condition_after(COMPLETED, events.StreamPaused("API from 10.0.0.7"))

        assert operator_pause.state is State.ON_HOLD
        assert operator_pause.wait == Wait("an operator to resume it", NOON, None)
        assert operator_pause.advice is not None
        assert operator_pause.advice.startswith("API from 10.0.0.7 paused it")
        assert f"`milepost resume {STREAM.key}`" in operator_pause.advice
        assert operator_pause.next_run_at is None

    def test_a_paused_stream_hides_every_other_problem_until_it_is_resumed(self) -> None:
        history = (*WALKING, LIMITED, events.StreamPaused("API"))

        assert condition_after(*history).state is State.ON_HOLD
        assert condition_after(*history, at_work=False).state is State.ON_HOLD
        assert condition_after(*history, events.StreamResumed("API")).state is State.RATE_LIMITED
