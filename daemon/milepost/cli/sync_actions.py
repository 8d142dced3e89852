"""Syncs streams once, through the daemon if one is using the database, otherwise in this process; prints a summary."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from math import ceil
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, TextIO, cast

import click
from msgspec import Struct
from msgspec.structs import replace

from milepost.app.build import Parts, assembled
from milepost.app.database import store_url_of
from milepost.app.discovery import discovery_hint
from milepost.cli.actions import CONCERNS_ALL, Operator, operator
from milepost.cli.options import BY, NO_TITLES, Titles, demand_worked
from milepost.cli.terminal import PLAIN, Column, Terminal, echo, stdout_terminal, table
from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.commands import SyncNow
from milepost.core.errors import BadConfiguration, MilepostError
from milepost.core.events import Reason, RunStatus, Tally
from milepost.core.model import Stream
from milepost.core.ports import Held, RunResult
from milepost.core.position import Mode
from milepost.core.problems import Problem
from milepost.core.retry import held_until
from milepost.engine.feed import Reader, reading
from milepost.engine.interrupt import Stop, stopping_on_signals
from milepost.engine.supervisor import MAX_LATENESS_SECONDS
from milepost.reporting.humanize import clock, counted, in_words, on_one_line
from milepost.reporting.status import Condition, ConditionContext, condition, is_running, rate_limits_of
from milepost.reporting.summary import ExitCode, Totals, exit_code, exit_code_of, most_serious, totals
from milepost.service.logs.lines import JournalLog, Redactor
from milepost.service.logs.output import logged
from milepost.settings.model import Settings, SyncSettings
from milepost.settings.secrets import secrets
from milepost.stores.open import is_at_work, open_reader
from milepost.stores.reader import JournalReader

if TYPE_CHECKING:
    from milepost.cli.progress import Progress


class Synced(Struct, frozen=True):
    """The results of a sync that took `seconds`, and the condition of each stream after it.

    `undiscovered` says why page discovery failed; `titles` are those of the streams.
    """

    results: Sequence[RunResult]
    seconds: float
    conditions: Mapping[Stream, Condition] = {}
    undiscovered: Problem | Held | None = None
    titles: Titles = NO_TITLES


async def perform(settings: Settings, wanted: Sequence[Stream], *, full: bool) -> ExitCode:
    """Sync the streams, all of them if none is named, print the summary, and return the exit code."""
    synced = await _sync(settings, wanted, full=full)
    terminal = stdout_terminal()
    echo(rendered(synced, datetime.now(UTC), terminal), terminal)
    codes = {exit_code(synced.results)}
    if (why := synced.undiscovered) is not None:
        codes.add(ExitCode.PROGRESS_SAVED if isinstance(why, Held) else exit_code_of(why))
    return most_serious(codes)


async def _sync(settings: Settings, wanted: Sequence[Stream], *, full: bool) -> Synced:
    stop, redactor, log = Stop(), Redactor(secrets(settings)), settings.log
    out, level = (_above_bars(), "warning") if sys.stderr.isatty() else (sys.stderr, log.level)
    with logged(log.format, level, redactor, stream=out, environment=os.environ):
        async with stopping_on_signals(stop):
            if await _is_at_work(settings):
                return await _through_daemon(settings, wanted, stop, full=full)
            return await _here(settings, wanted, stop, redactor.learn, full=full)


async def _is_at_work(settings: Settings) -> bool:
    """Return whether another Milepost is running that accepts requests; if not, the database's lock stops us."""
    store_url = store_url_of(settings)
    return await is_at_work(store_url) and (store_url.file is None or settings.http.port != 0)


async def _here(
    settings: Settings,
    wanted: Sequence[Stream],
    stop: Stop,
    learn_secret: Callable[[str], None],
    *,
    full: bool,
) -> Synced:
    began = perf_counter()
    async with assembled(settings, stop, learn_secret) as parts:
        titles = Titles(parts.registry.page_names())
        streams = _known(wanted, parts)
        with _progress(titles) as progress:
            readers: dict[str, Reader] = {"log": JournalLog().read}
            if progress is not None:
                readers["progress"] = progress.read
            async with reading(parts.feed, readers):
                results = await parts.supervisor.sync(streams, full=full)
            results += [RunResult(stream, None) for stream in wanted if stream not in streams]
        conditions = _conditions(settings, await parts.store.checkpoints(), is_at_work=False)
    return Synced(results, perf_counter() - began, conditions, parts.undiscovered, titles)


async def _through_daemon(settings: Settings, wanted: Sequence[Stream], stop: Stop, *, full: bool) -> Synced:
    began, store_url = perf_counter(), store_url_of(settings)
    async with operator(settings, stop, for_runs=True) as who, open_reader(store_url) as journal_reader:
        demand_worked(wanted, who.streams)
        click.echo(f"A daemon is using {store_url}: it syncs the streams", err=True)
        with _progress(who.titles) as progress:
            show = None if progress is None else progress.show
            look = Look(journal_reader, lambda: is_at_work(store_url), lambda: datetime.now(UTC), show)
            results = await sync_through_daemon(who, wanted or who.streams, look, settings.sync, stop, full=full)
        if stop.is_requested:
            click.echo("The daemon continues: `milepost status` shows its progress", err=True)
        conditions = _conditions(settings, await journal_reader.checkpoints(), is_at_work=True)
    return Synced(results, perf_counter() - began, conditions, titles=who.titles)


def _above_bars() -> TextIO:
    from milepost.cli.progress import BesideBars  # noqa: PLC0415  (only where bars are drawn)

    return cast("TextIO", BesideBars(sys.stderr))  # typeshed: a TextIOBase is no TextIO


def _progress(titles: Titles) -> AbstractContextManager["Progress | None"]:
    if not sys.stderr.isatty():
        return nullcontext()
    from milepost.cli.progress import progress_on_terminal  # noqa: PLC0415  (only where bars are drawn)

    return progress_on_terminal(sys.stderr, titles.short)


def _conditions(settings: Settings, checkpoints: Sequence[Checkpoint], *, is_at_work: bool) -> dict[Stream, Condition]:
    sync = settings.sync
    around = ConditionContext(
        datetime.now(UTC), is_at_work, sync.interval_seconds, sync.batch_size, rate_limits_of(checkpoints)
    )
    return {checkpoint.stream: condition(checkpoint, around) for checkpoint in checkpoints}


def _known(wanted: Sequence[Stream], parts: Parts) -> Sequence[Stream]:
    """Return the streams to sync: the wanted ones, or all. If page discovery failed, some may be missing.

    Raises BadParameter for a stream that does not exist, and BadConfiguration if there are none at all.
    """
    streams = parts.supervisor.streams
    if parts.undiscovered is not None:
        return [stream for stream in wanted or streams if stream in streams]
    if not streams:
        raise BadConfiguration(
            "there is nothing to sync: source.access_token manages no page",
            hint="give its owner a role on a page, or list pages in config.yaml",
        )
    demand_worked(wanted, streams)
    return wanted or streams


# --- syncing through a daemon -----------------------------------------------------------------------------------------

POLL_SECONDS = 0.5
MAX_REQUESTS = 16  # at once: each waits for the batch in hand of its stream


class Look(Struct, frozen=True, eq=False):
    """How to watch the daemon: `is_at_work` returns whether one is running.

    `show` is called with each checkpoint; None if there is no display.
    """

    journal_reader: JournalReader
    is_at_work: Callable[[], Awaitable[bool]]
    now: Callable[[], datetime]
    show: Callable[[Checkpoint], None] | None = None


async def sync_through_daemon(
    who: Operator, streams: Sequence[Stream], look: Look, settings: SyncSettings, stop: Stop, *, full: bool
) -> list[RunResult]:
    """Make each stream run once, and return how each run ended; a result has no run if a stop came first.

    It waits while a daemon is running, and at most as long as the daemon may take.
    """
    before = {each.stream: each for each in await look.journal_reader.checkpoints()}
    refused = dict[Stream, str]()
    async with stop.interruptible():  # the daemon answers once the batch in hand is committed
        refused = await _request_runs(who, streams, full=full)
    wanted = {stream: before.get(stream) for stream in streams if stream not in refused}
    asked_at, over_at = look.now(), monotonic() + _longest_seconds(settings, len(streams))
    ended: dict[Stream, Checkpoint] = {}
    while len(ended) < len(wanted) and monotonic() < over_at and not stop.is_requested and await look.is_at_work():
        async with stop.interruptible():
            await asyncio.sleep(POLL_SECONDS)
        read = {} if look.show is None else await who.read()
        checkpoints = await look.journal_reader.checkpoints()
        limits = rate_limits_of(checkpoints)
        run_ends_at = asked_at + timedelta(seconds=settings.max_run_duration_seconds)
        for each in checkpoints:
            if each.stream in wanted:
                if look.show is not None:
                    look.show(_with_unrecorded(each, read.get(each.stream, 0)))
                is_held = (held_until(each.stream, limits) or asked_at) > run_ends_at
                if _has_run(each, wanted[each.stream], full=full) or _waits_longer(each, is_held=is_held):
                    ended[each.stream] = each
    return [_run_result(stream, ended.get(stream), wanted.get(stream), refused) for stream in streams]


async def _request_runs(who: Operator, streams: Sequence[Stream], *, full: bool) -> dict[Stream, str]:
    """Request a run of each stream, and return why some were refused. Raises errors that concern all streams."""
    free = asyncio.Semaphore(MAX_REQUESTS)

    async def request(stream: Stream) -> MilepostError | None:
        async with free:
            try:
                await who.ask(stream, SyncNow(BY, full))
            except MilepostError as error:
                return error
        return None

    refused = dict[Stream, str]()
    for stream, error in zip(streams, await asyncio.gather(*map(request, streams)), strict=True):
        if isinstance(error, CONCERNS_ALL):
            raise error
        if error is not None:
            refused[stream] = str(error)
    return refused


def _with_unrecorded(checkpoint: Checkpoint, read: int) -> Checkpoint:
    """Return a checkpoint that includes the later batches without changes, which only the daemon knows."""
    if checkpoint.sweep is None or not is_running(checkpoint):
        return checkpoint
    unchanged = max(read - checkpoint.sweep.tally.conversations, 0)
    return replace(checkpoint, unrecorded=Tally(unchanged=unchanged))


def _longest_seconds(settings: SyncSettings, streams: int) -> float:
    """Return how long the daemon may take: the run under way and one more for each stream, given the slots."""
    turns = 1 + ceil(streams / settings.concurrency)
    return turns * (settings.max_run_duration_seconds + MAX_LATENESS_SECONDS)


def _has_run(checkpoint: Checkpoint, before: Checkpoint | None, *, full: bool) -> bool:
    """Return whether a new run of the requested kind has ended."""
    run = _new_run(checkpoint, before)
    return run is not None and run.ended_at is not None and not (full and run.mode is Mode.INCREMENTAL)


def _new_run(checkpoint: Checkpoint, before: Checkpoint | None) -> Run | None:
    run, last = checkpoint.run, before.run if before is not None else None
    return run if run is not None and (last is None or run.run_id != last.run_id) else None


def _waits_longer(checkpoint: Checkpoint, *, is_held: bool) -> bool:
    """Return whether waiting for a run is pointless: an operator paused the stream, or a limit outlasts a run."""
    return not is_running(checkpoint) and (checkpoint.operator_pause is not None or is_held)


def _run_result(
    stream: Stream, ended: Checkpoint | None, before: Checkpoint | None, refused: Mapping[Stream, str]
) -> RunResult:
    if stream in refused:
        return RunResult(stream, None, error=refused[stream])
    if ended is None:
        return RunResult(stream, None)
    if ended.operator_pause is not None:
        why = f"it was paused by the {ended.operator_pause.by}, and has to be resumed first"
        return RunResult(stream, _new_run(ended, before), error=why)
    return RunResult(stream, _new_run(ended, before), backlog=ended.backlog)


# --- the summary ------------------------------------------------------------------------------------------------------

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


def rendered(synced: Synced, now: datetime, terminal: Terminal = PLAIN) -> list[str]:
    """Return the lines of the summary: one for each stream, the totals, and what to do about failures."""
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
        return [
            "source.discover_pages: the pages were not discovered: a rate limit forbids the call, or a stop came first"
        ]
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
    """Return why a stream is not complete, until when, and what to do; nothing if it is complete."""
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
