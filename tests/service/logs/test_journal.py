"""The journal as log lines: what operators read, how loud it is, and what it tells them to do."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from kit.builders import (
    DEAD_TOKEN,
    NETWORK,
    NOON,
    RATE_LIMIT,
    RUN_ID,
    STREAM,
    at,
    contact,
    conversation,
    fetched,
    given,
    message,
    problem,
    refused,
    run_started,
    sweep_started,
    unreadable,
    walking,
)
from kit.memory_store import MemoryStore
from kit.notices import passed, recorded, store_retried, told_by_a_run, usage_told
from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Mode,
    Phase,
    Position,
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
    StreamResumed,
    SweepCompleted,
    SyncRequested,
    Tally,
    TokenChecked,
)
from milepost.core.model import Detail, Scope, TokenHealth
from milepost.core.ports import Outcome
from milepost.engine.feed import Notice
from milepost.reporting.advice import advice_on
from milepost.service.logs.journal import HINTS, read

Line = dict[str, Any]


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def lines(*notices: Notice) -> list[Line]:
    with capture_logs() as captured:
        for notice in notices:
            read(notice)
    return [dict(line) for line in captured]


def line_of(*events: Event) -> Line:
    """Give the line of the last of these events, which are recorded in a run that has stored two batches."""
    before = given(run_started(), sweep_started(), BatchStored(walking("a"), Tally(batches=2, inserted=9)))
    line = lines(recorded(*events, after=before))[-1]
    assert (line.pop("stream"), line.pop("run")) == (STREAM.key, RUN_ID)
    return line


def completed(tally: Tally) -> SweepCompleted:
    return SweepCompleted(Mode.FULL, NOON, NOON, tally)


def test_each_entry_has_a_line_of_its_own_in_their_order() -> None:
    stored = BatchStored(walking("a"), Tally(batches=1, inserted=1))
    told = lines(recorded(run_started(), sweep_started(), stored))
    assert [line["event"] for line in told] == ["run started", "sweep started", "batch stored"]


def test_what_has_no_entry_and_is_no_trouble_has_no_line() -> None:
    assert lines(passed(), usage_told()) == []


def test_a_stored_batch_tells_its_number_in_the_run_and_what_it_brought() -> None:
    tally = Tally(batches=2, inserted=3, updated=2, unchanged=45, contacts=3, interaction_events=17)
    assert line_of(BatchStored(walking("b"), tally)) == {
        "event": "batch stored",
        "log_level": "info",
        "batch": 4,
        "inserted": 3,
        "updated": 2,
        "unchanged": 45,
        "contacts": 3,
        "interaction_events": 17,
    }


def test_batches_that_changed_nothing_are_not_called_stored() -> None:
    line = line_of(BatchStored(walking("b"), Tally(batches=2, unchanged=100)))
    assert line == {"event": "batch unchanged", "log_level": "debug", "batch": 4, "unchanged": 100}


def test_a_batch_tells_how_far_back_it_reached() -> None:
    reached = Position(Phase.WALK, "b", at(-60))
    assert line_of(BatchStored(reached, Tally(batches=1, inserted=1)))["reached"] == "2026-03-01T11:59:00+00:00"


def test_a_sweep_tells_how_far_back_it_goes() -> None:
    assert line_of(sweep_started())["back_to"] == "the oldest"
    until_noon = line_of(sweep_started(Mode.INCREMENTAL, walk_until=NOON))
    assert (until_noon["mode"], until_noon["back_to"]) == ("incremental", "2026-03-01T12:00:00+00:00")


def test_a_completed_sweep_sums_up_its_run() -> None:
    line = line_of(completed(Tally(batches=1, updated=4)))
    expected = {"mode": "full", "status": "complete", "seconds": 0.0, "batches": 3, "inserted": 9, "updated": 4}
    assert line == {"event": "sweep completed", "log_level": "info"} | expected


def test_a_failed_attempt_tells_which_batch_and_when_it_is_tried_again() -> None:
    assert line_of(FetchFailed(2, NETWORK, at(4.25))) == {
        "event": "batch not read",
        "log_level": "warning",
        "batch": 3,
        "attempt": 2,
        "wait_seconds": 4.2,
        "problem": "it went wrong",
    }


def test_a_batch_given_up_is_a_warning_as_the_error_follows() -> None:
    line = line_of(BatchFailed(Stage.FETCH, 3, NETWORK))
    assert (line["event"], line["log_level"], line["batch"], line["attempts"]) == ("batch given up", "warning", 3, 3)


def test_a_rate_limit_is_a_warning_with_its_scope_its_length_and_that_nothing_need_be_done() -> None:
    assert line_of(RateLimited(Scope.APP, 2, at(-60), at(120), RATE_LIMIT)) == {
        "event": "rate limited",
        "log_level": "warning",
        "batch": 3,
        "scope": "app",
        "attempts": 2,
        "since": "2026-03-01T11:59:00+00:00",
        "until": "2026-03-01T12:02:00+00:00",
        "wait_seconds": 120.0,
        "problem": "it went wrong (code 613)",
        "hint": "nothing to do: it continues when the limit is over; further calls would prolong it",
    }


def test_the_end_of_a_run_at_a_limit_does_not_warn_again() -> None:
    limited = RateLimited(Scope.PAGE, 1, NOON, at(3600), RATE_LIMIT)
    ended = RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=RATE_LIMIT)
    assert [line["log_level"] for line in lines(recorded(limited, ended))] == ["warning", "info"]


def test_a_shrink_tells_what_is_asked_for_now_and_why() -> None:
    assert line_of(BatchShrunk(25, Detail.NESTED, problem(1))) == {
        "event": "asks for less",
        "log_level": "info",
        "batch": 3,
        "asked_for": "25 conversations at a time",
        "problem": "it went wrong (code 1)",
    }


def test_a_reset_says_that_the_walk_begins_again() -> None:
    line = line_of(CursorLost(problem(2642)))
    assert (line["event"], line["log_level"], line["problem"]) == (
        "cursor refused",
        "warning",
        "it went wrong (code 2642)",
    )
    assert "begins again at the head" in line["hint"]


def test_a_dead_letter_says_what_and_why_and_when_it_is_tried_again() -> None:
    line = line_of(DeadLetterOpened("abc123", Stage.FETCH, "t_7", "id: expected str", at(900)))
    assert (line["event"], line["log_level"]) == ("dead letter opened", "warning")
    assert (line["dead_letter"], line["subject"], line["reason"]) == ("abc123", "t_7", "id: expected str")
    assert line["hint"] == "its payload is kept; it is tried again by itself at 2026-03-01T12:15:00+00:00"


def test_a_redrive_that_failed_tells_its_number_and_when_the_next_is() -> None:
    assert line_of(RedriveFailed("abc123", 2, "still refused", at(1800))) == {
        "event": "redrive failed",
        "log_level": "warning",
        "dead_letter": "abc123",
        "attempts": 2,
        "reason": "still refused",
        "hint": "it is tried again by itself at 2026-03-01T12:30:00+00:00",
    }


def test_a_dead_letter_that_nobody_tries_again_names_the_command_that_shows_it() -> None:
    line = line_of(RedriveFailed("abc123", 10, "still refused"))
    assert line["hint"] == "it is not tried again by itself: see `milepost dead-letters show abc123`"


def test_a_dead_letter_that_is_closed_says_how_and_what_was_written() -> None:
    assert line_of(DeadLetterClosed("abc123", Resolution.REDRIVEN, Tally(inserted=1, interaction_events=4))) == {
        "event": "dead letter closed",
        "log_level": "info",
        "dead_letter": "abc123",
        "resolution": "redriven",
        "inserted": 1,
        "interaction_events": 4,
    }


def test_what_a_person_wrote_of_a_discarded_letter_is_in_no_line() -> None:
    line = line_of(DeadLetterClosed("abc123", Resolution.DISCARDED, reason="Ada asked for it"))
    assert line["resolution"] == "discarded"
    assert "Ada" not in str(line)


@pytest.mark.parametrize(
    ("ended", "level", "words"),
    [
        (RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT), "info", "run paused"),
        (RunEnded(RunStatus.PAUSED, Reason.BATCH_LIMIT), "info", "run paused"),
        (RunEnded(RunStatus.PAUSED, Reason.SHUTDOWN), "info", "run paused"),
        (RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=RATE_LIMIT), "info", "run paused"),
        (RunEnded(RunStatus.INTERRUPTED, Reason.PROCESS_DIED), "warning", "run interrupted"),
        (RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=NETWORK), "error", "run failed"),
        (RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN), "error", "run stopped"),
        (RunEnded(RunStatus.STOPPED, Reason.CONFIGURATION, problem=DEAD_TOKEN), "error", "run stopped"),
    ],
)
def test_a_run_that_ends_is_as_loud_as_it_needs_a_person(ended: RunEnded, level: str, words: str) -> None:
    line = line_of(ended)
    assert (line["event"], line["log_level"], line["reason"]) == (words, level, ended.reason.value)
    assert (line["status"], line["batches"], line["inserted"]) == (ended.status.value, 2, 9)
    assert line["hint"] == (advice_on(ended.problem, STREAM) if ended.problem else HINTS[ended.reason])
    assert line.get("problem") == (str(ended.problem) if ended.problem else None)


def test_every_reason_has_a_hint() -> None:
    assert HINTS.keys() == set(Reason)


def test_a_stopped_run_says_what_to_do() -> None:
    stopped = line_of(RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN))
    assert "give page 1234567890 a new access_token" in stopped["hint"]
    assert stopped["problem"] == "it went wrong (code 190)"


def test_a_store_that_is_away_and_returns_is_told() -> None:
    assert lines(store_retried()) == [
        {
            "event": "store away",
            "log_level": "warning",
            "stream": STREAM.key,
            "attempts": 3,
            "away_seconds": 12.3,
            "wait_seconds": 4.0,
            "reason": "the disk is full",
        }
    ]
    returned = line_of(StoreReturned(61.04, 5))
    assert returned == {"event": "store returned", "log_level": "info", "away_seconds": 61.0, "attempts": 5}


def test_what_people_ask_for_is_told_with_who_asked() -> None:
    by = "API from 127.0.0.1"
    assert line_of(StreamPaused(by)) == {
        "event": "stream paused",
        "log_level": "warning",
        "by": by,
        "hint": "it is not worked until somebody resumes it",
    }
    assert line_of(StreamResumed(by)) == {"event": "stream resumed", "log_level": "info", "by": by}
    assert line_of(SyncRequested(by, full=True)) == {
        "event": "sync asked for",
        "log_level": "info",
        "by": by,
        "full": True,
    }
    assert line_of(StreamRemoved("command line")) == {
        "event": "stream removed",
        "log_level": "warning",
        "by": "command line",
        "hint": "its rows are gone; if it is worked again, it begins anew",
    }


def test_a_token_that_is_not_valid_is_worth_a_warning() -> None:
    valid, invalid = (line_of(TokenChecked(TokenHealth(is_valid))) for is_valid in (True, False))
    assert (valid["event"], valid["log_level"]) == ("token checked", "info")
    assert (invalid["log_level"], invalid["found"]) == ("warning", "the token is no longer valid")


async def test_nothing_personal_is_in_any_line() -> None:
    ada = conversation("t_1", of=contact(name="Ada Personal", username="ada.personal"), snippet="personal", messages=[
        message(text="my personal address"),
    ])  # fmt: skip
    bad = unreadable(payload='{"name": "Bea Personal"}')
    outcomes: list[Outcome] = [fetched(ada, bad, next_cursor="cursor"), refused(NETWORK), fetched(ada), fetched(ada)]
    told = lines(*await told_by_a_run(MemoryStore(), outcomes))
    assert {line["event"] for line in told} >= {
        "batch stored",
        "dead letter opened",
        "batch not read",
        "sweep completed",
    }
    assert "personal" not in str(told).lower()
