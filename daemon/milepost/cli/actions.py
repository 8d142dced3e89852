"""Performs commands on streams and dead letters: through a daemon, or in this process if none runs them.

With SQLite, only the process that runs a stream may write to its journal, and a daemon runs all streams. With
PostgreSQL any process may, because the workers follow the journal.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from typing import assert_never

from msgspec import Struct

from milepost.app.build import Parts, assembled
from milepost.app.database import store_url_of
from milepost.cli.daemon_client import Daemon, OpenSweeps, daemon_at
from milepost.cli.options import Titles, demand_worked, warnings_logged
from milepost.cli.terminal import echo_wrapped
from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import CommandDeferred, DeadLetterCommand, PauseStream, ResumeStream, StreamCommand
from milepost.core.errors import BadConfiguration, MilepostError, StoreAway, StoreBusy, StoreRefused
from milepost.core.events import Reason
from milepost.core.model import Stream
from milepost.engine.interrupt import Stop, stopping_on_signals
from milepost.reporting.humanize import ahead, on_one_line
from milepost.reporting.summary import ExitCode, most_serious
from milepost.reporting.views import ActionOutcome, ActionResult, accepted, closed, held, refused, result_of
from milepost.settings.model import Settings
from milepost.stores.open import is_at_work, open_reader

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


async def perform_on_streams(
    settings: Settings, streams: Sequence[Stream], command: PauseStream | ResumeStream
) -> ExitCode:
    """Execute a command for each stream, print each result, and return the exit code."""
    stop, is_refused = Stop(), False
    with warnings_logged(settings):
        async with stopping_on_signals(stop), operator(settings, stop) as who:
            demand_worked(streams, who.streams)
            for stream in streams:
                if stop.is_requested:
                    return ExitCode.PROGRESS_SAVED
                result = await _stream_result(who, stream, command, stop)
                if result is None:
                    echo_wrapped(f"{who.titles.of(stream)}: not confirmed; it may still take effect")
                    return ExitCode.PROGRESS_SAVED
                is_refused = is_refused or isinstance(result, MilepostError)
                echo_wrapped(f"{who.titles.of(stream)}: {result}")
    return ExitCode.WITH_ERRORS if is_refused else ExitCode.COMPLETE


async def _stream_result(
    who: Operator, stream: Stream, command: PauseStream | ResumeStream, stop: Stop
) -> str | MilepostError | None:
    """Return the result of a command in words, or its error; None if a stop came before it.

    Raises errors that concern all streams.
    """
    try:
        # A daemon answers once the batch in hand is committed. Where none runs, this process does it at once.
        async with stop.interruptible() if who.is_daemon else nullcontext():
            await who.ask(stream, command)
            return _done(who, stream, command)
    except CONCERNS_ALL:
        raise
    except MilepostError as error:
        return error
    return None


def _done(who: Operator, stream: Stream, command: PauseStream | ResumeStream) -> str:
    if isinstance(command, PauseStream):
        return f"paused; `milepost resume {stream.key}` resumes it"
    return "resumed, and syncs at once" if who.is_daemon else "resumed; it syncs with the next run"


# --- dead letters -----------------------------------------------------------------------------------------------------

Work = Sequence[tuple[str, DeadLetter, DeadLetterCommand]]
"""Dead letters, each with the label that its line begins with, and with the command to perform."""


async def perform_on_dead_letters(settings: Settings, work: Work, done: str) -> ExitCode:
    """Perform the commands one after the other, print each result, and return the exit code.

    `done` describes a closed dead letter. Raises MilepostError for failures that concern more than one of them.
    """
    stop, answers = Stop(), list[ActionResult]()
    store_url = store_url_of(settings)
    at_work = store_url.file is not None and await is_at_work(store_url)
    async with stopping_on_signals(stop), daemon_or_parts(settings, stop, at_work=at_work) as who:
        for number, (label, dead_letter, command) in enumerate(work, start=1):
            if stop.is_requested:
                break
            answer = await _do(who, dead_letter, command, stop)
            answers.append(answer)
            nth = f"[{number:,}/{len(work):,}] " if len(work) > 1 else ""
            echo_wrapped(f"{nth}{label}: {_words(answer, done)}")
    if len(work) > 1:
        echo_wrapped(f"{sum(answer.outcome is ActionOutcome.CLOSED for answer in answers):,} of {len(work):,} {done}")
    return await _exit_code(settings, work, answers)


async def _do(who: Daemon | Parts, dead_letter: DeadLetter, command: DeadLetterCommand, stop: Stop) -> ActionResult:
    if isinstance(who, Parts):
        return await _here(who, command)
    async with stop.interruptible():
        return await who.do(command)
    return accepted(dead_letter)  # the daemon continues without us


async def _here(parts: Parts, command: DeadLetterCommand) -> ActionResult:
    before = await parts.store.find_open_dead_letters((command.dead_letter_id,))
    if not before:  # closed meanwhile, by the redrive of another dead letter of the same conversation
        return closed(command.dead_letter_id)
    try:
        return result_of(before[0].dead_letter, await parts.supervisor.do(command))
    except CommandDeferred as why:
        return held(before[0].dead_letter, why)
    except CONCERNS_ALL:
        raise
    except MilepostError as error:  # it concerns this dead letter only
        return refused(command.dead_letter_id, str(error))


def _words(answer: ActionResult, done: str) -> str:
    match answer.outcome:
        case ActionOutcome.CLOSED:
            return done
        case ActionOutcome.FAILED:
            at = answer.redrive_at
            again = "" if at is None else f"; next attempt {ahead(at, datetime.now(UTC))}"
            return f"still open: {on_one_line(answer.reason or 'no reason was given')}{again}"
        case ActionOutcome.HELD:
            return f"not tried: {on_one_line(answer.reason or 'no reason was given')}"
        case ActionOutcome.ACCEPTED:
            return "it takes a while; the daemon continues"
        case unknown:
            assert_never(unknown)


async def _exit_code(settings: Settings, work: Work, answers: Sequence[ActionResult]) -> ExitCode:
    streams = {dead_letter.dead_letter_id: dead_letter.stream for _, dead_letter, _ in work}
    failed = {streams[answer.dead_letter_id] for answer in answers if answer.outcome is ActionOutcome.FAILED}
    are_known = all(answer.outcome in {ActionOutcome.CLOSED, ActionOutcome.FAILED} for answer in answers)
    codes = set() if are_known and len(answers) == len(work) else {ExitCode.PROGRESS_SAVED}
    if failed:
        codes |= {ExitCode.WITH_ERRORS, *await _stops(settings, failed)}
    return most_serious(codes)


async def _stops(settings: Settings, streams: set[Stream]) -> set[ExitCode]:
    """Return the exit codes of those streams that need a person before they can read anything."""
    codes = {Reason.AUTHORIZATION: ExitCode.AUTHORIZATION, Reason.CONFIGURATION: ExitCode.CONFIGURATION}
    async with open_reader(store_url_of(settings)) as journal_reader:
        checkpoints = await journal_reader.checkpoints()
    reasons = {each.failure_streak.reason for each in checkpoints if each.stream in streams and each.failure_streak}
    return {codes[reason] for reason in reasons if reason in codes}
