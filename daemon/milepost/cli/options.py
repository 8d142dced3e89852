"""Options and arguments of several commands: the configuration, confirmations, and streams with their page names."""

import asyncio
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from milepost.app.database import store_url_of
from milepost.cli.terminal import Column, clipped, did_you_mean, elided_key
from milepost.core.errors import MilepostError
from milepost.core.model import Platform, Stream
from milepost.reporting.humanize import listed, on_one_line
from milepost.settings.load import load_or_default
from milepost.settings.model import Settings
from milepost.settings.secrets import secrets
from milepost.stores.open import has_database, open_reader
from milepost.stores.reader import JournalReader

MAX_NAMED = 12
LIKENESS = 0.8  # all keys of a platform are half alike
BY = "command line"  # the actor that the journal records
_PAGE = Column("page", shortest=12, shorten=clipped)
# If the page's name is unknown, the key is shown whole: people type it.
_STREAM, _SHORT_STREAM = Column("stream"), Column("stream", shortest=19, shorten=elided_key)

config_option = click.option(
    "-c",
    "--config",
    metavar="FILE",
    envvar="MILEPOST_CONFIG",
    help="The configuration file. Default: MILEPOST_CONFIG, else config.yaml in the current directory, else the "
    "built-in settings.",
)
yes_option = click.option("--yes", "is_confirmed", is_flag=True, help="Do not ask for confirmation.")


def load_settings(config: str | None) -> Settings:
    """Load the configuration that the option names. Raises BadConfiguration, which names everything wrong with it."""
    return load_or_default(None if config is None else Path(config), os.environ)


def parse_streams(keys: Sequence[str]) -> list[Stream]:
    """Parse the arguments STREAM, dropping duplicates. Raises BadParameter if one is not a stream."""
    return [parse_stream(key) for key in dict.fromkeys(keys)]


def parse_stream(key: str) -> Stream:
    """Parse the argument STREAM. Raises BadParameter if it is not a stream."""
    try:
        return Stream.parse(key)
    except ValueError as error:
        platform, _, page_id = key.partition(":")
        others = [f"{each.value}:{page_id}" for each in Platform] if page_id and platform else []
        meant = did_you_mean(key, others, LIKENESS) or "; write messenger:<page id> or instagram:<page id>"
        raise click.BadParameter(f"{key!r} is not a stream{meant}", param_hint="STREAM") from error


def confirm(question: str, shown: Sequence[str] = ()) -> None:
    """Show some lines, and ask whether to go ahead. Raises UsageError without a terminal, Abort for a no.

    All of that goes to stderr: stdout may be a file, in which nobody would see that a question waits.
    """
    if not sys.stdin.isatty():
        raise click.UsageError("stdin is not a terminal; pass --yes to confirm")
    if shown:
        click.echo("\n".join(shown), err=True)
    click.confirm(question, abort=True, err=True)


def warnings_logged(settings: Settings) -> AbstractContextManager[None]:
    """Log warnings to stderr during the block, without the secrets of the settings."""
    # Imported here because most commands log nothing.
    from milepost.service.logs.lines import Redactor  # noqa: PLC0415
    from milepost.service.logs.output import logged  # noqa: PLC0415

    log, redactor = settings.log, Redactor(secrets(settings))
    return logged(log.format, "warning", redactor, stream=sys.stderr, environment=os.environ)


# --- known streams ----------------------------------------------------------------------------------------------------


def complete_stream(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the known streams that begin with the typed text, for shell completion; none after an error."""
    try:
        settings = load_settings(ctx.params.get("config"))
        known = asyncio.run(_known_streams(settings))
    except (MilepostError, OSError):
        return []
    given = ctx.params.get("streams") or ()
    return [
        CompletionItem(key, help=name)
        for key, name in sorted(known.items())
        if key.startswith(incomplete) and key not in given
    ]


async def _known_streams(settings: Settings) -> dict[str, str]:
    """Return the keys of the streams that are configured or stored, each with the name of its page."""
    store_url, streams = store_url_of(settings), {*(configured_streams(settings) or ())}
    names = configured_names(settings)
    if await has_database(store_url):
        async with open_reader(store_url) as journal_reader:
            streams |= {each.stream for each in await journal_reader.checkpoints() if each.removed_at is None}
            names = await known_names(settings, journal_reader)
    return {stream.key: names.get(stream.page_id, "") for stream in streams}


streams_argument = click.argument(
    "streams", metavar="STREAM...", nargs=-1, required=True, shell_complete=complete_stream
)
stream_option = click.option(
    "--stream",
    metavar="STREAM",
    shell_complete=complete_stream,
    help="Only this stream: messenger:<page id> or instagram:<page id>.",
)


def configured_streams(settings: Settings) -> Sequence[Stream] | None:
    """Return the streams that the configuration lists; None if discovery or the simulator provides them."""
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
        raise click.BadParameter(unknown_stream(stream, stored | configured), param_hint=given_as)


def demand_worked(wanted: Sequence[Stream], streams: Sequence[Stream]) -> None:
    """Raise BadParameter for the first of the `wanted` streams that is not run here."""
    for stream in wanted:
        if stream not in streams:
            message = unknown_stream(stream.key, [each.key for each in streams])
            raise click.BadParameter(message, param_hint="STREAM")


def unknown_stream(stream: str, known: Iterable[str]) -> str:
    """Return the error message for an unknown stream: it suggests a similar one, or lists the known ones."""
    keys = sorted(known)
    return f"there is no stream {stream}{did_you_mean(stream, keys, LIKENESS) or f'; known are {named(keys)}'}"


def named(keys: Sequence[str]) -> str:
    """Return the keys of streams in words; of many streams only the first ones."""
    return listed(keys, MAX_NAMED) or "none so far"


# --- titles of streams ------------------------------------------------------------------------------------------------


class Titles:
    """The titles of streams. `names` has the known names of pages by id."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = {page_id: on_one_line(name) for page_id, name in names.items() if name}

    def name(self, stream: Stream) -> str:
        """Return the name of a stream's page; "" if it is unknown."""
        return self._names.get(stream.page_id, "")

    def of(self, stream: Stream) -> str:
        """Return the title of a stream: `Corner Bakery (messenger:1234567890)`, or its key alone."""
        name = self.name(stream)
        return f"{name} ({stream.key})" if name else stream.key

    def short(self, stream: Stream) -> str:
        """Return a short title for narrow lines: `Corner Bakery messenger`, or the key."""
        name = self.name(stream)
        return f"{name} {stream.platform}" if name else stream.key

    def columns(self, streams: Collection[Stream]) -> list[Column]:
        """Return the first columns of a table of these streams."""
        return [_PAGE, _SHORT_STREAM] if any(map(self.name, streams)) else [_STREAM]

    def cells(self, stream: Stream, columns: Sequence[Column]) -> list[str]:
        """Return the cells of a stream in those columns."""
        return [self.name(stream) or "-", stream.key] if _PAGE in columns else [stream.key]


NO_TITLES = Titles({})


def configured_names(settings: Settings) -> dict[str, str]:
    """Return the configured names of pages by id."""
    return {page.id: page.name for page in settings.pages if page.name}


async def known_names(settings: Settings, journal_reader: JournalReader) -> dict[str, str]:
    """Return the names of pages by id: from the configuration, and for the others from the database."""
    return {**await journal_reader.page_names(), **configured_names(settings)}


async def known_titles(settings: Settings, journal_reader: JournalReader) -> Titles:
    """Return the titles of streams, with the names of `known_names`."""
    return Titles(await known_names(settings, journal_reader))
