"""summary: what a sync of several streams came to."""

from itertools import permutations

import pytest

from kit.builders import NOON
from milepost.core.checkpoint import Run
from milepost.core.events import Reason, RunStatus, Tally
from milepost.core.summary import ExitCode, Result, exit_code, totals


def result(status: RunStatus, reason: Reason | None = None, tally: Tally | None = None) -> Result:
    return Result("messenger:1", Run("run-1", NOON, status, reason=reason, tally=tally or Tally()))


COMPLETE = result(RunStatus.COMPLETE)
WITH_ERRORS = result(RunStatus.COMPLETE_WITH_ERRORS)
PAUSED = result(RunStatus.PAUSED, Reason.RATE_LIMIT)
DEAD_TOKEN = result(RunStatus.STOPPED, Reason.AUTHORIZATION)
BAD_SETTING = result(RunStatus.STOPPED, Reason.CONFIGURATION)


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (COMPLETE, 0),
        (WITH_ERRORS, 1),
        (result(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED), 1),
        (result(RunStatus.INTERRUPTED, Reason.PROCESS_DIED), 1),
        (Result("messenger:1", None, error="the database is read-only"), 1),
        (PAUSED, 75),
        (result(RunStatus.PAUSED, Reason.TIME_LIMIT), 75),
        (result(RunStatus.PAUSED, Reason.BATCH_LIMIT), 75),
        (result(RunStatus.PAUSED, Reason.SHUTDOWN), 75),
        (Result("messenger:1", None), 75),
        (DEAD_TOKEN, 77),
        (BAD_SETTING, 78),
    ],
)
def test_a_stream_has_the_exit_code_that_is_promised(one: Result, code: int) -> None:
    assert exit_code([one]) == code


def test_the_most_serious_stream_wins() -> None:
    by_seriousness = [BAD_SETTING, DEAD_TOKEN, WITH_ERRORS, PAUSED, COMPLETE]

    for index, worst in enumerate(by_seriousness):
        for order in permutations(by_seriousness[index:]):
            assert exit_code(order) == exit_code([worst])


def test_no_stream_at_all_is_complete() -> None:
    assert exit_code([]) is ExitCode.COMPLETE


def test_totals_add_up_the_runs() -> None:
    one = Result("messenger:1", Run("run-1", NOON, tally=Tally(batches=3, inserted=5), retries=2, failed_batches=1))
    other = Result("instagram:1", Run("run-2", NOON, tally=Tally(batches=4, updated=2)))

    added = totals([one, other, Result("messenger:2", None, error="away")])

    assert added.tally == Tally(batches=7, inserted=5, updated=2)
    assert (added.retries, added.failed_batches) == (2, 1)
    assert added.success_rate == 7 / 8


def test_the_success_rate_of_nothing_is_one() -> None:
    assert totals([]).success_rate == 1.0
