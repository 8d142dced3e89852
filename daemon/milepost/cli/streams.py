"""Commands for streams: `milepost sync`, `pause` and `resume`; `streams` and `contacts` delete data for good.

The actions of the first three are imported where they are used, so that completing a stream does not load the engine.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click

from milepost.app.database import store_url_of
from milepost.cli.options import (
    BY,
    Titles,
    complete_stream,
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
from milepost.cli.terminal import Column, Group, Terminal, echo_wrapped, stdout_terminal, table
from milepost.core.commands import PauseStream, ResumeStream
from milepost.core.errors import StoreBusy
from milepost.core.model import Platform, Stream
from milepost.reporting.humanize import counted, in_columns, on_one_line
from milepost.reporting.summary import ExitCode
from milepost.settings.model import Settings
from milepost.stores.commit import Forgotten
from milepost.stores.open import forget, is_at_work, open_reader, remove
from milepost.stores.reader import StreamRows


@click.command()
@config_option
@click.option("--full", is_flag=True, help="Read the whole inbox again, not only to the watermark.")
@click.argument("streams", metavar="[STREAM]...", nargs=-1, shell_complete=complete_stream)
def sync(config: str | None, streams: tuple[str, ...], *, full: bool) -> None:
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
    sys.exit(_perform(config, streams, PauseStream(BY)))


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
    sys.exit(_perform(config, streams, ResumeStream(BY)))


def _perform(config: str | None, streams: tuple[str, ...], stream_command: PauseStream | ResumeStream) -> ExitCode:
    settings, wanted = load_settings(config), parse_streams(streams)
    # Imported here because a sync in this process, the usual one, does not need it.
    from milepost.cli.actions import perform_on_streams  # noqa: PLC0415

    return asyncio.run(perform_on_streams(settings, wanted, stream_command))


# --- removing streams -------------------------------------------------------------------------------------------------

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

    STREAM is messenger:<page id> or instagram:<page id>; its page may already be removed from the configuration.
    The journal keeps the history, and forgotten contacts stay forgotten. This cannot be undone.

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
    echo_wrapped("", *_left_of_streams(list(stored), settings, titles))


async def _stored(settings: Settings, streams: Sequence[Stream]) -> tuple[dict[Stream, StreamRows | None], Titles]:
    """Return the stored rows of each stream, None if there are none, and the titles of streams.

    Raises BadParameter for a stream that never existed, StoreBusy if a daemon is using the database.
    """
    store_url = store_url_of(settings)
    async with open_reader(store_url) as journal_reader:
        if store_url.file is not None and await is_at_work(store_url):
            raise StoreBusy(
                f"another Milepost is using the database {store_url} and has its streams in memory",
                hint="stop it first, and remove unwanted pages from the configuration before the next start",
            )
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


def _left_of_streams(streams: Sequence[Stream], settings: Settings, titles: Titles) -> list[str]:
    """Return what happens to the streams next, and where else their rows may be stored."""
    return [
        *_copied_again(streams, settings, titles),
        "The journal keeps the history: ids, counts and times, never names or texts.",
        "Not removed:",
        "  → backups and snapshots",
        f"  → {_files_of(settings, 'it goes when the last one closes it')}",
        "  → the inbox at Meta itself, and copies made elsewhere, such as an export of the tables",
    ]


def _copied_again(streams: Sequence[Stream], settings: Settings, titles: Titles) -> list[str]:
    """Return which of the streams will be copied again, judged without the API."""
    configured = configured_streams(settings)
    if configured is None:
        return ["Pages that are still discovered or simulated are copied again from scratch."]
    return [
        f"{titles.of(stream)} is still configured: its next run copies it again from scratch."
        for stream in streams
        if stream in configured
    ]


def _files_of(settings: Settings, then: str) -> str:
    """Return the files that may still hold deleted rows. `then` ends the sentence about SQLite's write-ahead log."""
    store_url = store_url_of(settings)
    if store_url.file is None:
        return "the server's own files, until the tables are vacuumed, and its write-ahead log"
    return f"{store_url}-wal, if another program was reading the database: {then}"


# --- people -----------------------------------------------------------------------------------------------------------

RIGHT = frozenset({1})


@click.group(cls=Group, name="contacts")
def contacts() -> None:
    """Erase a person on request."""


@contacts.command(name="forget")
@config_option
@yes_option
@click.argument("platform", type=click.Choice([platform.value for platform in Platform]))
@click.argument("page")
@click.argument("contact")
def forget_(config: str | None, platform: str, page: str, contact: str, *, is_confirmed: bool) -> None:
    """Erase a contact with all conversations, messages and dead-letter payloads, and keep them out of later sweeps.

    PLATFORM and PAGE are those of the stream, CONTACT is the contact_id. A person is a different contact on each page
    and platform: forget each of them. The daemon may be running. This cannot be undone.
    """
    settings = load_settings(config)
    stream = Stream(Platform(platform), page)
    if not contact or not contact.isprintable():
        raise click.BadParameter("a contact_id is not empty and has only printable characters", param_hint="CONTACT")
    if not is_confirmed:
        confirm(f"Erase contact {contact} of {stream.key}, with their conversations and messages, for good?")
    forgotten = asyncio.run(_forget(settings, stream, contact))
    lines = [*_removed(forgotten, stream, contact), *_elsewhere(forgotten, stream), "", *_left_of_person(settings)]
    echo_wrapped(*lines)


async def _forget(settings: Settings, stream: Stream, contact: str) -> Forgotten:
    async with open_reader(store_url_of(settings)) as journal_reader:
        await demand_known(stream.key, journal_reader, settings, "PLATFORM PAGE")
    return await forget(store_url_of(settings), stream, contact)


def _removed(forgotten: Forgotten, stream: Stream, contact: str) -> list[str]:
    who = f"contact {on_one_line(contact)} of {stream.key}"
    rows = {
        "contacts": forgotten.contacts,
        "conversations": forgotten.conversations,
        "contact_interaction_events": forgotten.interaction_events,
        "dead_letter_payloads": forgotten.payloads,
    }
    if not any(rows.values()):
        return [f"Nothing was stored for {who}"]
    table = in_columns([("table", "rows removed"), *((name, f"{number:,}") for name, number in rows.items())], RIGHT)
    return [f"Erased {who}", *table]


def _elsewhere(forgotten: Forgotten, stream: Stream) -> list[str]:
    """Return where else the id occurs; it may be another person's there."""
    if not forgotten.elsewhere:
        return []
    pages = ", ".join(f"{stream.platform}:{page_id}" for page_id in forgotten.elsewhere)
    advice = f"if {stream.page_id} has taken over its account, forget them there too, or wait until it reads a thread"
    return [f"Not erased: a contact with this id on {pages}, who may be somebody else", f"  → {advice}"]


def _left_of_person(settings: Settings) -> list[str]:
    """Return where else the person's data may be stored."""
    return [
        "Later sweeps keep them out. The journal is unchanged: it holds ids, counts and times, never names or texts.",
        "Not erased:",
        "  → backups and snapshots: delete older ones, or forget the person again after a restore",
        f"  → {_files_of(settings, 'run this again once it has closed it')}",
        "  → the inbox at Meta itself, and copies made elsewhere, such as an export of the tables",
    ]
