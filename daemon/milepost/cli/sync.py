"""`milepost sync`: one run for every stream, with progress, a summary and an exit code for scripts."""

import asyncio
import sys

import click

from milepost.cli.options import complete_stream, config_option, load_settings, parse_streams


@click.command(name="sync")
@config_option
@click.option("--full", is_flag=True, help="Read the whole inbox again, not only to the watermark.")
@click.argument("streams", metavar="[STREAM]...", nargs=-1, shell_complete=complete_stream)
def command(config: str | None, streams: tuple[str, ...], *, full: bool) -> None:
    """Sync the streams now, until each sweep is complete or a limit is reached.

    A STREAM is messenger:<page id> or instagram:<page id>. Default: all streams. If a daemon is using the database, it
    does the work, at the request of this command over its HTTP service; this command shows how far it is, and Ctrl-C
    ends only that.

    Exit codes: 0 every sweep complete · 1 complete with errors · 75 stopped at a limit, progress saved ·
    77 stopped for authorization · 78 bad configuration · 2 wrong usage
    """
    settings, wanted = load_settings(config), parse_streams(streams)
    # Imported here: completing a stream need not wait for the engine to load.
    from milepost.cli.sync_actions import perform  # noqa: PLC0415

    sys.exit(asyncio.run(perform(settings, wanted, full=full)))
