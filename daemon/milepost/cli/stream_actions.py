"""Pauses, resumes and syncs streams where a daemon works them, or in this process where none does.

Only the process that works a stream of a SQLite database may write to its journal. In PostgreSQL anybody may: the
workers follow the journal, wherever they run.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct

from milepost.app.build import Parts, assembled
from milepost.app.database import store_url_of
from milepost.cli.daemon_client import Daemon, OpenSweeps, daemon_at
from milepost.cli.options import Titles, demand_worked, warnings_logged
from milepost.cli.terminal import echo_wrapped
from milepost.core.commands import PauseStream, ResumeStream, StreamCommand
from milepost.core.errors import BadConfiguration, MilepostError, StoreAway, StoreBusy, StoreRefused
from milepost.core.model import Stream
from milepost.engine.interrupt import Stop, stopping_on_signals
from milepost.reporting.summary import ExitCode
from milepost.settings import Settings
from milepost.stores.open import is_at_work

# What ends a command for several streams: no other one of them would fare better.
CONCERNS_ALL = (StoreAway, StoreBusy, StoreRefused, BadConfiguration)


class Operator(Struct, frozen=True, eq=False):
    """Who executes commands for streams: a daemon, or this process.

    `streams` are those that take commands, `titles` what people call them. `ask` raises MilepostError where a command
    cannot be executed. `read` returns how many conversations each open sweep has read, as far as only the daemon knows.
    `is_daemon` is whether a Milepost is at work on the streams.
    """

    streams: Sequence[Stream]
    titles: Titles
    ask: Callable[[Stream, StreamCommand], Awaitable[None]]
    read: Callable[[], Awaitable[Mapping[Stream, int]]]
    is_daemon: bool


@asynccontextmanager
async def operator(settings: Settings, stop: Stop, *, for_runs: bool = False) -> AsyncIterator[Operator]:
    """Open the operator of the streams.

    `for_runs` is for a caller that has found a Milepost at work, and has it do runs: of the streams that are worked.
    Otherwise there are also those of the past, and this process acts where no Milepost is at work.

    Raises StoreBusy where a daemon works them and does not answer.
    """
    # Not looked at anew for runs: one that has ended meanwhile would be waited for, and nobody would do them.
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
    """Open the daemon that works a SQLite database if one is `at_work`, else the parts of one in this process."""
    if at_work and store_url_of(settings).file is not None:
        async with daemon_at(settings.http) as daemon:
            yield daemon
    else:
        async with assembled(settings, stop) as parts:
            yield parts


def _without_discovery(settings: Settings) -> Settings:
    """Return settings under which nobody waits for the API: the journal knows the pages that were discovered."""
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
    """Return the result of a command, in words. Raises what concerns all streams."""
    try:
        await who.ask(stream, command)
    except CONCERNS_ALL:
        raise
    except MilepostError as error:
        return error
    if isinstance(command, PauseStream):
        return f"paused; `milepost resume {stream.key}` resumes it"
    return "resumed, and syncs at once" if who.is_daemon else "resumed; it syncs with the next run"
