"""Notices in words: what to do, how many, and nothing that somebody else has written."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.builders import NOON, STREAM, at
from milepost.core.events import Stage
from milepost.core.model import Platform, Stream
from milepost.core.notices import Concern, DeadLetterNews, NewDeadLetter, NoticeKind, PeopleNotice
from milepost.core.problems import Problem, ProblemKind
from milepost.reporting.health import Issue, IssueKind
from milepost.reporting.notices import (
    STORE_AWAY_AFTER,
    concerns_of_daemon,
    is_of_this_process,
    notice_in_words,
    trial_notice,
)

EXPIRED = Problem(ProblemKind.API, "Session of Ada Lovelace has expired", 400, 190, 463)
LATER = at(600)


def concern(kind: NoticeKind, page_id: str = STREAM.page_id, problem: Problem | None = None) -> Concern:
    ends_at = LATER + timedelta(days=4) if kind is NoticeKind.TOKEN_EXPIRING else None
    return Concern(kind, page_id, "cause", NOON, (Stream(Platform.MESSENGER, page_id),), problem, ends_at)


def news(count: int = 3, reason: str = "Hello from Ada (HTTP 500, code 1)") -> DeadLetterNews:
    return DeadLetterNews(NewDeadLetter("a", Stage.FETCH, reason, STREAM, NOON), count, frozenset({STREAM}))


def test_a_stop_says_since_when_why_and_what_to_do() -> None:
    told = notice_in_words(PeopleNotice(NoticeKind.STOPPED, (concern(NoticeKind.STOPPED, problem=EXPIRED),)), LATER)
    assert told.title == "Milepost: page 1234567890 is stopped"
    what, to_do, lost = told.body.splitlines()
    assert what == (
        "Nothing has been copied from stream messenger:1234567890 since 12:00 UTC (10 minutes ago). Why: the API"
        " refuses the calls (HTTP 400, code 190, subcode 463)."
    )
    assert to_do.startswith("What to do: the token has expired: give page 1234567890 a new access_token")
    assert lost == "Nothing is lost: the streams continue from their place when it is done."


def test_many_pages_are_counted_and_the_first_ones_named() -> None:
    many = tuple(concern(NoticeKind.STOPPED, str(number), EXPIRED) for number in range(50))
    told = notice_in_words(PeopleNotice(NoticeKind.STOPPED, many, again=True), LATER)
    assert told.title == "Milepost: 50 pages are still stopped"
    assert "messenger:11 and 38 more since" in told.body
    assert told.body.count("What to do") == 3
    assert "Likewise for 47 more pages." in told.body


def test_a_stop_without_a_known_problem_says_where_to_look() -> None:
    told = notice_in_words(PeopleNotice(NoticeKind.STOPPED, (concern(NoticeKind.STOPPED),)), LATER)
    assert "What to do: `milepost status` says more." in told.body


def test_a_token_says_when_it_ends() -> None:
    told = notice_in_words(PeopleNotice(NoticeKind.TOKEN_EXPIRING, (concern(NoticeKind.TOKEN_EXPIRING),)), LATER)
    assert told.title == "Milepost: the token of page 1234567890 will end"
    assert told.body.startswith(
        "The token of page 1234567890 ends at 2026-03-05 12:10 UTC (in 4 days).\nWhat to do: give"
    )


def test_dead_letters_are_counted_by_reason() -> None:
    told = notice_in_words(PeopleNotice(NoticeKind.DEAD_LETTERS, dead_letters=(news(), news(1, "?"))), LATER)
    assert told.title == "Milepost: 4 new dead letters"
    assert told.body.splitlines()[:2] == [
        "3 dead letters in stream messenger:1234567890: it could not be read (HTTP 500, code 1).",
        "1 dead letter in stream messenger:1234567890: it could not be read.",
    ]
    assert "`milepost dead-letters list`" in told.body


def test_a_short_outage_of_the_database_is_no_concern() -> None:
    away = Issue(IssueKind.STORE_AWAY, "the database is unavailable", NOON, "password=secret")
    unsubscribed = Issue(IssueKind.UNSUBSCRIBED, "no webhooks", NOON)
    assert not list(concerns_of_daemon([away, unsubscribed], NOON + STORE_AWAY_AFTER - timedelta(seconds=1)))
    (found,) = concerns_of_daemon([away], NOON + STORE_AWAY_AFTER)
    notice = PeopleNotice(NoticeKind.STALLED, (found,))
    told = notice_in_words(notice, NOON + STORE_AWAY_AFTER)
    assert told.title == "Milepost: stalled"
    assert "the database is unavailable" in told.body
    assert not is_of_this_process(notice)


def test_only_its_own_runs_are_of_this_process() -> None:
    (found,) = concerns_of_daemon([Issue(IssueKind.STALLED, "streams are stalled")], NOON)
    assert is_of_this_process(PeopleNotice(NoticeKind.STALLED, (found,)))
    assert is_of_this_process(PeopleNotice(NoticeKind.RECOVERED, (found,)))


def test_runs_that_fail_are_told_without_the_error() -> None:
    issue = Issue(IssueKind.RUNS_FAIL, "the runs of 2 streams fail", NOON, "permission denied for table ada")
    concerns = tuple(concerns_of_daemon([issue], LATER))
    told = notice_in_words(PeopleNotice(NoticeKind.STALLED, concerns), LATER)
    assert "runs fail one after the other" in told.body
    assert "ada" not in told.body
    assert is_of_this_process(PeopleNotice(NoticeKind.STALLED, concerns))
    over = notice_in_words(PeopleNotice(NoticeKind.RECOVERED, concerns), LATER)
    assert over.body == "Runs succeed again."


def test_what_is_over_is_listed_once() -> None:
    over = (
        concern(NoticeKind.STOPPED),
        concern(NoticeKind.STOPPED),
        concern(NoticeKind.TOKEN_EXPIRING),
        *concerns_of_daemon(
            [Issue(IssueKind.STORE_AWAY, "away", NOON), Issue(IssueKind.STALLED, "stalled")], NOON + STORE_AWAY_AFTER
        ),
    )
    told = notice_in_words(PeopleNotice(NoticeKind.RECOVERED, over), LATER)
    assert told.body.splitlines() == [
        "stream messenger:1234567890 is copied again.",
        "The token of page 1234567890 was renewed.",
        "The database is available again.",
        "Runs end again.",
    ]


_KINDS = [kind for kind in NoticeKind if kind not in (NoticeKind.DEAD_LETTERS, NoticeKind.RECOVERED)]


@pytest.mark.parametrize("kind", _KINDS)
@given(message=st.text(alphabet=st.characters(codec="utf-8"), min_size=1), again=st.booleans())
def test_no_word_of_an_error_reaches_people(kind: NoticeKind, message: str, again: bool) -> None:
    """The notice is the same whatever the API says."""
    words = [
        notice_in_words(
            PeopleNotice(kind, (concern(kind, problem=Problem(ProblemKind.INVALID_RESPONSE, said, 400)),), again=again),
            LATER,
        )
        for said in (f"secret-word {message}", "another")
    ]
    assert words[0] == words[1]


@given(st.text())
def test_no_word_of_a_dead_letters_reason_reaches_people(reason: str) -> None:
    told = notice_in_words(PeopleNotice(NoticeKind.DEAD_LETTERS, dead_letters=(news(2, f"secret {reason}"),)), LATER)
    assert "secret" not in told.body


def test_a_trial_says_that_it_is_one() -> None:
    assert "test" in trial_notice().body
