"""`milepost sync`: one run for every stream, with progress, a summary and an exit code for scripts."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from time import perf_counter
from typing import TextIO, cast

import click
from msgspec import Struct

from milepost.app.build import Parts, assembled
from milepost.app.database import store_url_of
from milepost.app.discovery import discovery_hint
from milepost.cli.options import config_option, load_settings, parse_stream
from milepost.core.checkpoint import Run
from milepost.core.errors import BadConfiguration, StoreBusy
from milepost.core.events import Reason, RunStatus, Tally
from milepost.core.model import Stream
from milepost.core.ports import Held, RunResult
from milepost.core.problems import Problem
from milepost.core.remedies import Remedy, rule_for
from milepost.engine.feed import Reader, reading
from milepost.engine.interrupt import Stop, stopping_on_signals
from milepost.reporting.humanize import clock, counted, in_words, on_one_line
from milepost.reporting.status import Condition, ConditionContext, condition, rate_limits_of
from milepost.reporting.summary import ExitCode, Totals, exit_code, most_serious, totals
from milepost.service.logs.journal import JournalLog
from milepost.service.logs.output import logged
from milepost.service.logs.redaction import Redactor
from milepost.settings import Settings, secrets
from milepost.stores.open import is_at_work

HEADINGS = (
    "stream", "status", "batches", "inserted", "updated", "unchanged", "dead-lettered", "retries", "failed", "seconds",
)  # fmt: skip


@click.command(name="sync")
@config_option
@click.option("--full", is_flag=True, help="Read the whole inbox again, not only to the watermark.")
@click.argument("streams", metavar="[STREAM]...", nargs=-1)
def command(config: str | None, streams: tuple[str, ...], *, full: bool) -> None:
    """Sync the streams now, until each sweep is complete or a limit is reached.

    A STREAM is messenger:<page id> or instagram:<page id>. Default: all streams.

    Exit codes: 0 every sweep complete · 1 complete with errors · 75 stopped at a limit, progress saved ·
    77 stopped for authorization · 78 bad configuration · 2 wrong usage
    """
    settings = load_settings(config)
    wanted = [parse_stream(key) for key in streams]
    synced = asyncio.run(_sync(settings, wanted, full=full))
    click.echo(rendered(synced.results, synced.seconds, synced.conditions, datetime.now(UTC), synced.undiscovered))
    sys.exit(most_serious({exit_code(synced.results), _code_of(synced.undiscovered)}))


class _Synced(Struct, frozen=True):
    """The results of a sync, and the condition of the streams after it."""

    results: list[RunResult]
    seconds: float
    conditions: dict[Stream, Condition]
    undiscovered: Problem | Held | None


async def _sync(settings: Settings, wanted: Sequence[Stream], *, full: bool) -> _Synced:
    began = perf_counter()
    stop, redactor = Stop(), Redactor(secrets(settings))
    with ExitStack() as stack:
        await _demand_alone(settings)
        reader = _reader(settings, redactor, stack)
        async with stopping_on_signals(stop), assembled(settings, stop, redactor.learn) as parts:
            streams = _chosen(wanted, parts)
            async with reading(parts.feed, reader):
                results = await parts.supervisor.sync(streams, full=full)
            conditions = await _conditions(settings, parts)
    return _Synced(results, perf_counter() - began, conditions, parts.undiscovered)


async def _demand_alone(settings: Settings) -> None:
    """Raise StoreBusy where workers are using the database. For SQLite the lock of the database does that."""
    store_url = store_url_of(settings)
    if store_url.file is None and await is_at_work(store_url):
        raise StoreBusy(
            f"workers are using the database {store_url}",
            hint="stop them first, or let them sync the streams: `milepost status` shows what they do",
        )


async def _conditions(settings: Settings, parts: Parts) -> dict[Stream, Condition]:
    checkpoints = await parts.store.checkpoints()
    sync = settings.sync
    around = ConditionContext(
        parts.clock.now(), False, sync.interval_seconds, sync.batch_size, rate_limits_of(checkpoints)
    )
    return {checkpoint.stream: condition(checkpoint, around) for checkpoint in checkpoints}


def _code_of(undiscovered: Problem | Held | None) -> ExitCode:
    """Return the exit code for pages that could not be discovered."""
    if undiscovered is None:
        return ExitCode.COMPLETE
    if isinstance(undiscovered, Held):
        return ExitCode.PROGRESS_SAVED
    match rule_for(undiscovered, has_cursor=False).remedy:
        case Remedy.STOP_AUTHORIZATION:
            return ExitCode.AUTHORIZATION
        case Remedy.STOP_CONFIGURATION:
            return ExitCode.CONFIGURATION
        case Remedy.WAIT:
            return ExitCode.PROGRESS_SAVED
        case Remedy.RETRY | Remedy.SHRINK | Remedy.RESET:
            return ExitCode.WITH_ERRORS


def _reader(settings: Settings, redactor: Redactor, stack: ExitStack) -> dict[str, Reader]:
    """Show the progress on a terminal; write plain log lines elsewhere."""
    level, stream = settings.log.level, sys.stderr
    if not sys.stderr.isatty():
        stack.enter_context(logged(settings.log.format, level, redactor, stream=stream, environment=os.environ))
        return {"log": JournalLog().read}
    # Imported here: nobody else needs tqdm.
    from milepost.cli.progress import BesideBars, progress_on_terminal  # noqa: PLC0415

    progress = stack.enter_context(progress_on_terminal(sys.stderr))
    above_bars = cast("TextIO", BesideBars(sys.stderr))  # typeshed: a TextIOBase is no TextIO
    stack.enter_context(logged(settings.log.format, "warning", redactor, stream=above_bars, environment=os.environ))
    return {"progress": progress.read, "log": JournalLog().read}


def _chosen(wanted: Sequence[Stream], parts: Parts) -> Sequence[Stream]:
    """Return the streams to sync. Raises BadConfiguration for an unknown one, or where there are none at all."""
    if not parts.supervisor.streams and parts.undiscovered is None:
        raise BadConfiguration(
            "there is nothing to sync: source.access_token manages no page",
            hint="give its owner a role on a page, or list pages in config.yaml",
        )
    unknown = [stream.key for stream in wanted if stream not in parts.supervisor.streams]
    if unknown:
        raise BadConfiguration(
            f"there is no stream {', '.join(unknown)}",
            hint=f"the configured streams are {', '.join(stream.key for stream in parts.supervisor.streams)}",
        )
    return wanted or parts.supervisor.streams


# --- the summary ------------------------------------------------------------------------------------------------------


def rendered(
    results: Sequence[RunResult],
    seconds: float,
    conditions: Mapping[Stream, Condition],
    now: datetime,
    undiscovered: Problem | Held | None = None,
) -> str:
    """Return the summary of a sync that took `seconds`: a line a stream, the totals, and what to do about failures.

    `conditions` say by stream what each waits for at `now`, `undiscovered` why pages could not be discovered.
    """
    whole = totals(results)
    table = [HEADINGS, *(_row(result) for result in results), _total_row(whole, seconds)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    lines = [_aligned(row, widths) for row in table]
    rate = whole.success_rate
    lines += [
        "",
        "no batch was read" if rate is None else f"{rate:.1%} of batches succeeded",
        f"written: {whole.tally.contacts:,} contacts, {whole.tally.interaction_events:,} interaction events",
    ]
    for result in results:
        lines += _why(result, conditions.get(result.stream), now)
    if undiscovered is not None:
        lines += _why_undiscovered(undiscovered)
    return "\n".join(lines)


def _why_undiscovered(why: Problem | Held) -> list[str]:
    if isinstance(why, Held):
        return ["source.discover_pages: the pages were not discovered: a rate limit forbids the call"]
    words = f"source.discover_pages: the pages could not be discovered: {on_one_line(why)}"
    return [words, f"  → {discovery_hint(why)}"]


def _row(result: RunResult) -> tuple[str, ...]:
    run = result.run
    if run is None:
        status = "not synced" if result.error is None else "failed"
        return (result.stream.key, status, *_counts(Tally()), "0", "0", "")
    return (
        result.stream.key,
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
    """Return why a stream is not complete, until when, and what to do; nothing where it is complete."""
    if result.error is not None:
        return [f"{result.stream}: {on_one_line(result.error)}"]
    what = _what(result.run, condition, now) or _owed(result)
    if what is None:
        return []
    advice = condition.advice if condition is not None else None
    return [f"{result.stream}: {what}", *([f"  → {advice}"] if advice is not None else [])]


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
