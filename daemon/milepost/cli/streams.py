"""`milepost streams remove`: drops the rows and the checkpoint of streams that are no longer wanted."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click

from milepost.app.database import store_url_of
from milepost.cli.groups import Group
from milepost.cli.options import (
    BY,
    Titles,
    config_option,
    configured_streams,
    confirm,
    demand_known,
    known_titles,
    load_settings,
    parse_streams,
    streams_argument,
    yes_option,
)
from milepost.cli.terminal import Column, Terminal, echo_wrapped, stdout_terminal, table
from milepost.core.errors import StoreBusy
from milepost.core.model import Stream
from milepost.reporting.humanize import counted
from milepost.settings import Settings
from milepost.stores.open import is_at_work, open_reader, remove
from milepost.stores.reader import StreamRows

COLUMNS = tuple(
    Column(heading, is_right=True, rank=rank)
    for heading, rank in (("contacts", 1), ("conversations", 2), ("messages", None), ("open dead letters", None))
)


@click.group(cls=Group, name="streams")
def command() -> None:
    """Remove streams with their rows."""


@command.command(name="remove")
@config_option
@yes_option
@streams_argument
def remove_(config: str | None, streams: Sequence[str], *, is_confirmed: bool) -> None:
    """Remove everything stored for streams: contacts, conversations, messages, dead letters, runs and the checkpoint.

    STREAM is messenger:<page id> or instagram:<page id>; its page may have left the configuration. The journal keeps
    the history, and forgotten contacts stay forgotten. This cannot be undone.

    A stream that is still configured starts from scratch with its next run. With SQLite, stop the daemon first.

    Exit codes: 0 removed, or nothing was stored · 1 failed, and the message says why · 75 a daemon is using the
    database · 78 bad configuration or unusable database · 2 wrong usage
    """
    settings, wanted = load_settings(config), parse_streams(streams)
    terminal = stdout_terminal()
    found, titles = asyncio.run(_stored(settings, wanted))
    stored = {stream: rows for stream, rows in found.items() if rows is not None}
    for stream in wanted:
        if stream not in stored:
            echo_wrapped(f"Nothing is stored for {titles.of(stream)}")
    if not stored:
        return
    if not is_confirmed:
        question = f"Remove {'it' if len(stored) == 1 else 'them'}, for good?"
        confirm(question, [*_table(stored, titles, terminal), "", *_copied_again(list(stored), settings, titles)])
    for stream in stored:
        removed = asyncio.run(remove(store_url_of(settings), stream, BY, datetime.now(UTC)))
        echo_wrapped(_result(stream, removed, titles))
    echo_wrapped("", *_not_reached(list(stored), settings, titles))


async def _stored(settings: Settings, streams: Sequence[Stream]) -> tuple[dict[Stream, StreamRows | None], Titles]:
    """Return what is stored for each stream, None where nothing is, and the titles of streams.

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
        found = {stream: await journal_reader.count_rows(stream) if stream in kept else None for stream in streams}
        return found, await known_titles(settings, journal_reader)


def _table(stored: Mapping[Stream, StreamRows], titles: Titles, terminal: Terminal) -> list[str]:
    leading = titles.columns(stored)
    rows = [
        (
            *titles.cells(stream, leading),
            f"{rows.contacts:,}",
            f"{rows.conversations:,}",
            f"{rows.interaction_events:,}",
            f"{rows.open_dead_letters:,}",
        )
        for stream, rows in stored.items()
    ]
    return table([*leading, *COLUMNS], rows, terminal).lines


def _result(stream: Stream, removed: StreamRows | None, titles: Titles) -> str:
    if removed is None:  # somebody else removed it since it was counted
        return f"Nothing is stored for {titles.of(stream)} any more"
    parts = (
        counted(removed.contacts, "contact"),
        counted(removed.conversations, "conversation"),
        counted(removed.interaction_events, "message"),
        counted(removed.open_dead_letters, "open dead letter"),
    )
    return f"Removed {titles.of(stream)}: {', '.join(parts)}"


def _not_reached(streams: Sequence[Stream], settings: Settings, titles: Titles) -> list[str]:
    """Return what happens to the streams, and where else their rows may be."""
    store_url = store_url_of(settings)
    if store_url.file is not None:
        where = f"{store_url}-wal, if another program was reading the database: it goes when the last one closes it"
    else:
        where = "the server's own files, until the tables are vacuumed, and its write-ahead log"
    return [
        *_copied_again(streams, settings, titles),
        "The journal keeps the history: ids, counts and times, never names or texts.",
        "Not removed:",
        "  → backups and snapshots",
        f"  → {where}",
        "  → the inbox at Meta itself, and copies made elsewhere, such as an export of the tables",
    ]


def _copied_again(streams: Sequence[Stream], settings: Settings, titles: Titles) -> list[str]:
    """Return which of the streams will be copied again, as far as that is known without asking the API."""
    configured = configured_streams(settings)
    if configured is None:
        return ["Pages that are still discovered or simulated are copied again from scratch."]
    return [
        f"{titles.of(stream)} is still configured: its next run copies it again from scratch."
        for stream in streams
        if stream in configured
    ]
