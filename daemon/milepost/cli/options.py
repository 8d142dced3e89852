"""What several commands take: the configuration, streams, and a confirmation."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from milepost.core.model import Platform, Stream
from milepost.settings import Settings, load_or_default
from milepost.stores.reader import JournalReader

BY = "command line"  # the actor that the journal records

config_option = click.option(
    "-c",
    "--config",
    metavar="FILE",
    envvar="MILEPOST_CONFIG",
    help="The configuration file. Default: MILEPOST_CONFIG, else config.yaml in the current directory, else the "
    "built-in settings.",
)
stream_option = click.option(
    "--stream", metavar="STREAM", help="Only this stream: messenger:<page id> or instagram:<page id>."
)
yes_option = click.option("--yes", "is_confirmed", is_flag=True, help="Do not ask for confirmation.")


def load_settings(config: str | None) -> Settings:
    """Load the configuration that the option names. Raises BadConfiguration with everything that is wrong with it."""
    return load_or_default(None if config is None else Path(config), os.environ)


def parse_stream(key: str) -> Stream:
    """Parse the argument STREAM. Raises BadParameter for what is no stream."""
    try:
        return Stream.parse(key)
    except ValueError as error:
        raise click.BadParameter(
            f"{key!r} is not a stream; write messenger:<page id> or instagram:<page id>", param_hint="STREAM"
        ) from error


def confirm(question: str, shown: Sequence[str] = ()) -> None:
    """Ask whether to go ahead, below the lines `shown`. Raises UsageError without a terminal, Abort for a no."""
    if not sys.stdin.isatty():
        raise click.UsageError("stdin is not a terminal; pass --yes to confirm")
    if shown:
        click.echo("\n".join(shown))
    click.confirm(question, abort=True)


# --- known streams ----------------------------------------------------------------------------------------------------


def configured_streams(settings: Settings) -> Sequence[Stream] | None:
    """Return the streams that the configuration lists; None where it leaves that to discovery or the simulator."""
    if settings.source.discover_pages or not settings.pages:
        return None
    return [Stream(Platform(platform), page.id) for page in settings.pages for platform in page.platforms]


async def demand_known(
    stream: str | None, journal_reader: JournalReader, settings: Settings, given_as: str = "--stream"
) -> None:
    """Raise BadParameter for a stream that is neither journaled nor configured; None means all streams.

    A removed stream still has its journal and is accepted, but it is not among the streams that the error lists.
    """
    checkpoints = await journal_reader.checkpoints()
    configured = {each.key for each in configured_streams(settings) or ()}
    if stream is not None and stream not in {checkpoint.stream.key for checkpoint in checkpoints} | configured:
        stored = {checkpoint.stream.key for checkpoint in checkpoints if checkpoint.removed_at is None}
        names = ", ".join(sorted(stored | configured)) or "none so far"
        raise click.BadParameter(f"there is no stream {stream}; known are {names}", param_hint=given_as)
