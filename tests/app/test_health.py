"""What is said of destinations and runs that fail."""

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM, at
from milepost.app.health import FAILING_ADVICE, delivery_issues, failing_runs
from milepost.core.changes import Answer, Delivery, DeliveryResult, delivered, failed
from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.errors import StoreRefused
from milepost.core.events import RunStatus
from milepost.engine.supervisor import FailedRuns
from milepost.reporting.health import Issue, IssueKind

REFUSED, AWAY = Answer(DeliveryResult.REFUSED, "HTTP 500"), Answer(DeliveryResult.UNREACHABLE, "connection refused")


def failing(name: str, answer: Answer, times: int, since: int = 0) -> Delivery:
    delivery = Delivery(name, 7, behind_since=NOON)
    for number in range(times):
        delivery = failed(delivery, answer, at(since + number), 0.5)
    return delivery


def test_a_single_failure_is_no_issue() -> None:
    assert list(delivery_issues([failing("crm", REFUSED, 2), delivered(Delivery("erp", 7), 9, None, NOON)], {})) == []


def test_those_that_fail_are_named_with_their_reasons() -> None:
    (issue,) = delivery_issues([failing("crm", REFUSED, 3, since=60), failing("erp", AWAY, 9), Delivery("bi", 7)], {})
    assert (issue.kind, issue.what, issue.since) == (IssueKind.DELIVERIES, "deliveries to crm, erp fail", NOON)
    assert issue.reason == "crm: HTTP 500; erp: connection refused"


def test_one_that_an_operator_paused_is_no_issue() -> None:
    issues: list[Issue] = list(delivery_issues([replace(failing("crm", REFUSED, 9), paused_at=NOON)], {}))
    assert issues == []


def test_one_whose_worker_broke_is_said() -> None:
    (issue,) = delivery_issues([Delivery("crm", 7)], {"crm": "SSL_CERT_FILE: /missing.pem cannot be read"})
    assert (issue.what, issue.reason) == (
        "deliveries to crm are not made",
        "SSL_CERT_FILE: /missing.pem cannot be read",
    )


DENIED = FailedRuns(NOON, at(600), 2, StoreRefused("permission denied for table conversations", hint="grant it"), "r_2")


def test_runs_that_fail_are_said_with_the_error_and_its_hint() -> None:
    (issue,) = failing_runs({STREAM: DENIED}, [Checkpoint(STREAM, updated_at=at(-60))])
    assert issue == Issue(
        IssueKind.RUNS_FAIL,
        f"the runs of {STREAM.key} fail",
        NOON,
        "permission denied for table conversations",
        "grant it",
    )


def test_an_unexpected_error_is_not_quoted() -> None:
    (issue,) = failing_runs({STREAM: replace(DENIED, error=KeyError("somebody's name"))}, [])
    assert (issue.reason, issue.advice) == ("an unexpected KeyError", FAILING_ADVICE)


def after(run: Run) -> list[Issue]:
    return list(failing_runs({STREAM: DENIED}, [Checkpoint(STREAM, updated_at=at(700), run=run)]))


def test_a_stream_that_another_worker_has_run_since_does_not_fail() -> None:
    assert after(Run("r_3", at(610), RunStatus.COMPLETE, ended_at=at(700))) == []


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(Run("r_2", at(590), RunStatus.COMPLETE, ended_at=at(599)), id="a command was recorded"),
        pytest.param(Run("r_2", at(610)), id="the next one has begun"),
        pytest.param(Run("r_2", at(610), RunStatus.COMPLETE, ended_at=at(650)), id="the next one still redrives"),
        pytest.param(Run("r_1", at(590), RunStatus.INTERRUPTED, ended_at=at(610)), id="it was found open"),
    ],
)
def test_what_is_written_before_the_next_failure_does_not_hide_that_runs_fail(run: Run) -> None:
    assert [issue.kind for issue in after(run)] == [IssueKind.RUNS_FAIL]
