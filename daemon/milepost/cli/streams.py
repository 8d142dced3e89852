"""`milepost streams remove`: drops the rows and the checkpoint of pages that are given up."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click

from milepost.app.database import store_url_of
from milepost.cli.known_streams import configured_streams, demand_known
from milepost.cli.options import config_option, load_settings
from milepost.core.errors import StoreBusy
from milepost.core.model import Stream
from milepost.reporting.humanize import counted, in_columns, on_one_line
from milepost.settings import Settings
from milepost.stores.erasure import StreamRows
from milepost.stores.open import is_at_work, open_reader, remove

BY = "command line"  # who asks, as the journal keeps it
RIGHT = frozenset({2, 3, 4, 5})


@click.group(name="streams")
def command() -> None:
    """Remove streams that are given up, with their rows."""


@command.command(name="remove")
@config_option
@click.option("--yes", "is_confirmed", is_flag=True, help="Don't ask whether to do it.")
@click.argument("keys", metavar="STREAM...", nargs=-1, required=True)
def remove_(config: str | None, keys: Sequence[str], *, is_confirmed: bool) -> None:
    """Remove all that is stored of streams: contacts, conversations, messages, dead letters, runs and the checkpoint.

    STREAM is messenger:<page id> or instagram:<page id>. The configuration need not name its page any more. The journal
    keeps its history, and who was forgotten stays forgotten. It cannot be undone.

    A stream that is still configured begins anew with its next run. With SQLite, no daemon may run meanwhile.

    Exit codes: 0 removed, or nothing was stored · 1 not, and the message says why · 75 a daemon works on the database ·
    78 bad configuration, or a database that cannot be used · 2 wrong usage
    """
    settings = load_settings(config)
    streams = [_stream(key) for key in dict.fromkeys(keys)]
    stored = {stream: rows for stream, rows in asyncio.run(_stored(settings, streams)).items() if rows is not None}
    for stream in streams:
        if stream not in stored:
            click.echo(f"Nothing is stored of {_named(stream, settings)}")
    if not stored:
        return
    if not is_confirmed:
        _confirm(stored, settings)
    for stream in stored:
        removed = asyncio.run(remove(store_url_of(settings), stream, BY, datetime.now(UTC)))
        click.echo(_told(stream, removed, settings))
    click.echo("\n".join(["", *_left(list(stored), settings)]))


def _stream(key: str) -> Stream:
    try:
        return Stream.parse(key)
    except ValueError as error:
        raise click.BadParameter(
            f"{key!r} is not a stream; write messenger:<page id> or instagram:<page id>", param_hint="STREAM"
        ) from error


async def _stored(settings: Settings, streams: Sequence[Stream]) -> dict[Stream, StreamRows | None]:
    """Count what is stored of each stream: None where nothing is.

    Raises BadParameter for a stream that there never was, StoreBusy where a daemon would keep it from being removed.
    """
    store_url = store_url_of(settings)
    if store_url.file is not None and await is_at_work(store_url):
        raise StoreBusy(
            f"another Milepost works on the database {store_url}, and has its streams in memory",
            hint="stop it first; a page that is to stay away has to leave the configuration before the next start",
        )
    async with open_reader(store_url) as journal_reader:
        for stream in streams:
            await demand_known(stream.key, journal_reader, settings, "STREAM")
        kept = {each.stream for each in await journal_reader.checkpoints() if each.removed_at is None}
        return {stream: await journal_reader.count_rows(stream) if stream.key in kept else None for stream in streams}


def _confirm(stored: Mapping[Stream, StreamRows], settings: Settings) -> None:
    """Ask whether to do it. Raises UsageError where nobody can be asked, Abort where the answer is no."""
    if not sys.stdin.isatty():
        raise click.UsageError("stdin is not a terminal: pass --yes to confirm")
    names = _page_names(settings)
    heading = ("stream", "page", "contacts", "conversations", "messages", "open dead letters")
    table = [
        (
            stream.key,
            names.get(stream.page_id) or "-",
            f"{rows.contacts:,}",
            f"{rows.conversations:,}",
            f"{rows.interaction_events:,}",
            f"{rows.open_dead_letters:,}",
        )
        for stream, rows in stored.items()
    ]
    click.echo("\n".join([*in_columns([heading, *table], RIGHT), "", *_returning(list(stored), settings)]))
    click.confirm(f"Remove {'it' if len(stored) == 1 else 'them'}, for good?", abort=True)


def _told(stream: Stream, removed: StreamRows | None, settings: Settings) -> str:
    if removed is None:  # by somebody else, since it was counted
        return f"Nothing is stored of {_named(stream, settings)} any more"
    parts = (
        counted(removed.contacts, "contact"),
        counted(removed.conversations, "conversation"),
        counted(removed.interaction_events, "message"),
        counted(removed.open_dead_letters, "open dead letter"),
    )
    return f"Removed {_named(stream, settings)}: {', '.join(parts)}"


def _left(streams: Sequence[Stream], settings: Settings) -> list[str]:
    """Say what becomes of them, and where else their rows may be."""
    store_url = store_url_of(settings)
    if store_url.file is not None:
        where = f"{store_url}-wal, if another program was reading the database: it goes with the last one"
    else:
        where = "the server's own files, until it has vacuumed the tables, and its write-ahead log"
    return [
        *_returning(streams, settings),
        "The journal keeps its history: ids, counts and times, never names or texts.",
        "What this does not reach:",
        "  → backups and snapshots",
        f"  → {where}",
        "  → the inbox at Meta itself, and what was copied elsewhere, such as an export of the tables",
    ]


def _returning(streams: Sequence[Stream], settings: Settings) -> list[str]:
    """Say which of the streams will be copied again, as far as that can be told without asking the API."""
    configured = configured_streams(settings)
    if configured is None:
        return ["Pages that are still discovered or simulated are copied again from their beginning."]
    return [
        f"{_named(stream, settings)} is still configured: its next run copies it again from its beginning."
        for stream in streams
        if stream.key in configured
    ]


def _named(stream: Stream, settings: Settings) -> str:
    name = _page_names(settings).get(stream.page_id)
    return f"{stream.key} ({name})" if name else stream.key


def _page_names(settings: Settings) -> dict[str, str]:
    return {page.id: on_one_line(page.name) for page in settings.pages}
