"""`milepost streams remove`: drops the rows and the checkpoint of streams that are no longer wanted."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click

from milepost.app.database import store_url_of
from milepost.cli.options import (
    BY,
    config_option,
    configured_streams,
    confirm,
    demand_known,
    load_settings,
    parse_stream,
    yes_option,
)
from milepost.core.errors import StoreBusy
from milepost.core.model import Stream
from milepost.reporting.humanize import counted, in_columns, on_one_line
from milepost.settings import Settings
from milepost.stores.erasure import StreamRows
from milepost.stores.open import is_at_work, open_reader, remove

RIGHT = frozenset({2, 3, 4, 5})


@click.group(name="streams")
def command() -> None:
    """Remove streams with their rows."""


@command.command(name="remove")
@config_option
@yes_option
@click.argument("keys", metavar="STREAM...", nargs=-1, required=True)
def remove_(config: str | None, keys: Sequence[str], *, is_confirmed: bool) -> None:
    """Remove everything stored for streams: contacts, conversations, messages, dead letters, runs and the checkpoint.

    STREAM is messenger:<page id> or instagram:<page id>; its page may have left the configuration. The journal keeps
    the history, and forgotten contacts stay forgotten. This cannot be undone.

    A stream that is still configured starts from scratch with its next run. With SQLite, stop the daemon first.

    Exit codes: 0 removed, or nothing was stored · 1 failed, and the message says why · 75 a daemon is using the
    database · 78 bad configuration or unusable database · 2 wrong usage
    """
    settings = load_settings(config)
    streams = [parse_stream(key) for key in dict.fromkeys(keys)]
    stored = {stream: rows for stream, rows in asyncio.run(_stored(settings, streams)).items() if rows is not None}
    for stream in streams:
        if stream not in stored:
            click.echo(f"Nothing is stored for {_name(stream, settings)}")
    if not stored:
        return
    if not is_confirmed:
        question = f"Remove {'it' if len(stored) == 1 else 'them'}, for good?"
        confirm(question, [*_table(stored, settings), "", *_copied_again(list(stored), settings)])
    for stream in stored:
        removed = asyncio.run(remove(store_url_of(settings), stream, BY, datetime.now(UTC)))
        click.echo(_result(stream, removed, settings))
    click.echo("\n".join(["", *_not_reached(list(stored), settings)]))


async def _stored(settings: Settings, streams: Sequence[Stream]) -> dict[Stream, StreamRows | None]:
    """Return what is stored for each stream; None where nothing is.

    Raises BadParameter for a stream that never existed, StoreBusy where a daemon keeps it from being removed.
    """
    store_url = store_url_of(settings)
    if store_url.file is not None and await is_at_work(store_url):
        raise StoreBusy(
            f"another Milepost is using the database {store_url} and has its streams in memory",
            hint="stop it first, and remove unwanted pages from the configuration before the next start",
        )
    async with open_reader(store_url) as journal_reader:
        for stream in streams:
            await demand_known(stream.key, journal_reader, settings, "STREAM")
        kept = {each.stream for each in await journal_reader.checkpoints() if each.removed_at is None}
        return {stream: await journal_reader.count_rows(stream) if stream in kept else None for stream in streams}


def _table(stored: Mapping[Stream, StreamRows], settings: Settings) -> list[str]:
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
    return in_columns([heading, *table], RIGHT)


def _result(stream: Stream, removed: StreamRows | None, settings: Settings) -> str:
    if removed is None:  # somebody else removed it since it was counted
        return f"Nothing is stored for {_name(stream, settings)} any more"
    parts = (
        counted(removed.contacts, "contact"),
        counted(removed.conversations, "conversation"),
        counted(removed.interaction_events, "message"),
        counted(removed.open_dead_letters, "open dead letter"),
    )
    return f"Removed {_name(stream, settings)}: {', '.join(parts)}"


def _not_reached(streams: Sequence[Stream], settings: Settings) -> list[str]:
    """Return what happens to the streams, and where else their rows may be."""
    store_url = store_url_of(settings)
    if store_url.file is not None:
        where = f"{store_url}-wal, if another program was reading the database: it goes when the last one closes it"
    else:
        where = "the server's own files, until the tables are vacuumed, and its write-ahead log"
    return [
        *_copied_again(streams, settings),
        "The journal keeps the history: ids, counts and times, never names or texts.",
        "Not removed:",
        "  → backups and snapshots",
        f"  → {where}",
        "  → the inbox at Meta itself, and copies made elsewhere, such as an export of the tables",
    ]


def _copied_again(streams: Sequence[Stream], settings: Settings) -> list[str]:
    """Return which of the streams will be copied again, as far as that is known without asking the API."""
    configured = configured_streams(settings)
    if configured is None:
        return ["Pages that are still discovered or simulated are copied again from scratch."]
    return [
        f"{_name(stream, settings)} is still configured: its next run copies it again from scratch."
        for stream in streams
        if stream in configured
    ]


def _name(stream: Stream, settings: Settings) -> str:
    name = _page_names(settings).get(stream.page_id)
    return f"{stream.key} ({name})" if name else stream.key


def _page_names(settings: Settings) -> dict[str, str]:
    return {page.id: on_one_line(page.name) for page in settings.pages}
