"""What is wrong with the daemon as a whole, in words."""

from kit.builders import NOON, at
from milepost.reporting.health import (
    Issue,
    IssueKind,
    in_a_sentence,
    most_serious_first,
    status_line,
    why_unready,
)

AWAY = Issue(IssueKind.STORE_AWAY, "the database is unavailable", NOON, "the disk is full")
UNDISCOVERED = Issue(IssueKind.DISCOVERY_FAILED, "the pages cannot be discovered", NOON, "it went wrong\n(code 190)")
IDLE = Issue(IssueKind.NOTHING_TO_DO, "there is no stream")


def test_the_database_comes_first_and_slow_calls_last() -> None:
    slow = Issue(IssueKind.SLOWED_DOWN, "calls are slowed down")
    assert most_serious_first([slow, UNDISCOVERED, IDLE, AWAY]) == (AWAY, IDLE, UNDISCOVERED, slow)


def test_a_sentence_says_what_since_when_and_why_on_one_line() -> None:
    assert (
        in_a_sentence(UNDISCOVERED, at(180))
        == "the pages cannot be discovered since 12:00 UTC (3 minutes ago): it went wrong (code 190)"
    )
    assert in_a_sentence(IDLE, NOON) == "there is no stream"


def test_the_status_line_begins_with_what_is_wrong_and_stands_still() -> None:
    line = status_line([AWAY, IDLE], "1 stream: 1 retrying", at(180))
    assert (
        line
        == "the database is unavailable since 12:00 UTC (the disk is full); there is no stream; 1 stream: 1 retrying"
    )
    assert status_line([AWAY, IDLE], "1 stream: 1 retrying", at(200)) == line
    assert status_line([], "1 stream: 1 syncing", NOON) == "1 stream: 1 syncing"


def test_only_what_keeps_everything_from_being_copied_makes_the_daemon_unready() -> None:
    assert why_unready([UNDISCOVERED], NOON) is None
    for kind in (IssueKind.GETTING_NOWHERE, IssueKind.RUNS_FAIL):
        assert why_unready([Issue(kind, "1 stream is in trouble, and the others are not")], NOON) is None
    assert why_unready([UNDISCOVERED, IDLE], NOON) == "there is no stream"
    assert why_unready([AWAY, UNDISCOVERED], at(1)) == (
        "the database is unavailable since 12:00 UTC (1 second ago): the disk is full"
    )
