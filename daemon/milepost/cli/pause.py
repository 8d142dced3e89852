"""`milepost pause`: keeps streams from being worked until they are resumed."""

import asyncio
import sys

import click

from milepost.cli.options import BY, config_option, load_settings, parse_streams, streams_argument
from milepost.core.commands import PauseStream


@click.command(name="pause")
@config_option
@streams_argument
def command(config: str | None, streams: tuple[str, ...]) -> None:
    """Pause streams until they are resumed: a run ends after its current batch, and no other begins.

    STREAM is messenger:<page id> or instagram:<page id>. If a daemon is using the database, it does it, at the request
    of this command over its HTTP service; otherwise the next start finds the streams paused.

    Exit codes: 0 paused · 1 refused, and the message says why · 75 the daemon does not answer, or its database is in
    use · 78 bad configuration · 2 wrong usage
    """
    settings, wanted = load_settings(config), parse_streams(streams)
    # Imported here: completing a stream need not wait for the engine to load.
    from milepost.cli.stream_actions import perform  # noqa: PLC0415

    sys.exit(asyncio.run(perform(settings, wanted, PauseStream(BY))))
