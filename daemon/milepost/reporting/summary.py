"""The result of a sync: the totals, and the exit code that scripts rely on."""

from collections.abc import Iterable, Sequence
from enum import IntEnum

from msgspec import Struct

from milepost.core.checkpoint import Run
from milepost.core.events import NO_TALLY, Reason, RunStatus, Tally
from milepost.core.ports import RunResult
from milepost.core.problems import Problem, ProblemKind, Remedy, rule_for


class ExitCode(IntEnum):
    """The exit codes of `milepost sync`."""

    COMPLETE = 0
    WITH_ERRORS = 1  # complete with dead letters, or a stream that could not run
    USAGE = 2
    PROGRESS_SAVED = 75  # at a time, batch or rate limit, or stopped by a signal
    AUTHORIZATION = 77
    CONFIGURATION = 78


# The most serious first: with several streams, the first that applies is the exit code.
SERIOUSNESS = (
    ExitCode.CONFIGURATION,
    ExitCode.AUTHORIZATION,
    ExitCode.WITH_ERRORS,
    ExitCode.PROGRESS_SAVED,
    ExitCode.COMPLETE,
)


class Totals(Struct, frozen=True):
    """The sums over all streams."""

    tally: Tally
    retries: int
    failed_batches: int

    @property
    def success_rate(self) -> float | None:
        """The share of batches that were read and stored, from 0 to 1; None if none was tried."""
        tried = self.tally.batches + self.failed_batches
        return self.tally.batches / tried if tried else None


def totals(results: Sequence[RunResult]) -> Totals:
    """Add up the runs of all streams."""
    runs = [result.run for result in results if result.run is not None]
    return Totals(
        sum((run.tally for run in runs), NO_TALLY),
        sum(run.retries for run in runs),
        sum(run.failed_batches for run in runs),
    )


def exit_code(results: Sequence[RunResult]) -> ExitCode:
    """Return the exit code of the most serious result."""
    return most_serious(_exit_code(result) for result in results)


def most_serious(codes: Iterable[ExitCode]) -> ExitCode:
    """Return the most serious code; COMPLETE if there is none."""
    return min(codes, key=SERIOUSNESS.index, default=ExitCode.COMPLETE)


def exit_code_of(problem: Problem) -> ExitCode:
    """Return the exit code for a problem before any batch was requested."""
    match rule_for(problem, has_cursor=False).remedy:
        case Remedy.STOP_AUTHORIZATION:
            return ExitCode.AUTHORIZATION
        case Remedy.STOP_CONFIGURATION:
            return ExitCode.CONFIGURATION
        case Remedy.WAIT:
            return ExitCode.PROGRESS_SAVED
        case Remedy.RETRY | Remedy.SHRINK | Remedy.RESET:
            return ExitCode.WITH_ERRORS


def _exit_code(result: RunResult) -> ExitCode:
    if result.error is not None:
        return ExitCode.WITH_ERRORS
    if result.run is None:  # stopped before it read anything
        return ExitCode.PROGRESS_SAVED
    match result.run.status:
        case RunStatus.COMPLETE:
            return _of_complete(result.run, result.backlog)
        case RunStatus.COMPLETE_WITH_ERRORS | RunStatus.FAILED | RunStatus.INTERRUPTED | RunStatus.RUNNING:
            return ExitCode.WITH_ERRORS
        case RunStatus.PAUSED:
            is_futile = result.run.problem is not None and result.run.problem.kind is ProblemKind.NO_PROGRESS
            return ExitCode.WITH_ERRORS if is_futile else ExitCode.PROGRESS_SAVED
        case RunStatus.STOPPED:
            return ExitCode.AUTHORIZATION if result.run.reason is Reason.AUTHORIZATION else ExitCode.CONFIGURATION


def _of_complete(run: Run, backlog: int) -> ExitCode:
    """Return the exit code of a complete sweep: older messages may be left to read, or have become dead letters."""
    if backlog:
        return ExitCode.PROGRESS_SAVED
    return ExitCode.WITH_ERRORS if run.tally.dead_lettered else ExitCode.COMPLETE
