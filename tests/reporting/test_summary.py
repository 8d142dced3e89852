"""The result of a sync, and the exit code that scripts rely on."""

import pytest
from msgspec.structs import replace

from kit.builders import NOON, STREAM
from milepost.core.checkpoint import Run
from milepost.core.events import Reason, RunStatus, Tally
from milepost.core.ports import RunResult
from milepost.core.problems import Problem, ProblemKind
from milepost.reporting.summary import ExitCode, exit_code, totals


def result(status: RunStatus, reason: Reason | None = None, **more: object) -> RunResult:
    return RunResult(STREAM, Run("r_1", NOON, status=status, reason=reason, **more))  # type: ignore[arg-type]


COMPLETE = result(RunStatus.COMPLETE)
WITH_ERRORS = result(RunStatus.COMPLETE_WITH_ERRORS)
PAUSED = result(RunStatus.PAUSED, Reason.TIME_LIMIT)
FUTILE = result(RunStatus.PAUSED, Reason.TIME_LIMIT, problem=Problem(ProblemKind.NO_PROGRESS, "nothing new"))
FAILED = result(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED)
NO_TOKEN = result(RunStatus.STOPPED, Reason.AUTHORIZATION)
WRONG_SETTING = result(RunStatus.STOPPED, Reason.CONFIGURATION)
OWING = replace(result(RunStatus.COMPLETE), backlog=3)
WITH_UNREADABLE_MESSAGES = RunResult(STREAM, Run("r_1", NOON, status=RunStatus.COMPLETE, tally=Tally(dead_lettered=1)))
NOT_WORKED = RunResult(STREAM, None)
BROKEN = RunResult(STREAM, None, error="the disk is full")


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (COMPLETE, ExitCode.COMPLETE),
        (WITH_ERRORS, ExitCode.WITH_ERRORS),
        (FAILED, ExitCode.WITH_ERRORS),
        (BROKEN, ExitCode.WITH_ERRORS),
        (PAUSED, ExitCode.PROGRESS_SAVED),
        (OWING, ExitCode.PROGRESS_SAVED),
        (WITH_UNREADABLE_MESSAGES, ExitCode.WITH_ERRORS),
        (FUTILE, ExitCode.WITH_ERRORS),
        (NOT_WORKED, ExitCode.PROGRESS_SAVED),
        (NO_TOKEN, ExitCode.AUTHORIZATION),
        (WRONG_SETTING, ExitCode.CONFIGURATION),
    ],
)
def test_each_ending_has_its_exit_code(one: RunResult, code: ExitCode) -> None:
    assert exit_code([one]) is code


@pytest.mark.parametrize(
    ("several", "code"),
    [
        ([COMPLETE, PAUSED], 75),
        ([COMPLETE, PAUSED, WITH_ERRORS], 1),
        ([PAUSED, FAILED, NO_TOKEN], 77),
        ([NO_TOKEN, BROKEN, WRONG_SETTING], 78),
        ([], 0),
    ],
)
def test_of_several_streams_the_most_serious_wins(several: list[RunResult], code: int) -> None:
    assert exit_code(several) == code
    assert exit_code(several[::-1]) == code


def test_totals_add_up_all_runs() -> None:
    runs = [
        RunResult(STREAM, Run("r_1", NOON, tally=Tally(batches=8, inserted=5), retries=2)),
        RunResult(
            STREAM,
            Run("r_2", NOON, tally=Tally(batches=1, updated=3), retries=1, failed_batches=1),
        ),
        BROKEN,
    ]
    whole = totals(runs)
    assert whole.tally == Tally(batches=9, inserted=5, updated=3)
    assert (whole.retries, whole.failed_batches) == (3, 1)
    assert whole.success_rate == 0.9


def test_where_no_batch_was_tried_there_is_no_success_rate() -> None:
    assert totals([]).success_rate is None
    assert totals([RunResult(STREAM, Run("r_1", NOON, retries=2))]).success_rate is None
