"""What a person is advised to do about each problem, besides what Milepost does about it."""

import pytest

from kit.builders import STREAM, problem
from milepost.core import doubts
from milepost.core.model import Platform, Stream
from milepost.core.problems import BAD_SIGNATURE, RULES, Problem, ProblemKind, Remedy, rule_for
from milepost.reporting.advice import ADVICE, PERMISSIONS, advice_on

INSTAGRAM = Stream(Platform.INSTAGRAM, "77")
CODES = (*range(500), 613, 2500, 2635, 2642, *range(80000, 80015))
STOPS = {Remedy.STOP_AUTHORIZATION, Remedy.STOP_CONFIGURATION}


def with_message(what: Problem, message: str) -> Problem:
    return Problem(what.kind, message, what.http_status, what.code, what.subcode)


@pytest.mark.parametrize(
    ("subcode", "words"),
    [
        (None, "not valid"),
        (458, "removed the app"),
        (459, "log in at facebook.com"),
        (460, "changed the password"),
        (463, "expired"),
        (464, "log in at facebook.com"),
        (467, "invalidated"),
        (492, "a role on page 1234567890"),
    ],
)
def test_every_invalid_token_calls_for_a_new_one_and_says_where_to_put_it(subcode: int | None, words: str) -> None:
    advice = advice_on(problem(190, subcode=subcode), STREAM)
    assert words in advice
    assert "give page 1234567890 a new access_token" in advice
    assert "access_token_file" in advice
    assert "without a restart, unless it is a credential of a systemd unit" in advice


@pytest.mark.parametrize("code", [3, 10, 200, 230, 299])
def test_a_missing_permission_is_named_for_the_platform(code: int) -> None:
    assert "pages_messaging, pages_manage_metadata and pages_read_engagement" in advice_on(problem(code), STREAM)
    advice = advice_on(problem(code), INSTAGRAM)
    assert "instagram_basic, instagram_manage_messages" in advice
    assert "pages_messaging" not in advice
    assert "page 77" in advice


@pytest.mark.parametrize("code", [102, 190, 492, *range(200, 300), 3, 10])
def test_every_stop_for_authorization_mentions_a_new_token(code: int) -> None:
    assert "new access_token" in advice_on(problem(code), STREAM)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (problem(104), "source.app_secret"),
        (with_message(problem(100), f"API calls require an {BAD_SIGNATURE} argument"), "source.app_secret"),
        (problem(12), "source.version"),
        (problem(2635), "source.version"),
        (problem(100, subcode=33), "whether page 1234567890 still exists"),
        (problem(100), "report"),
        (problem(2500), "report"),
        (problem(368), "support inbox of page 1234567890"),
        (problem(kind=ProblemKind.MISCONFIGURED), "config.yaml"),
        (problem(kind=ProblemKind.NOT_MANAGED), "source.access_token no longer manages page 1234567890"),
        (problem(kind=ProblemKind.NETWORK), "network and source.base_url"),
        (problem(kind=ProblemKind.TIMEOUT), "source.request_timeout"),
        (problem(kind=ProblemKind.CURSOR_LOOP), "report"),
        (problem(kind=ProblemKind.NO_PROGRESS), "sync.max_run_duration"),
        (problem(kind=ProblemKind.FALSE_END), "restarts at the head"),
        (problem(kind=ProblemKind.EMPTY_INBOX), "pages_messaging"),
        (problem(kind=ProblemKind.MOST_MISSING), "after a day"),
        (problem(kind=ProblemKind.MESSAGES_MISSING), "count as unsent"),
        (problem(kind=ProblemKind.OUT_OF_ORDER), "until the order is back"),
        (problem(2642), "restarts at the head"),
        (problem(2), "metastatus.com"),
    ],
)
def test_the_advice_names_what_to_check(what: Problem, words: str) -> None:
    assert words in advice_on(what, STREAM)


def problems() -> list[Problem]:
    """Return every code with and without what the rules depend on, and every kind without a code."""
    return [
        *(problem(code, subcode=subcode) for code in CODES for subcode in (None, 33, 99, 463)),
        *(problem(kind=kind, http_status=status) for kind in ProblemKind for status in (None, 429, 500)),
    ]


def refusals() -> list[Problem]:
    """Return those of a request: an answer that is doubted is no refusal, and a person may know better."""
    return [each for each in problems() if each.kind not in set(doubts.KINDS) - set(doubts.WITHOUT_PROGRESS)]


def test_only_a_problem_that_stops_a_stream_calls_for_action_at_once() -> None:
    for each in refusals():
        rule = rule_for(each, has_cursor=True)
        advice = advice_on(each, STREAM)
        is_automatic = advice.startswith("nothing to do")
        if rule.remedy in STOPS:
            assert not is_automatic, (each, advice)
        elif rule.remedy is Remedy.WAIT:
            assert is_automatic or "automatically" in advice, (each, advice)
        elif rule.then not in STOPS and each.code != 100:
            assert is_automatic, (each, advice)


def test_the_advice_for_a_rate_limit_is_not_to_call() -> None:
    for rule in RULES:
        for code in rule.codes or ():
            if rule.remedy is Remedy.WAIT and code != 368:
                assert "further calls would prolong it" in advice_on(problem(code), STREAM)
    assert "further calls would prolong it" in advice_on(problem(http_status=429), STREAM)


def test_advice_is_one_sentence_without_placeholders_on_either_platform() -> None:
    for row in ADVICE:
        for platform, permissions in PERMISSIONS.items():
            sentence = row.sentence.format(page="1", permissions=", ".join(permissions))
            assert sentence == sentence.strip()
            assert not sentence.endswith(".")
            assert "\n" not in sentence
            assert "{" not in sentence, platform


def test_the_servers_message_is_not_repeated() -> None:
    """It is shown beside the advice, and could contain anything."""
    assert "hunter2" not in advice_on(with_message(problem(190), "hunter2"), STREAM)
