"""Pauses and resumes streams through a daemon, or in this process if none runs them; syncs them through a daemon.

With SQLite, only the process that runs a stream may write to its journal. With PostgreSQL any process may, because the
workers follow the journal.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from math import ceil
from time import monotonic

from msgspec import Struct
from msgspec.structs import replace

from milepost.app.build import Parts, assembled
from milepost.app.database import store_url_of
from milepost.cli.daemon_client import Daemon, OpenSweeps, daemon_at
from milepost.cli.options import BY, Titles, demand_worked, warnings_logged
from milepost.cli.terminal import echo_wrapped
from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.commands import PauseStream, ResumeStream, StreamCommand, SyncNow
from milepost.core.errors import BadConfiguration, MilepostError, StoreAway, StoreBusy, StoreRefused
from milepost.core.events import Tally
from milepost.core.model import Stream
from milepost.core.ports import RunResult
from milepost.core.position import Mode
from milepost.core.retry import held_until
from milepost.engine.interrupt import Stop, stopping_on_signals
from milepost.engine.supervisor import MAX_LATENESS_SECONDS
from milepost.reporting.status import is_running, rate_limits_of
from milepost.reporting.summary import ExitCode
from milepost.settings import Settings, SyncSettings
from milepost.stores.open import is_at_work
from milepost.stores.reader import JournalReader

# Errors that end a command for several streams: the remaining streams would fail as well.
CONCERNS_ALL = (StoreAway, StoreBusy, StoreRefused, BadConfiguration)


class Operator(Struct, frozen=True, eq=False):
    """Executes commands for streams: in a daemon, or in this process.

    `streams` are those that accept commands, with their `titles`. `ask` raises MilepostError if a command cannot be
    executed. `read` returns how many conversations each open sweep has read, if only the daemon knows that.
    `is_daemon` says whether a Milepost is running the streams.
    """

    streams: Sequence[Stream]
    titles: Titles
    ask: Callable[[Stream, StreamCommand], Awaitable[None]]
    read: Callable[[], Awaitable[Mapping[Stream, int]]]
    is_daemon: bool


@asynccontextmanager
async def operator(settings: Settings, stop: Stop, *, for_runs: bool = False) -> AsyncIterator[Operator]:
    """Open the operator of the streams.

    `for_runs` is for a caller that has found a Milepost running and wants it to do runs; only the streams that it runs
    are then available. Otherwise the streams of the journal are available as well, and this process acts if no Milepost
    is running.

    Raises StoreBusy if a daemon runs the streams and does not answer.
    """
    # Not checked again for runs: if the Milepost has ended meanwhile, we would wait for runs that no process does.
    at_work = for_runs or await is_at_work(store_url_of(settings))
    async with daemon_or_parts(settings if for_runs else _without_discovery(settings), stop, at_work=at_work) as who:
        if isinstance(who, Daemon):
            yield await _of_daemon(who)
            return
        streams = list(who.supervisor.streams)
        if not for_runs:
            streams += [each.stream for each in await who.store.checkpoints() if not each.removed_at]
        titles = Titles(who.registry.page_names())
        yield Operator([*dict.fromkeys(streams)], titles, who.supervisor.ask, _nothing, at_work)


@asynccontextmanager
async def daemon_or_parts(settings: Settings, stop: Stop, *, at_work: bool) -> AsyncIterator[Daemon | Parts]:
    """Open a client of the daemon that uses a SQLite database if one is `at_work`, otherwise the parts of a daemon."""
    if at_work and store_url_of(settings).file is not None:
        async with daemon_at(settings.http) as daemon:
            yield daemon
    else:
        async with assembled(settings, stop) as parts:
            yield parts


def _without_discovery(settings: Settings) -> Settings:
    """Return settings without page discovery, which waits for the API: the journal knows the discovered pages."""
    source = settings.source.model_copy(update={"discover_pages": False})
    return settings.model_copy(update={"source": source})


async def _of_daemon(daemon: Daemon) -> Operator:
    worked = [each for each in await daemon.fetch_streams() if each.is_configured]
    titles = Titles({each.page_id: each.page_name for each in worked})

    streams = [Stream.parse(each.stream) for each in worked]
    return Operator(streams, titles, daemon.ask, OpenSweeps(daemon).read, is_daemon=True)


async def _nothing() -> Mapping[Stream, int]:
    return {}


async def perform(settings: Settings, streams: Sequence[Stream], command: PauseStream | ResumeStream) -> ExitCode:
    """Execute a command for each stream, print each result, and return the exit code."""
    stop, is_refused = Stop(), False
    with warnings_logged(settings):
        async with stopping_on_signals(stop), operator(settings, stop) as who:
            demand_worked(streams, who.streams)
            for stream in streams:
                if stop.is_requested:
                    return ExitCode.PROGRESS_SAVED
                result = await _result(who, stream, command)
                is_refused = is_refused or isinstance(result, MilepostError)
                echo_wrapped(f"{who.titles.of(stream)}: {result}")
    return ExitCode.WITH_ERRORS if is_refused else ExitCode.COMPLETE


async def _result(who: Operator, stream: Stream, command: PauseStream | ResumeStream) -> str | MilepostError:
    """Return the result of a command in words, or its error. Raises errors that concern all streams."""
    try:
        await who.ask(stream, command)
    except CONCERNS_ALL:
        raise
    except MilepostError as error:
        return error
    if isinstance(command, PauseStream):
        return f"paused; `milepost resume {stream.key}` resumes it"
    return "resumed, and syncs at once" if who.is_daemon else "resumed; it syncs with the next run"


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
        why = f"it is paused (by {ended.operator_pause.by}) and has to be resumed first"
        return RunResult(stream, _new_run(ended, before), error=why)
    return RunResult(stream, _new_run(ended, before), backlog=ended.backlog)
