"""Which lines are told and which are counted, when what was counted is told, and what that line says."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog import DropEvent

from kit.binary import until
from milepost.service.logs.dedup import (
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
    """What is logged, at the seconds of a clock that a test moves, and what is told of it."""

    seconds: float = 0.0
    told: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.repeats = Deduplicator(lambda event: self.told.append(dict(event)), lambda: self.seconds)

    def line(self, line: Line, **fields: object) -> None:
        """Log a line."""
        event = {**line, **fields, "timestamp": f"at {self.seconds:g}"}
        with suppress(DropEvent):
            self.told.append(dict(self.repeats(None, "", event)))

    def streams(self, line: Line, numbers: range, **fields: object) -> None:
        """Log a line of each of these streams."""
        for number in numbers:
            self.line(line, stream=f"messenger:{number}", **fields)

    def pass_on(self, seconds: float) -> None:
        """Let the time pass, and tell what is due."""
        self.seconds += seconds
        self.repeats.tell_due()

    def taken(self) -> list[Line]:
        """Take what was told since this was taken."""
        told, self.told = self.told, []
        return told


@pytest.fixture
def log() -> Log:
    return Log()


def counts(told: list[Line]) -> list[int]:
    """Say of each line how many it stands for; 0 is one that was told by itself."""
    return [line.get("repeated", 0) for line in told]


# --- what is told at once ---------------------------------------------------------------------------------------------


def test_the_first_is_told_at_once_and_as_it_is(log: Log) -> None:
    log.line(AWAY, stream="messenger:1", attempts=1)
    assert log.taken() == [{**AWAY, "stream": "messenger:1", "attempts": 1, "timestamp": "at 0"}]


def test_what_repeats_is_held_and_told_when_the_window_ends_as_one_line(log: Log) -> None:
    for attempts in range(1, 6):
        log.line(AWAY, stream="messenger:1", attempts=attempts)
        log.pass_on(1)
    assert counts(log.taken()) == [0]
    log.pass_on(FIRST_WINDOW_SECONDS)
    assert log.taken() == [{**AWAY, "stream": "messenger:1", "repeated": 4, "since": "at 1"}]


def test_the_line_is_told_with_whatever_is_logged_next_where_nobody_looked(log: Log) -> None:
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
    ],
)
def test_another_level_event_or_reason_is_another_kind(log: Log, other: Line) -> None:
    log.line(AWAY, stream="messenger:1")
    log.line(other, stream="messenger:1")
    assert counts(log.taken()) == [0, 0]


@pytest.mark.parametrize("level", ["debug", "info", "critical"])
def test_what_is_no_trouble_or_the_last_that_a_process_says_is_never_held(log: Log, level: str) -> None:
    for _ in range(3):
        log.line({"event": "batch stored", "level": level})
    assert counts(log.taken()) == [0, 0, 0]


@pytest.mark.parametrize("event", ["database available again", "stream recovered"])
def test_the_end_of_a_trouble_is_told_once_however_many_had_it(log: Log, event: str) -> None:
    log.streams({"event": event, "level": "info"}, range(50))
    log.pass_on(FIRST_WINDOW_SECONDS)
    assert counts(log.taken()) == [0, 49]


# --- many streams -----------------------------------------------------------------------------------------------------


def test_a_warning_is_told_of_the_first_stream_and_counted_for_the_others_which_are_named(log: Log) -> None:
    log.streams(AWAY, range(3), run="r", attempts=1, hint="make room")
    log.pass_on(FIRST_WINDOW_SECONDS)
    first, others = log.taken()
    assert first["stream"] == "messenger:0"
    assert others["streams"] == ["messenger:1", "messenger:2"]
    assert (others["hint"], others["run"], others["repeated"]) == ("make room", "r", 2), "what they have in common"
    assert "stream" not in others


def test_an_error_is_told_of_every_stream_that_is_newly_hit_up_to_ten(log: Log) -> None:
    log.streams(STOPPED, range(MAX_ERRORS_APART + 5))
    log.streams(STOPPED, range(MAX_ERRORS_APART + 5))
    told = log.taken()
    assert [line["stream"] for line in told] == [f"messenger:{number}" for number in range(MAX_ERRORS_APART)]
    log.pass_on(FIRST_WINDOW_SECONDS)
    (rest,) = log.taken()
    assert rest["repeated"] == MAX_ERRORS_APART + 10
    assert {f"messenger:{MAX_ERRORS_APART + number}" for number in range(5)} <= set(rest["streams"])


def test_an_error_of_a_stream_that_is_hit_while_another_repeats_is_told_at_once(log: Log) -> None:
    log.line(STOPPED, stream="messenger:1")
    for _ in range(100):
        log.line(STOPPED, stream="messenger:1")
        log.pass_on(1)
    log.taken()
    log.line(STOPPED, stream="messenger:2")
    assert [line["stream"] for line in log.taken()] == ["messenger:2"]


def test_every_stream_is_named_in_some_line_however_many_there_are(log: Log) -> None:
    log.streams(STOPPED, range(1_000))
    log.pass_on(FIRST_WINDOW_SECONDS)
    told = log.taken()
    named = {name for line in told for name in line.get("streams", [line.get("stream")])}
    assert named == {f"messenger:{number}" for number in range(1_000)}
    assert len(told) == MAX_ERRORS_APART + 1_000 // MAX_STREAMS
    assert max(len(line.get("streams", ())) for line in told) == MAX_STREAMS


# --- time -------------------------------------------------------------------------------------------------------------


def test_windows_grow_while_there_are_repeats_so_that_a_long_outage_takes_few_lines(log: Log) -> None:
    for _ in range(8 * 3600):
        log.line(AWAY, stream="messenger:1")
        log.pass_on(1)
    told = counts(log.taken())
    assert told[:5] == [0, 9, 20, 40, 80]
    assert max(told) == MAX_WINDOW_SECONDS
    assert len(told) == 100


def test_what_was_not_repeated_in_its_window_is_told_at_once_when_it_comes_again(log: Log) -> None:
    for _ in range(5):
        log.line(AWAY)
        log.pass_on(FIRST_WINDOW_SECONDS)
    assert counts(log.taken()) == [0, 0, 0, 0, 0]


def test_what_ends_is_forgotten_a_window_later(log: Log) -> None:
    log.line(AWAY)
    log.line(AWAY)
    log.pass_on(FIRST_WINDOW_SECONDS)
    log.pass_on(2 * FIRST_WINDOW_SECONDS)
    log.line(AWAY)
    assert counts(log.taken()) == [0, 1, 0]


def test_in_the_end_all_that_is_held_is_told(log: Log) -> None:
    log.streams(AWAY, range(3))
    log.streams(STOPPED, range(20))
    log.taken()
    log.repeats.tell_all()
    assert counts(log.taken()) == [2, 10]
    log.repeats.tell_all()
    assert log.taken() == []


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_of_endlessly_many_kinds_the_most_are_counted_by_their_level(log: Log) -> None:
    for number in range(10_000):
        log.line(AWAY, reason=f"reason {number}", CODE_LINE=number)
    assert len(log.taken()) == MAX_KINDS + 1
    assert len(log.repeats._kinds) == MAX_KINDS + 1
    log.pass_on(FIRST_WINDOW_SECONDS)
    (rest,) = log.taken()
    assert (rest["level"], rest["event"], rest["repeated"]) == (
        "warning",
        "database unavailable, retrying",
        10_000 - MAX_KINDS - 1,
    )
    assert "reason" not in rest


def test_what_has_not_even_the_event_in_common_is_told_as_well(log: Log) -> None:
    for number in range(MAX_KINDS + 5):
        log.line({"event": f"event {number}", "level": "warning"})
    log.pass_on(FIRST_WINDOW_SECONDS)
    assert log.taken()[-1] == {"event": "more of many kinds", "level": "warning", "repeated": 4, "since": "at 0"}


# --- in a daemon ------------------------------------------------------------------------------------------------------


async def test_a_daemon_tells_in_time_though_nothing_else_is_logged_and_the_rest_when_it_ends(log: Log) -> None:
    async with log.repeats.told_in_time():
        log.line(AWAY)
        log.line(AWAY)
        log.seconds = FIRST_WINDOW_SECONDS
        await until(lambda: len(log.told) == 2)
        log.line(AWAY)
    assert counts(log.taken()) == [0, 1, 1]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_breaks_the_daemon_breaks_out_as_it_is(log: Log) -> None:
    log.line(AWAY)
    log.line(AWAY)
    with pytest.raises(ZeroDivisionError):
        async with log.repeats.told_in_time():
            raise ZeroDivisionError
    assert counts(log.taken()) == [0, 1]
