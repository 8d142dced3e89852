"""`milepost sync`, `pause` and `resume`: an operator's commands for streams."""

import asyncio
import sys

import click

from milepost.cli.options import (
    BY,
    complete_stream,
    config_option,
    load_settings,
    parse_streams,
    streams_argument,
)
from milepost.core.commands import PauseStream, ResumeStream
from milepost.reporting.summary import ExitCode

# The actions are imported where they are used, so that completing a stream does not load the engine.


@click.command(name="sync")
@config_option
@click.option("--full", is_flag=True, help="Read the whole inbox again, not only to the watermark.")
@click.argument("streams", metavar="[STREAM]...", nargs=-1, shell_complete=complete_stream)
def command(config: str | None, streams: tuple[str, ...], *, full: bool) -> None:
    """Sync the streams now, until each sweep is complete or a limit is reached.

    A STREAM is messenger:<page id> or instagram:<page id>. Default: all streams. If a daemon is using the database,
    this command asks it to do the work, over its HTTP service, and shows the progress; Ctrl-C ends only this command.

    Exit codes: 0 every sweep complete · 1 complete with errors · 75 stopped at a limit, progress saved ·
    77 stopped for authorization · 78 bad configuration · 2 wrong usage
    """
    settings, wanted = load_settings(config), parse_streams(streams)
    from milepost.cli.sync_actions import perform  # noqa: PLC0415

    sys.exit(asyncio.run(perform(settings, wanted, full=full)))


@click.command()
@config_option
@streams_argument
def pause(config: str | None, streams: tuple[str, ...]) -> None:
    """Pause streams until they are resumed: a run ends after its current batch, and no other begins.

    STREAM is messenger:<page id> or instagram:<page id>. If a daemon is using the database, this command asks it to
    pause them, over its HTTP service; otherwise they are paused at the next start.

    Exit codes: 0 paused · 1 refused, and the message says why · 75 the daemon does not answer, or its database is in
    use · 78 bad configuration · 2 wrong usage
    """
    sys.exit(_command(config, streams, PauseStream(BY)))


@click.command()
@config_option
@streams_argument
def resume(config: str | None, streams: tuple[str, ...]) -> None:
    """Resume paused streams. A daemon syncs them at once; otherwise the next start does.

    STREAM is messenger:<page id> or instagram:<page id>. If a daemon is using the database, this command asks it to
    resume them, over its HTTP service.

    Exit codes: 0 resumed · 1 refused, and the message says why · 75 the daemon does not answer, or its database is in
    use · 78 bad configuration · 2 wrong usage
    """
    sys.exit(_command(config, streams, ResumeStream(BY)))


def _command(config: str | None, streams: tuple[str, ...], stream_command: PauseStream | ResumeStream) -> ExitCode:
    settings, wanted = load_settings(config), parse_streams(streams)
    # Imported here because a sync in this process, the usual one, does not need it.
    from milepost.cli.stream_actions import perform  # noqa: PLC0415

    return asyncio.run(perform(settings, wanted, stream_command))
