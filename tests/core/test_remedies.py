"""remedies.rule_for: the remedy for each response of the Graph API, which docs/errors.md has as well."""

import re
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from kit.builders import problem
from milepost.core.problems import RULES, Problem, ProblemKind, Remedy, Scope, rule_for

RETRY, WAIT, SHRINK, RESET = Remedy.RETRY, Remedy.WAIT, Remedy.SHRINK, Remedy.RESET
AUTHORIZATION, CONFIGURATION = Remedy.STOP_AUTHORIZATION, Remedy.STOP_CONFIGURATION

HEAVY = "Please reduce the amount of data you're asking for, then retry your request"
LOCALISED = "Bitte später erneut versuchen: حدث خطأ غير معروف"
UNSIGNED = "Invalid appsecret_proof provided in the API argument"


class Answer(Struct, frozen=True):
    """An error response as it comes over the wire."""

    code: int | None = None
    subcode: int | None = None
    message: str = "An error"
    http_status: int = 400
    is_transient: bool | None = None
    kind: ProblemKind = ProblemKind.API

    @property
    def problem(self) -> Problem:
        return Problem(self.kind, self.message, self.http_status, self.code, self.subcode, self.is_transient)


def remedy(what: Problem, *, has_cursor: bool = True) -> Remedy:
    return rule_for(what, has_cursor=has_cursor).remedy


# What is known of the API's errors: the response, its remedy, and what follows that.
FACTS = [
    # --- it may pass ---
    (Answer(1), RETRY, RETRY),
    (Answer(1, http_status=500), RETRY, RETRY),
    (Answer(1, message=LOCALISED, http_status=500), RETRY, RETRY),
    (Answer(1, is_transient=True), RETRY, RETRY),
    (Answer(2), RETRY, RETRY),
    (Answer(2, http_status=500, is_transient=True), RETRY, RETRY),
    (Answer(9_999, is_transient=True), RETRY, RETRY),
    (Answer(None, is_transient=True), RETRY, RETRY),
    # --- too much at once ---
    (Answer(1, message=HEAVY, http_status=500), SHRINK, RETRY),
    (Answer(1, message=HEAVY.upper()), SHRINK, RETRY),
    (Answer(1, message=HEAVY, http_status=200), SHRINK, RETRY),
    (Answer(1, 99, http_status=500), SHRINK, RETRY),
    (Answer(1, 99, message=LOCALISED), SHRINK, RETRY),
    # --- an operator is needed ---
    *((Answer(190, subcode), AUTHORIZATION, RETRY) for subcode in (None, 458, 459, 460, 463, 464, 467)),
    *((Answer(code), AUTHORIZATION, RETRY) for code in (102, 492, 3, 10, *range(200, 300))),
    (Answer(190, is_transient=True), AUTHORIZATION, RETRY),
    (Answer(190, message=LOCALISED, http_status=200), AUTHORIZATION, RETRY),
    (Answer(104), CONFIGURATION, RETRY),
    (Answer(100, message=UNSIGNED), CONFIGURATION, RETRY),
    (Answer(100, message=UNSIGNED.upper()), CONFIGURATION, RETRY),
    *((Answer(code), CONFIGURATION, RETRY) for code in (12, 21, 803, 2500, 2635)),
    (Answer(2635, message=LOCALISED), CONFIGURATION, RETRY),
    # --- the cursor, or the object ---
    (Answer(2642), RESET, RETRY),
    (Answer(2642, http_status=500), RESET, RETRY),
    (Answer(100), RESET, RETRY),
    (Answer(100, 1_234_567, message=LOCALISED), RESET, RETRY),
    (Answer(100, 33), RETRY, CONFIGURATION),
    # --- anything else ---
    *((Answer(code), RETRY, RETRY) for code in (5, 99, 199, 300, 79_999, 80_010, 999_999, -1, None)),
]

LIMITS = [
    (Answer(4), Scope.APP, 0.0),
    (Answer(4, http_status=403, is_transient=False), Scope.APP, 0.0),
    *((Answer(code), Scope.PAGE, 0.0) for code in (17, 32, 341, 613, *range(80_000, 80_010), 80_014)),
    (Answer(17, 2_446_079, is_transient=False), Scope.PAGE, 0.0),
    (Answer(80_006, http_status=403), Scope.PAGE, 0.0),
    (Answer(613, http_status=200, message=LOCALISED), Scope.PAGE, 0.0),
    (Answer(368), Scope.PAGE, 3600.0),
    (Answer(None, http_status=429), Scope.PAGE, 0.0),
    (Answer(9_999, http_status=429), Scope.PAGE, 0.0),
    (Answer(9_999, http_status=429, is_transient=True), Scope.PAGE, 0.0),
    (Answer(None, http_status=429, kind=ProblemKind.INVALID_RESPONSE), Scope.PAGE, 0.0),
]


@pytest.mark.parametrize(("answer", "expected", "then"), FACTS, ids=str)
def test_each_response_has_its_remedy(answer: Answer, expected: Remedy, then: Remedy) -> None:
    rule = rule_for(answer.problem, has_cursor=True)

    assert (rule.remedy, rule.then) == (expected, then)


@pytest.mark.parametrize(("answer", "scope", "least_wait_seconds"), LIMITS, ids=str)
def test_each_limit_has_its_scope_and_least_wait(answer: Answer, scope: Scope, least_wait_seconds: float) -> None:
    rule = rule_for(answer.problem, has_cursor=True)

    assert (rule.remedy, rule.scope, rule.least_wait_seconds) == (WAIT, scope, least_wait_seconds)


@pytest.mark.parametrize(
    ("kind", "expected", "then"),
    [
        (ProblemKind.NETWORK, RETRY, RETRY),
        (ProblemKind.TIMEOUT, RETRY, RETRY),
        (ProblemKind.INVALID_RESPONSE, RETRY, RETRY),
        (ProblemKind.API, RETRY, RETRY),
        (ProblemKind.OVERSIZE, SHRINK, RETRY),
        (ProblemKind.CURSOR_LOOP, RETRY, RESET),
        (ProblemKind.MISCONFIGURED, CONFIGURATION, RETRY),
        (ProblemKind.NOT_MANAGED, AUTHORIZATION, RETRY),
    ],
)
def test_each_failure_without_a_code_has_its_remedy(kind: ProblemKind, expected: Remedy, then: Remedy) -> None:
    rule = rule_for(problem(kind=kind), has_cursor=True)

    assert (rule.remedy, rule.then) == (expected, then)


@pytest.mark.parametrize("http_status", [200, 400, 401, 403, 404, 500, 502, 503])
@pytest.mark.parametrize(
    ("code", "expected"), [(1, RETRY), (4, WAIT), (613, WAIT), (190, AUTHORIZATION), (2635, CONFIGURATION)]
)
def test_the_http_status_does_not_mislead(code: int, http_status: int, expected: Remedy) -> None:
    assert remedy(problem(code, http_status=http_status)) is expected


@pytest.mark.parametrize("http_status", [400, 403, 404, 500, 502, 503])
@pytest.mark.parametrize("kind", [ProblemKind.INVALID_RESPONSE, ProblemKind.API])
def test_a_status_without_a_known_code_is_retried(kind: ProblemKind, http_status: int) -> None:
    assert remedy(problem(kind=kind, http_status=http_status)) is RETRY


def test_the_code_takes_precedence_over_the_http_status() -> None:
    assert remedy(problem(190, http_status=429)) is AUTHORIZATION


def test_the_code_takes_precedence_over_is_transient() -> None:
    assert remedy(problem(613, is_transient=True)) is WAIT
    assert remedy(problem(2635, is_transient=True)) is CONFIGURATION


@pytest.mark.parametrize("code", [100, 2642])
def test_a_complaint_about_the_cursor_is_about_the_query_if_none_was_sent(code: int) -> None:
    assert remedy(problem(code), has_cursor=True) is RESET
    assert remedy(problem(code), has_cursor=False) is CONFIGURATION


@pytest.mark.parametrize("code", [1, 4, 190, 2635])
def test_a_cursor_makes_no_other_difference(code: int) -> None:
    assert rule_for(problem(code), has_cursor=True) == rule_for(problem(code), has_cursor=False)


def test_the_phrase_counts_with_its_code_only() -> None:
    heavy = Answer(2, message=HEAVY).problem

    assert remedy(heavy) is RETRY
    assert remedy(replace(heavy, code=None)) is RETRY


def test_the_subcode_counts_with_its_code_only() -> None:
    assert remedy(problem(2, subcode=99)) is RETRY
    assert remedy(problem(2500, subcode=33)) is CONFIGURATION


def test_every_row_matches_some_fact_and_names_its_source() -> None:
    kinds = [problem(kind=kind) for kind in ProblemKind]
    answers = [answer.problem for answer, *_ in [*FACTS, *LIMITS]]
    met = [next(rule for rule in RULES if rule.fits(each)) for each in [*kinds, *answers]]

    assert [rule for rule in RULES if rule not in met] == []
    assert all(rule.source for rule in RULES)


def test_the_text_of_a_problem_has_its_numbers() -> None:
    text = str(Problem(ProblemKind.API, "the token has expired", http_status=400, code=190, subcode=463))

    assert text == "the token has expired (HTTP 400, code 190, subcode 463)"
    assert str(Problem(ProblemKind.NETWORK, "connection reset")) == "connection reset"


# --- docs/errors.md ---------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs/errors.md").read_text()
ROWS = re.findall(r"^\| ([^|]*\bcode[^|]*) \| (\w+) \|", PAGE, re.MULTILINE)


def problems_in(answer: str) -> list[Problem]:
    """Parse a row's first cell: codes and ranges of codes, code/subcode, and a quoted phrase after its code."""
    codes = re.sub(r"HTTP \d+|\d+xx|\d+ MiB", "", answer)
    codes = re.sub(r"(\d+) to (\d+)", lambda ends: " ".join(map(str, range(int(ends[1]), int(ends[2]) + 1))), codes)
    with_subcodes = re.findall(r"(\d+)/(\d+)", codes)
    with_phrases = re.findall(r'(\d+) "(.+?)"', codes)
    alone = re.findall(r"\d+", re.sub(r'\d+/\d+|\d+ ".+?"', "", codes))
    return [
        *(Problem(ProblemKind.API, "", code=int(code), subcode=int(subcode)) for code, subcode in with_subcodes),
        *(Problem(ProblemKind.API, phrase, code=int(code)) for code, phrase in with_phrases),
        *(Problem(ProblemKind.API, "", code=int(code)) for code in alone),
    ]


@pytest.mark.parametrize(("answer", "remedy"), ROWS)
def test_each_code_has_the_remedy_on_the_page(answer: str, remedy: str) -> None:
    problems = problems_in(answer)
    assert problems
    for each in problems:
        assert rule_for(each, has_cursor="cursor" in answer).remedy.value.startswith(remedy), each


def test_the_page_has_every_code_of_the_table() -> None:
    codes = {each.code for answer, _ in ROWS for each in problems_in(answer)}
    assert {code for rule in RULES for code in rule.codes or ()} <= codes
