"""The summary of a sync as a table: a line a stream, the totals, and what to do about what went wrong."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from milepost.core.checkpoint import Run
from milepost.core.events import Reason, RunStatus, Tally
from milepost.core.ports import RunResult
from milepost.reporting.humanize import clock, in_words, on_one_line
from milepost.reporting.status import Condition
from milepost.reporting.summary import Totals, totals

HEADINGS = (
    "stream", "status", "batches", "inserted", "updated", "unchanged", "dead-lettered", "retries", "failed", "seconds",
)  # fmt: skip


def rendered(results: Sequence[RunResult], seconds: float, conditions: Mapping[str, Condition], now: datetime) -> str:
    """Write the summary of a sync that took `seconds`; `conditions` say by stream what each waits for `now`."""
    whole = totals(results)
    table = [HEADINGS, *(_row(result) for result in results), _total_row(whole, seconds)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    lines = [_aligned(row, widths) for row in table]
    lines += [
        "",
        f"{whole.success_rate:.1%} of batches succeeded",
        f"written: {whole.tally.contacts:,} contacts, {whole.tally.interaction_events:,} interaction events",
    ]
    for result in results:
        lines += _why(result, conditions.get(result.stream), now)
    return "\n".join(lines)


def _row(result: RunResult) -> tuple[str, ...]:
    run = result.run
    if run is None:
        status = "not worked" if result.error is None else "failed"
        return (result.stream, status, *_counts(Tally()), "0", "0", "")
    return (
        result.stream,
        "failed" if result.error is not None else in_words(run.status),
        *_counts(run.tally),
        f"{run.retries:,}",
        f"{run.failed_batches:,}",
        f"{_seconds(run):.1f}",
    )


def _total_row(whole: Totals, seconds: float) -> tuple[str, ...]:
    return ("total", "", *_counts(whole.tally), f"{whole.retries:,}", f"{whole.failed_batches:,}", f"{seconds:.1f}")


def _counts(tally: Tally) -> tuple[str, ...]:
    counts = (tally.batches, tally.inserted, tally.updated, tally.unchanged, tally.dead_lettered)
    return tuple(f"{count:,}" for count in counts)


def _seconds(run: Run) -> float:
    seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at is not None else 0.0
    return max(0.0, seconds)  # the clock may have been set back meanwhile


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    texts = [
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(texts).rstrip()


def _why(result: RunResult, condition: Condition | None, now: datetime) -> list[str]:
    """Say why a stream is not complete, until when, and what to do; nothing where it is complete."""
    if result.error is not None:
        return [f"{result.stream}: {on_one_line(result.error)}"]
    what = _what(result.run, condition, now)
    if what is None:
        return []
    advice = condition.advice if condition is not None else None
    return [f"{result.stream}: {what}", *([f"  → {advice}"] if advice is not None else [])]


def _what(run: Run | None, condition: Condition | None, now: datetime) -> str | None:
    wait = condition.wait if condition is not None else None
    problem = f": {on_one_line(wait.problem)}" if wait is not None and wait.problem is not None else ""
    if run is not None and run.status is RunStatus.COMPLETE:
        return None
    if wait is not None and wait.until is not None:
        return f"waits for {wait.waits_for} until {clock(wait.until, now)}{problem}"
    match run:
        case Run(status=RunStatus.COMPLETE_WITH_ERRORS):
            return "complete, but for some dead letters"
        case Run(status=RunStatus.PAUSED, reason=Reason() as reason):
            return f"{in_words(reason)}; the next sync goes on there"
        case Run(reason=Reason() as reason):
            return f"{in_words(reason)}{problem}"
        case _:
            return None
