"""`milepost sync`: one turn for every stream, with progress, a summary and an exit code for scripts."""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from time import perf_counter
from typing import TextIO, cast

import click
from msgspec import Struct

from milepost.app.build import Parts, assembled
from milepost.app.database import store_url_of
from milepost.cli.options import config_option, load_settings
from milepost.cli.summary_table import rendered
from milepost.core.errors import BadConfiguration, StoreBusy
from milepost.core.model import Stream
from milepost.core.ports import Held, RunResult
from milepost.core.problems import Problem
from milepost.core.remedies import Remedy, rule_for
from milepost.engine.feed import Reader, reading
from milepost.engine.interrupt import Stop, stopping_on_signals
from milepost.reporting.status import Condition, ConditionContext, condition, rate_limits_of
from milepost.reporting.summary import ExitCode, exit_code, most_serious
from milepost.service.logs.journal import JournalLog
from milepost.service.logs.output import logged
from milepost.service.logs.redaction import Redactor
from milepost.settings import Settings, secrets
from milepost.stores.open import is_at_work


@click.command(name="sync")
@config_option
@click.option("--full", is_flag=True, help="Walk the whole inbox again, not only to the watermark.")
@click.argument("streams", metavar="[STREAM]...", nargs=-1)
def command(config: str | None, streams: tuple[str, ...], *, full: bool) -> None:
    """Work the streams now, until each sweep is complete or a limit is hit.

    A STREAM is written messenger:<page id> or instagram:<page id>; without any, all are worked.

    Exit codes: 0 every sweep complete · 1 complete with errors · 75 stopped at a limit, progress saved ·
    77 stopped for authorization · 78 bad configuration · 2 wrong usage
    """
    settings = load_settings(config)
    wanted = [_stream(text) for text in streams]
    synced = asyncio.run(_sync(settings, wanted, full=full))
    click.echo(rendered(synced.results, synced.seconds, synced.conditions, datetime.now(UTC)))
    sys.exit(most_serious({exit_code(synced.results), _code_of(synced.undiscovered)}))


class _Synced(Struct, frozen=True):
    """What a sync came to, and how the streams stand after it."""

    results: list[RunResult]
    seconds: float
    conditions: dict[str, Condition]
    undiscovered: Problem | Held | None


def _stream(text: str) -> Stream:
    try:
        return Stream.parse(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a stream; write messenger:<page id> or instagram:<page id>", param_hint="STREAM"
        ) from error


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
    """Raise StoreBusy where workers are at work: they do it, and better. SQLite's own lock tells so by itself."""
    store_url = store_url_of(settings)
    if store_url.file is None and await is_at_work(store_url):
        raise StoreBusy(
            f"workers are at work on the database {store_url}",
            hint="stop them first, or let them do the work: `milepost status` shows what they do",
        )


async def _conditions(settings: Settings, parts: Parts) -> dict[str, Condition]:
    checkpoints = await parts.store.checkpoints()
    sync = settings.sync
    around = ConditionContext(
        parts.clock.now(), False, sync.interval_seconds, sync.batch_size, rate_limits_of(checkpoints)
    )
    return {checkpoint.stream: condition(checkpoint, around) for checkpoint in checkpoints}


def _code_of(undiscovered: Problem | Held | None) -> ExitCode:
    """Say what it means for the exit code that the pages could not be discovered."""
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
    """Show the progress where a person looks on; write plain log lines elsewhere."""
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
    """Give the streams to work. Raises BadConfiguration for one that there is not, or where there are none at all."""
    if not parts.supervisor.streams and parts.undiscovered is None:
        raise BadConfiguration(
            "there is nothing to sync: source.access_token manages no page",
            hint="give its owner a role on a page, or name pages in config.yaml",
        )
    unknown = [stream.key for stream in wanted if stream not in parts.supervisor.streams]
    if unknown:
        raise BadConfiguration(
            f"there is no stream {', '.join(unknown)}",
            hint=f"the configured streams are {', '.join(stream.key for stream in parts.supervisor.streams)}",
        )
    return wanted or parts.supervisor.streams
