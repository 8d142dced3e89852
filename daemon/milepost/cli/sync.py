"""`milepost sync`: one turn for every stream, with progress, a summary and an exit code for scripts."""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from time import perf_counter
from typing import TextIO, cast

import click

from milepost.assembly import Parts, assembled
from milepost.cli.options import config_option, load_settings
from milepost.cli.summary_table import rendered
from milepost.core.errors import BadConfiguration
from milepost.core.model import Stream
from milepost.core.summary import Result, exit_code
from milepost.engine.readers import Reader, reading
from milepost.engine.shutdown import stopping_on_signals
from milepost.engine.stop import Stop
from milepost.service.journal_log import read as log_signal
from milepost.service.logs import configure
from milepost.service.redaction import Redactor
from milepost.settings import Settings, secrets


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
    results, seconds = asyncio.run(_sync(settings, wanted, full=full))
    click.echo(rendered(results, seconds))
    sys.exit(exit_code(results))


def _stream(text: str) -> Stream:
    try:
        return Stream.parse(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a stream; write messenger:<page id> or instagram:<page id>", param_hint="STREAM"
        ) from error


async def _sync(settings: Settings, wanted: Sequence[Stream], *, full: bool) -> tuple[list[Result], float]:
    began = perf_counter()
    stop = Stop()
    with ExitStack() as stack:
        reader = _reader(settings, stack)
        async with stopping_on_signals(stop), assembled(settings, stop) as parts:
            streams = _chosen(wanted, parts)
            async with reading(parts.feed, reader):
                results = await parts.supervisor.sync(streams, full=full)
    return results, perf_counter() - began


def _reader(settings: Settings, stack: ExitStack) -> dict[str, Reader]:
    """Show the progress where a person looks on; write plain log lines elsewhere."""
    redactor, level, stream = Redactor(secrets(settings)), settings.log.level, sys.stderr
    if not sys.stderr.isatty():
        configure(settings.log.format, level, redactor, stream=stream, environment=os.environ)
        return {"log": log_signal}
    # Imported here: nobody else needs tqdm.
    from milepost.cli.progress import BesideBars, progress_on_terminal  # noqa: PLC0415

    progress = stack.enter_context(progress_on_terminal(sys.stderr))
    above_bars = cast("TextIO", BesideBars(sys.stderr))  # typeshed: a TextIOBase is no TextIO
    configure(settings.log.format, "warning", redactor, stream=above_bars, environment=os.environ)
    return {"progress": progress.read, "log": log_signal}


def _chosen(wanted: Sequence[Stream], parts: Parts) -> Sequence[Stream]:
    """Give the streams to work. Raises BadConfiguration for one that there is not."""
    unknown = [stream.key for stream in wanted if stream not in parts.streams]
    if unknown:
        raise BadConfiguration(
            f"there is no stream {', '.join(unknown)}",
            hint=f"the configured streams are {', '.join(stream.key for stream in parts.streams)}",
        )
    return wanted or parts.streams
