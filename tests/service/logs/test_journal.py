"""The journal as log lines: a line an entry as it is described, the number of its batch, and recoveries."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from msgspec.structs import replace
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
    entries,
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
from milepost.core import events
from milepost.core.events import Reason, Resolution, RunEnded, RunStatus, Stage, Tally
from milepost.core.model import Detail
from milepost.core.ports import Outcome
from milepost.core.position import Mode
from milepost.core.problems import Scope
from milepost.engine.feed import Notice
from milepost.reporting.describe import describe
from milepost.service.logs.lines import JournalLog
from reporting.test_describe import CASES

Line = dict[str, Any]

# Two batches were stored.
BEFORE = given(run_started(), sweep_started(), events.BatchStored(walking("a"), Tally(batches=2, inserted=9)))

FAILED = RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=NETWORK)
STOPPED = RunEnded(RunStatus.STOPPED, Reason.AUTHORIZATION, problem=DEAD_TOKEN)
STORED = events.BatchStored(walking("a"), Tally(batches=1, inserted=1))
COMPLETED = events.SweepCompleted(Mode.FULL, NOON, NOON, Tally())


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def lines(*notices: Notice) -> list[Line]:
    log = JournalLog()
    with capture_logs() as captured:
        for notice in notices:
            log.read(notice)
    return [dict(line) for line in captured]


def line_of(*happened: events.Event) -> Line:
    """Return the last line of a commit of these events."""
    return lines(recorded(*happened, after=BEFORE))[-1]


# --- a line an entry --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", list(CASES), ids=lambda value: type(value).__name__)
def test_an_entry_has_a_line_with_its_description(event: events.Event) -> None:
    notice = recorded(event, after=BEFORE)
    description = describe(notice.entries[0], notice.checkpoint.run)
    (line,) = lines(notice)
    line.pop("batch", None)
    assert line == {
        "event": description.title,
        "log_level": description.level.name.lower(),
        "stream": STREAM.key,
        "run": RUN_ID,
        **description.fields,
    } | ({} if description.hint is None else {"hint": description.hint})


def test_the_lines_of_a_commit_keep_the_order_of_its_entries() -> None:
    stored = events.BatchStored(walking("a"), Tally(batches=1, inserted=1))
    written = lines(recorded(run_started(), sweep_started(), stored))
    assert [line["event"] for line in written] == ["run started", "sweep started", "batch stored"]


def test_notices_without_an_entry_have_no_line_but_for_an_unavailable_database() -> None:
    assert lines(passed(), usage_told()) == []
    assert lines(store_retried()) == [
        {
            "event": "database unavailable, retrying",
            "log_level": "warning",
            "stream": STREAM.key,
            "attempts": 3,
            "away_seconds": 12.3,
            "wait_seconds": 4.0,
            "reason": "the disk is full",
        }
    ]


@pytest.mark.parametrize(
    ("event", "batch"),
    [
        (events.BatchStored(walking("b"), Tally(batches=2, inserted=3)), 4),
        (events.BatchStored(walking("b"), Tally(batches=2, unchanged=100)), 4),
        (events.FetchFailed(2, NETWORK, at(4.25)), 3),
        (events.BatchFailed(Stage.FETCH, 3, NETWORK), 3),
        (events.BatchShrunk(25, Detail.NESTED, problem(1)), 3),
        (events.RateLimited(Scope.APP, 2, at(-60), at(120), RATE_LIMIT), 3),
        (events.CursorLost(problem(2642)), 3),
        (events.DeadLetterOpened("d_1", Stage.FETCH, "t_7", "id: expected str", at(900)), 2),
        (events.RedriveFailed("d_1", 2, "still refused", at(1800)), None),
        (COMPLETED, None),
        (FAILED, None),
    ],
)
def test_a_line_has_the_number_in_its_run_of_the_batch_it_is_about(event: events.Event, batch: int | None) -> None:
    assert line_of(event).get("batch") == batch


def test_a_dead_letter_has_the_number_of_the_batch_it_was_committed_with() -> None:
    opened = events.DeadLetterOpened("d_1", Stage.FETCH, "t_7", "id: expected str", at(900))
    written = lines(recorded(opened, events.BatchStored(walking("b"), Tally(1, 1, dead_lettered=1)), after=BEFORE))
    assert [line["batch"] for line in written] == [3, 3]


def test_the_end_of_a_run_at_a_rate_limit_does_not_warn_again() -> None:
    limited = events.RateLimited(Scope.PAGE, 1, NOON, at(3600), RATE_LIMIT)
    ended = RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=RATE_LIMIT)
    assert [line["log_level"] for line in lines(recorded(limited, ended))] == ["warning", "info"]


def test_what_an_operator_wrote_about_a_discarded_dead_letter_is_in_no_line() -> None:
    line = line_of(events.DeadLetterClosed("abc123", Resolution.DISCARDED, reason="Ada asked for it"))
    assert line["resolution"] == "discarded"
    assert "Ada" not in str(line)


async def test_nothing_personal_is_in_any_line() -> None:
    ada = conversation("t_1", of=contact(name="Ada Personal", username="ada.personal"), snippet="personal", messages=[
        message(text="my personal address"),
    ])  # fmt: skip
    bad = unreadable(payload='{"name": "Bea Personal"}')
    outcomes: list[Outcome] = [fetched(ada, bad, next_cursor="cursor"), refused(NETWORK), fetched(ada), fetched(ada)]
    written = lines(*await told_by_a_run(MemoryStore(), outcomes))
    assert {line["event"] for line in written} >= {
        "batch stored",
        "dead letter opened",
        "fetch failed, retrying",
        "sweep completed",
    }
    assert "personal" not in str(written).lower()


# --- recoveries -------------------------------------------------------------------------------------------------------


def recoveries(*happened: events.Event) -> list[str]:
    """Return the streams that are reported as recovered when these events are committed one by one."""
    written = lines(*(recorded(event, after=BEFORE) for event in happened))
    return [line["stream"] for line in written if line["event"] == "stream recovered"]


@pytest.mark.parametrize("error", [FAILED, STOPPED])
@pytest.mark.parametrize("progress", [STORED, COMPLETED])
def test_the_first_progress_after_an_error_is_a_recovery_and_later_progress_is_not(
    error: events.Event, progress: events.Event
) -> None:
    assert recoveries(error, progress, progress) == [STREAM.key]


def test_a_stream_that_failed_many_times_recovers_once() -> None:
    assert recoveries(FAILED, FAILED, FAILED, STORED, STORED) == [STREAM.key]


@pytest.mark.parametrize(
    "before",
    [
        events.FetchFailed(1, NETWORK, at(2)),
        RunEnded(RunStatus.PAUSED, Reason.TIME_LIMIT),
        RunEnded(RunStatus.INTERRUPTED, Reason.BROKE_OFF),
    ],
)
def test_progress_after_what_was_no_error_is_no_recovery(before: events.Event) -> None:
    assert recoveries(before, STORED) == []


def test_another_failure_is_no_recovery() -> None:
    assert recoveries(FAILED, events.FetchFailed(1, NETWORK, at(2)), FAILED) == []


def test_a_recovery_says_in_which_run_and_after_how_long() -> None:
    later = replace(recorded(STORED, after=BEFORE), entries=entries(STORED, after=BEFORE, recorded_at=at(90)))
    line = lines(recorded(FAILED, after=BEFORE), passed(), later)[-1]
    assert (line["event"], line["log_level"]) == ("stream recovered", "info")
    assert (line["run"], line["after_seconds"]) == (RUN_ID, 90.0)
