"""Which lines are logged and which are counted, when the summary of the counted ones comes, and what it says."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog import DropEvent

from kit.binary import until
from milepost.service.logs.output import (
    FIRST_WINDOW_SECONDS,
    MAX_ERRORS_APART,
    MAX_KINDS,
    MAX_STREAMS,
    MAX_WINDOW_SECONDS,
    Deduplicator,
)

Line = dict[str, Any]
AWAY = {"event": "database unavailable, retrying", "level": "warning", "reason": "the disk is full"}
STOPPED = {"event": "run stopped", "level": "error", "problem": "the token is dead"}


@dataclass
class Log:
    """A deduplicated log whose clock is moved by the test."""

    seconds: float = 0.0
    lines: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.deduplicator = Deduplicator(lambda event: self.lines.append(dict(event)), lambda: self.seconds)

    def line(self, line: Line, **fields: object) -> None:
        """Log a line."""
        event = {**line, **fields, "timestamp": f"at {self.seconds:g}"}
        with suppress(DropEvent):
            self.lines.append(dict(self.deduplicator(None, "", event)))

    def streams(self, line: Line, numbers: range, **fields: object) -> None:
        """Log a line of each of these streams."""
        for number in numbers:
            self.line(line, stream=f"messenger:{number}", **fields)

    def elapse(self, seconds: float) -> None:
        """Let the time pass, and emit what is due."""
        self.seconds += seconds
        self.deduplicator.flush_due()

    def taken(self) -> list[Line]:
        """Return the lines since the last call."""
        lines, self.lines = self.lines, []
        return lines


@pytest.fixture
def log() -> Log:
    return Log()


def counts(lines: list[Line]) -> list[int]:
    """Return how many lines each line sums up; 0 is a line of its own."""
    return [line.get("repeated", 0) for line in lines]


# --- what is logged at once -------------------------------------------------------------------------------------------


def test_the_first_line_is_logged_at_once_and_as_it_is(log: Log) -> None:
    log.line(AWAY, stream="messenger:1", attempts=1)
    assert log.taken() == [{**AWAY, "stream": "messenger:1", "attempts": 1, "timestamp": "at 0"}]


def test_repeats_are_held_and_summed_up_in_one_line_when_the_window_ends(log: Log) -> None:
    for attempts in range(1, 6):
        log.line(AWAY, stream="messenger:1", attempts=attempts)
        log.elapse(1)
    assert counts(log.taken()) == [0]
    log.elapse(FIRST_WINDOW_SECONDS)
    assert log.taken() == [{**AWAY, "stream": "messenger:1", "repeated": 4, "since": "at 1"}]


def test_a_summary_that_is_due_comes_with_whatever_is_logged_next(log: Log) -> None:
    log.line(AWAY)
    log.line(AWAY)
    log.seconds = FIRST_WINDOW_SECONDS
    log.line({"event": "batch stored", "level": "info"})
    assert [line["event"] for line in log.taken()] == [
        "database unavailable, retrying",
        "database unavailable, retrying",
        "batch stored",
    ]


@pytest.mark.parametrize(
    "other",
    [
        {**AWAY, "event": "fetch failed, retrying"},
        {**AWAY, "level": "error"},
        {**AWAY, "reason": "the database is locked"},
        {**AWAY, "problem": "no connection"},
        {**AWAY, "error": "no connection"},
        {**AWAY, "exception": "Traceback…"},
        {**AWAY, "destination": "crm"},
        {**AWAY, "keys": ["store.url"]},
        {**AWAY, "view": "public.contacts"},
    ],
)
def test_another_level_event_reason_or_subject_is_another_kind(log: Log, other: Line) -> None:
    log.line(AWAY, stream="messenger:1")
    log.line(other, stream="messenger:1")
    assert counts(log.taken()) == [0, 0]


@pytest.mark.parametrize("level", ["debug", "info", "critical"])
def test_routine_lines_and_the_last_words_of_a_process_are_never_held(log: Log, level: str) -> None:
    for _ in range(3):
        log.line({"event": "batch stored", "level": level})
    assert counts(log.taken()) == [0, 0, 0]


@pytest.mark.parametrize("event", ["database available again", "stream recovered", "batch size reduced"])
def test_what_comes_with_many_streams_or_batches_is_logged_once(log: Log, event: str) -> None:
    log.streams({"event": event, "level": "info"}, range(50))
    log.elapse(FIRST_WINDOW_SECONDS)
    assert counts(log.taken()) == [0, 49]


# --- many streams -----------------------------------------------------------------------------------------------------


def test_a_warning_is_logged_for_the_first_stream_and_counted_with_the_names_of_the_others(log: Log) -> None:
    log.streams(AWAY, range(3), run="r", attempts=1, hint="make room")
    log.elapse(FIRST_WINDOW_SECONDS)
    first, others = log.taken()
    assert first["stream"] == "messenger:0"
    assert others["streams"] == ["messenger:1", "messenger:2"]
    assert (others["hint"], others["run"], others["repeated"]) == ("make room", "r", 2), "what they have in common"
    assert "stream" not in others


def test_an_error_is_logged_for_every_stream_that_is_newly_hit_up_to_ten(log: Log) -> None:
    log.streams(STOPPED, range(MAX_ERRORS_APART + 5))
    log.streams(STOPPED, range(MAX_ERRORS_APART + 5))
    lines = log.taken()
    assert [line["stream"] for line in lines] == [f"messenger:{number}" for number in range(MAX_ERRORS_APART)]
    log.elapse(FIRST_WINDOW_SECONDS)
    (rest,) = log.taken()
    assert rest["repeated"] == MAX_ERRORS_APART + 10
    assert {f"messenger:{MAX_ERRORS_APART + number}" for number in range(5)} <= set(rest["streams"])


def test_an_error_of_another_stream_is_logged_at_once_while_the_first_repeats(log: Log) -> None:
    log.line(STOPPED, stream="messenger:1")
    for _ in range(100):
        log.line(STOPPED, stream="messenger:1")
        log.elapse(1)
    log.taken()
    log.line(STOPPED, stream="messenger:2")
    assert [line["stream"] for line in log.taken()] == ["messenger:2"]


def test_every_stream_is_named_in_some_line_however_many_there_are(log: Log) -> None:
    log.streams(STOPPED, range(1_000))
    log.elapse(FIRST_WINDOW_SECONDS)
    lines = log.taken()
    named = {name for line in lines for name in line.get("streams", [line.get("stream")])}
    assert named == {f"messenger:{number}" for number in range(1_000)}
    assert len(lines) == MAX_ERRORS_APART + 1_000 // MAX_STREAMS
    assert max(len(line.get("streams", ())) for line in lines) == MAX_STREAMS


# --- time -------------------------------------------------------------------------------------------------------------


def test_windows_grow_while_there_are_repeats_so_that_a_long_outage_takes_few_lines(log: Log) -> None:
    for _ in range(8 * 3600):
        log.line(AWAY, stream="messenger:1")
        log.elapse(1)
    sums = counts(log.taken())
    assert sums[:5] == [0, 9, 20, 40, 80]
    assert max(sums) == MAX_WINDOW_SECONDS
    assert len(sums) == 100


def test_a_line_that_was_not_repeated_in_its_window_is_logged_at_once_when_it_comes_again(log: Log) -> None:
    for _ in range(5):
        log.line(AWAY)
        log.elapse(FIRST_WINDOW_SECONDS)
    assert counts(log.taken()) == [0, 0, 0, 0, 0]


def test_a_kind_is_forgotten_a_window_after_its_last_repeat(log: Log) -> None:
    log.line(AWAY)
    log.line(AWAY)
    log.elapse(FIRST_WINDOW_SECONDS)
    log.elapse(2 * FIRST_WINDOW_SECONDS)
    log.line(AWAY)
    assert counts(log.taken()) == [0, 1, 0]


def test_a_flush_emits_all_that_is_held(log: Log) -> None:
    log.streams(AWAY, range(3))
    log.streams(STOPPED, range(20))
    log.taken()
    log.deduplicator.flush()
    assert counts(log.taken()) == [2, 10]
    log.deduplicator.flush()
    assert log.taken() == []


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_kinds_beyond_the_limit_are_counted_by_their_level(log: Log) -> None:
    for number in range(10_000):
        log.line(AWAY, reason=f"reason {number}", CODE_LINE=number)
    assert len(log.taken()) == MAX_KINDS + 1
    assert len(log.deduplicator._kinds) == MAX_KINDS + 1
    log.elapse(FIRST_WINDOW_SECONDS)
    (rest,) = log.taken()
    assert (rest["level"], rest["event"], rest["repeated"]) == (
        "warning",
        "database unavailable, retrying",
        10_000 - MAX_KINDS - 1,
    )
    assert "reason" not in rest


def test_lines_without_a_common_event_are_summed_up_too(log: Log) -> None:
    for number in range(MAX_KINDS + 5):
        log.line({"event": f"event {number}", "level": "warning"})
    log.elapse(FIRST_WINDOW_SECONDS)
    assert log.taken()[-1] == {"event": "more of many kinds", "level": "warning", "repeated": 4, "since": "at 0"}


# --- in a daemon ------------------------------------------------------------------------------------------------------


async def test_a_daemon_emits_summaries_in_time_and_the_rest_when_it_ends(log: Log) -> None:
    async with log.deduplicator.flushing():
        log.line(AWAY)
        log.line(AWAY)
        log.seconds = FIRST_WINDOW_SECONDS
        await until(lambda: len(log.lines) == 2)
        log.line(AWAY)
    assert counts(log.taken()) == [0, 1, 1]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_error_of_the_daemon_passes_through(log: Log) -> None:
    log.line(AWAY)
    log.line(AWAY)
    with pytest.raises(ZeroDivisionError):
        async with log.deduplicator.flushing():
            raise ZeroDivisionError
    assert counts(log.taken()) == [0, 1]
