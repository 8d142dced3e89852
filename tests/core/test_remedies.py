"""remedies.remedy: the table of the Graph API's errors."""

import pytest

from kit.builders import problem
from milepost.core.problems import Problem, ProblemKind
from milepost.core.remedies import Remedy, remedy

RETRY, WAIT = Remedy.RETRY, Remedy.WAIT
AUTHORIZATION, CONFIGURATION = Remedy.STOP_AUTHORIZATION, Remedy.STOP_CONFIGURATION


def test_a_wrong_setting_stops_the_stream() -> None:
    assert remedy(problem(kind=ProblemKind.MISCONFIGURED)) is Remedy.STOP_CONFIGURATION


@pytest.mark.parametrize("kind", sorted(set(ProblemKind) - {ProblemKind.API, ProblemKind.MISCONFIGURED}))
def test_what_is_no_answer_of_the_api_is_tried_again(kind: ProblemKind) -> None:
    assert remedy(problem(kind=kind)) is RETRY
    assert remedy(problem(kind=kind, http_status=502)) is RETRY


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, RETRY) for code in (1, 2, 5, 99, 999_999)),
        *((code, WAIT) for code in (4, 17, 32, 341, 368, 613, *range(80000, 80010), 80014)),
        *((code, AUTHORIZATION) for code in (3, 10, 102, 190, 492, 200, 230, 299)),
        *((code, CONFIGURATION) for code in (12, 104, 2500, 2635)),
        *((code, RETRY) for code in (199, 300, 79999, 80010)),
    ],
)
def test_a_code_is_looked_up(code: int, expected: Remedy) -> None:
    assert remedy(problem(code)) is expected


@pytest.mark.parametrize("http_status", [200, 400, 403, 500, 502])
@pytest.mark.parametrize(("code", "expected"), [(1, RETRY), (613, WAIT), (190, AUTHORIZATION), (2635, CONFIGURATION)])
def test_the_http_status_does_not_mislead(code: int, http_status: int, expected: Remedy) -> None:
    assert remedy(problem(code, http_status=http_status)) is expected


@pytest.mark.parametrize("subcode", [458, 459, 460, 463, 464, 467])
def test_a_dead_token_stops_the_stream_whatever_killed_it(subcode: int) -> None:
    assert remedy(problem(190, subcode=subcode, http_status=400)) is AUTHORIZATION


def test_a_rate_limit_is_one_even_when_it_says_that_it_is_not_transient() -> None:
    assert remedy(problem(17, subcode=2446079, is_transient=False)) is WAIT


def test_too_many_requests_is_a_rate_limit_without_any_envelope() -> None:
    assert remedy(problem(kind=ProblemKind.NONSENSE, http_status=429)) is WAIT
    assert remedy(problem(None, http_status=429)) is WAIT


def test_the_code_is_asked_before_the_http_status() -> None:
    assert remedy(problem(190, http_status=429)) is AUTHORIZATION


def test_a_code_counts_only_in_an_envelope_of_the_api() -> None:
    assert remedy(problem(190, kind=ProblemKind.NONSENSE)) is RETRY


def test_a_problem_tells_its_numbers() -> None:
    told = str(Problem(ProblemKind.API, "the token has expired", http_status=400, code=190, subcode=463))

    assert told == "the token has expired (HTTP 400, code 190, subcode 463)"
    assert str(Problem(ProblemKind.NETWORK, "connection reset")) == "connection reset"
