"""The summary of a sync as a table: a line a stream, the totals, and what to do about what went wrong."""

from collections.abc import Sequence

from milepost.core.checkpoint import Run
from milepost.core.events import Tally
from milepost.core.summary import Result, Totals, totals

HEADINGS = (
    "stream", "status", "batches", "inserted", "updated", "unchanged", "dead-lettered", "retries", "failed", "seconds",
)  # fmt: skip


def rendered(results: Sequence[Result], seconds: float) -> str:
    """Write the summary; `seconds` is how long the whole sync took."""
    whole = totals(results)
    table = [HEADINGS, *(_row(result) for result in results), _total_row(whole, seconds)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    lines = [_aligned(row, widths) for row in table]
    lines += [
        "",
        f"{whole.success_rate:.1%} of batches succeeded",
        f"written: {whole.tally.contacts:,} contacts, {whole.tally.interaction_events:,} interaction events",
    ]
    lines += [f"{result.stream}: {why}" for result in results if (why := _why(result)) is not None]
    return "\n".join(lines)


def _row(result: Result) -> tuple[str, ...]:
    run = result.run
    if run is None:
        status = "not worked" if result.error is None else "failed"
        return (result.stream, status, *_counts(Tally()), "0", "0", "")
    return (
        result.stream,
        "failed" if result.error is not None else run.status.value.replace("_", " "),
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
    return (run.ended_at - run.started_at).total_seconds() if run.ended_at is not None else 0.0


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    texts = [
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(texts).rstrip()


def _why(result: Result) -> str | None:
    """Say why a stream is not complete; None where it is."""
    if result.error is not None:
        return result.error
    if result.run is None or result.run.reason is None:
        return None
    reason = result.run.reason.value.replace("_", " ")
    return (
        f"{reason}: {result.run.problem}"
        if result.run.problem is not None
        else f"{reason}; the next sync goes on there"
    )
