"""Counts, durations and instants in words, and rows in columns."""

from datetime import timedelta, timezone

import pytest

from kit.builders import NOON, at, problem
from milepost.reporting.humanize import ago, ahead, clock, counted, in_columns, lasting, on_one_line, waiting


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (1.9, "1 second"),
        (99, "99 seconds"),
        (100, "1 minute"),
        (240, "4 minutes"),
        (99 * 60, "99 minutes"),
        (100 * 60, "1 hour"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (4000 * 86400, "4,000 days"),
    ],
)
def test_a_duration_is_in_the_largest_unit_that_says_enough(seconds: float, words: str) -> None:
    assert lasting(seconds) == words


def test_a_past_instant_is_ago_and_no_instant_is_never() -> None:
    assert ago(at(-240), NOON) == "4 minutes ago"
    assert ago(at(-0.5), NOON) == "just now"
    assert ago(None, NOON) == "never"


def test_an_instant_in_the_future_by_another_clock_is_just_now() -> None:
    assert ago(at(7200), NOON) == "just now"


def test_a_future_instant_is_ahead_until_it_has_come() -> None:
    assert ahead(at(240), NOON) == "in 4 minutes"
    assert ahead(at(0.5), NOON) == "now"
    assert ahead(at(-240), NOON) == "now"


def test_an_instant_is_a_time_of_day_with_the_date_if_it_is_another_day() -> None:
    assert clock(at(7500), NOON) == "14:05 UTC"
    assert clock(at(86400), NOON) == "2026-03-02 12:00 UTC"
    assert clock(at(7500).astimezone(timezone(timedelta(hours=9))), NOON) == "14:05 UTC"


def test_a_wait_says_since_when_and_until_when_as_far_as_that_is_known() -> None:
    since = "since 11:56 UTC (4 minutes ago)"
    assert waiting("a token", None, None, NOON) == "waits for a token"
    assert waiting("a token", at(-240), None, NOON) == f"waits for a token, {since}"
    both = waiting("a token", at(-240), at(1800), NOON)
    assert both == f"waits for a token, {since}, until 12:30 UTC (in 30 minutes)"


def test_counts_agree_with_their_noun() -> None:
    assert counted(1, "entry", "entries") == "1 entry"
    assert counted(0, "entry", "entries") == "0 entries"
    assert counted(1234, "run") == "1,234 runs"


@pytest.mark.parametrize("foul", ["a\nb", "a\r\nb", "a\x1b[2Jb", "a\u202eb", "a\u2028b", "a\x00b"])
def test_untrusted_text_cannot_control_the_terminal(foul: str) -> None:
    line = on_one_line(foul)
    assert line.isprintable()
    assert line.startswith("a")
    assert line.endswith("b")


def test_a_problem_is_shown_with_its_codes() -> None:
    assert on_one_line(problem(190, http_status=400)) == "it went wrong (HTTP 400, code 190)"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert in_columns([("a", "1", "x"), ("bcd", "234", "")], right=frozenset({1})) == ["a      1  x", "bcd  234"]
