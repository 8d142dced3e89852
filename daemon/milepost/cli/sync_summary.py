"""The summary of a sync: a line for each stream, the totals, and what to do about what is not complete."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from milepost.app.discovery import discovery_hint
from milepost.cli.options import NO_TITLES, Titles
from milepost.cli.terminal import PLAIN, Column, Terminal, table
from milepost.core.checkpoint import Run
from milepost.core.events import Reason, RunStatus, Tally
from milepost.core.model import Stream
from milepost.core.ports import Held, RunResult
from milepost.core.problems import Problem
from milepost.reporting.humanize import clock, counted, in_words, on_one_line
from milepost.reporting.status import Condition
from milepost.reporting.summary import Totals, totals

COLUMNS = (
    Column("status"),
    Column("batches", is_right=True, rank=4),
    Column("inserted", is_right=True),
    Column("updated", is_right=True, rank=6),
    Column("unchanged", is_right=True, rank=3),
    Column("dead-lettered", is_right=True, rank=7),
    Column("retries", is_right=True, rank=1),
    Column("failed", is_right=True, rank=2),
    Column("seconds", is_right=True, rank=5),
)


class Synced(Struct, frozen=True):
    """The results of a sync that took `seconds`, and the condition of each stream after it.

    `undiscovered` is why pages could not be discovered, `titles` what people call the streams.
    """

    results: Sequence[RunResult]
    seconds: float
    conditions: Mapping[Stream, Condition] = {}
    undiscovered: Problem | Held | None = None
    titles: Titles = NO_TITLES


def rendered(synced: Synced, now: datetime, terminal: Terminal = PLAIN) -> list[str]:
    """Return the lines of the summary: one a stream, the totals, and at `now` what to do about failures."""
    titles, results, whole = synced.titles, synced.results, totals(synced.results)
    leading = titles.columns([result.stream for result in results])
    rows = [[*titles.cells(result.stream, leading), *_row(result)] for result in results]
    total = ["total", *[""] * (len(leading) - 1), *_total_row(whole, synced.seconds)]
    rate = whole.success_rate
    lines = [
        *table([*leading, *COLUMNS], [*rows, total], terminal).lines,
        "",
        "no batch was read" if rate is None else f"{rate:.1%} of batches succeeded",
        f"written: {whole.tally.contacts:,} contacts, {whole.tally.interaction_events:,} interaction events",
    ]
    texts = list[str]()
    for result in results:
        texts += _why(result, synced.conditions.get(result.stream), now, titles)
    if synced.undiscovered is not None:
        texts += _why_undiscovered(synced.undiscovered)
    return [*lines, *terminal.fitted(texts)]


def _why_undiscovered(why: Problem | Held) -> list[str]:
    if isinstance(why, Held):
        return ["source.discover_pages: the pages were not discovered: a rate limit forbids the call"]
    words = f"source.discover_pages: the pages could not be discovered: {on_one_line(why)}"
    return [words, f"  → {discovery_hint(why)}"]


def _row(result: RunResult) -> tuple[str, ...]:
    run = result.run
    if run is None:
        status = "not synced" if result.error is None else "failed"
        return (status, *_counts(Tally()), "0", "0", "")
    return (
        "failed" if result.error is not None else in_words(run.status),
        *_counts(run.tally),
        f"{run.retries:,}",
        f"{run.failed_batches:,}",
        f"{_seconds(run):.1f}",
    )


def _total_row(whole: Totals, seconds: float) -> tuple[str, ...]:
    return ("", *_counts(whole.tally), f"{whole.retries:,}", f"{whole.failed_batches:,}", f"{seconds:.1f}")


def _counts(tally: Tally) -> tuple[str, ...]:
    counts = (tally.batches, tally.inserted, tally.updated, tally.unchanged, tally.dead_lettered)
    return tuple(f"{count:,}" for count in counts)


def _seconds(run: Run) -> float:
    seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at is not None else 0.0
    return max(0.0, seconds)  # the clock may have been set back meanwhile


def _why(result: RunResult, condition: Condition | None, now: datetime, titles: Titles) -> list[str]:
    """Return why a stream is not complete, until when, and what to do; nothing where it is complete."""
    if result.error is not None:
        return [f"{titles.of(result.stream)}: {on_one_line(result.error)}"]
    what = _what(result.run, condition, now) or _owed(result)
    if what is None:
        return []
    advice = condition.advice if condition is not None else None
    return [f"{titles.of(result.stream)}: {what}", *([f"  → {advice}"] if advice is not None else [])]


def _owed(result: RunResult) -> str | None:
    if not result.backlog:
        return None
    count = counted(result.backlog, "conversation")
    return f"{count} with older messages that are still to be read; the next sync continues there"


def _what(run: Run | None, condition: Condition | None, now: datetime) -> str | None:
    wait = condition.wait if condition is not None else None
    problem = f": {on_one_line(wait.problem)}" if wait is not None and wait.problem is not None else ""
    if run is not None and run.status is RunStatus.COMPLETE:
        return None
    if wait is not None and wait.until is not None:
        return f"waits for {wait.waits_for} until {clock(wait.until, now)}{problem}"
    match run:
        case Run(status=RunStatus.COMPLETE_WITH_ERRORS):
            return "complete, but with dead letters"
        case Run(status=RunStatus.PAUSED, reason=Reason() as reason):
            return f"{in_words(reason)}; the next sync continues there"
        case Run(reason=Reason() as reason):
            return f"{in_words(reason)}{problem}"
        case _:
            return None
