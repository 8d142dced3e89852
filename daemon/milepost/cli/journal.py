"""`milepost journal`: follow, verify, rebuild or export the journal.

Entries are lines, in words for people or as JSON Lines for programs.
"""

import asyncio
import errno
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

import click
import msgspec
from msgspec import Struct

from milepost.app.database import store_url_of
from milepost.cli.atomic_file import atomic_file
from milepost.cli.options import (
    Titles,
    config_option,
    demand_known,
    known_titles,
    load_settings,
    stream_option,
    warnings_logged,
)
from milepost.cli.signals import stopped_by_signals, wait_to_poll
from milepost.cli.terminal import Group, Terminal, echo_wrapped, stdout_terminal
from milepost.core.errors import MilepostError, StoreAway
from milepost.core.events import Entry
from milepost.core.journal import instant_text
from milepost.reporting.describe import describe
from milepost.reporting.humanize import counted, on_one_line
from milepost.settings.model import Settings
from milepost.stores.open import open_reader
from milepost.stores.reader import Audit, JournalReader, StoredEntry
from milepost.stores.url import StoreUrl

MAX_LINES = 10_000
EXPORT_PAGE = 1_000
FOLLOW_PAGE = 500

_STREAM_WIDTH = len("instagram:17841400000000000")

# Fields that the sentence leaves out, for people who read the journal entry by entry.
_DETAILS = (
    "dead_letter",
    "stage",
    "subject",
    "contacts",
    "interaction_events",
    "without_contact",
    "order_violations",
    "replaced_characters",
    "unreadable",
    "reached",
)

Show = Callable[[StoredEntry], None]


@click.group(cls=Group, name="journal")
def command() -> None:
    """Follow, verify, rebuild or export the journal: the append-only record of everything that happened."""


# --- one entry --------------------------------------------------------------------------------------------------------


class EntryObject(Struct, frozen=True):
    """An entry as JSON: the columns of the journal, with `data` exactly as the text that `hash` covers."""

    seq: int
    stream: str
    version: int
    run_id: str | None
    recorded_at: str
    type: str
    data: msgspec.Raw
    hash: str


def as_json(stored: StoredEntry) -> bytes:
    """Return an entry as one line of JSON Lines."""
    entry = stored.entry
    columns = EntryObject(
        stored.seq,
        entry.stream.key,
        entry.version,
        entry.run_id,
        instant_text(entry.recorded_at),
        entry.type,
        msgspec.Raw(entry.data.encode()),
        entry.hash,
    )
    return msgspec.json.encode(columns) + b"\n"


def as_text(stored: StoredEntry) -> str:
    """Return an entry as a line for people: when, which stream, its seq and version, what happened, and details."""
    entry = stored.entry
    when = f"{entry.recorded_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    place = f"{entry.stream.key.ljust(_STREAM_WIDTH)}  #{stored.seq} v{entry.version}"
    return f"{when}  {place}  {_words(entry)}\n"


def as_wrapped(stored: StoredEntry, titles: Titles, terminal: Terminal) -> str:
    """Return an entry as lines that fit a terminal: when, which stream, what happened, and details."""
    entry = stored.entry
    when = f"{entry.recorded_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    title = titles.short(entry.stream)
    lines = terminal.wrapped(f"{when}  {title}  #{stored.seq}  {_words(entry)}")
    lines[0] = lines[0].replace(title, terminal.painted(title, "cyan"), 1)
    return "\n".join([*lines, ""])


def _words(entry: Entry) -> str:
    description = describe(entry)
    fields = description.fields | ({"note": description.note} if description.note else {})
    details = "".join(f"  {name}={on_one_line(str(fields[name]))}" for name in (*_DETAILS, "note") if name in fields)
    return f"{description.sentence}{details}"


# --- showing and following --------------------------------------------------------------------------------------------


@command.command()
@config_option
@click.option("-f", "--follow", "follows", is_flag=True, help="Keep showing new entries, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    metavar="N",
    type=click.IntRange(0, MAX_LINES),
    default=10,
    show_default=True,
    help="How many entries.",
)
@stream_option
@click.option("--json", "writes_json", is_flag=True, help="Write JSON Lines, as export does.")
def tail(config: str | None, lines: int, stream: str | None, *, follows: bool, writes_json: bool) -> None:
    """Show the newest entries, oldest first."""
    settings = load_settings(config)
    asyncio.run(_tail(settings, lines, stream, follows=follows, writes_json=writes_json))


def _show(titles: Titles, *, writes_json: bool) -> Show:
    """Return the function that shows an entry, as JSON or in words."""
    terminal = stdout_terminal()

    def show(stored: StoredEntry) -> None:
        if writes_json:
            click.echo(as_json(stored), nl=False)
        elif terminal.width is None:
            click.echo(as_text(stored), nl=False)
        else:
            click.echo(as_wrapped(stored, titles, terminal), nl=False, color=terminal.has_colours)

    return show


async def _tail(settings: Settings, lines: int, stream: str | None, *, follows: bool, writes_json: bool) -> None:
    async with open_reader(store_url_of(settings)) as journal_reader:
        await demand_known(stream, journal_reader, settings)
        show = _show(await known_titles(settings, journal_reader), writes_json=writes_json)
        newest = await journal_reader.latest(limit=max(lines, 1), stream=stream)
        for each in newest[:lines]:
            show(each)
        if follows:
            after = newest[-1].seq if newest else 0
            await follow(journal_reader, after, stream, show, stopped_by_signals(sys.stdout))


async def follow(
    journal_reader: JournalReader, after: int, stream: str | None, show: Show, stopped: asyncio.Event
) -> None:
    """Show entries after the seq `after` until `stopped` is set. Retries while the database is unavailable."""
    while not stopped.is_set():
        try:
            stored = await journal_reader.entries(after=after, limit=FOLLOW_PAGE, stream=stream)
            if not stored:  # after a failover that lost the last entries, their seqs are assigned again
                after = min([after, *(each.seq for each in await journal_reader.latest(limit=1))])
        except StoreAway:
            stored = []
        for each in stored:
            show(each)
            after = each.seq
        if len(stored) < FOLLOW_PAGE:
            await wait_to_poll(stopped)


# --- verifying and rebuilding -----------------------------------------------------------------------------------------


@command.command()
@config_option
def verify(config: str | None) -> None:
    """Verify every hash chain, and that every projection equals the fold of its entries.

    Contacts, conversations and messages are not covered: they have no hashes.

    Exit codes: 0 all is sound · 1 something is damaged, and the message says where and what to do.
    """
    audit, seconds = asyncio.run(_audit(store_url_of(load_settings(config))))
    echo_wrapped(f"The journal is sound: {_audited(audit)}, checked in {seconds:.1f} s")
    echo_wrapped("Not covered, because they have no hashes: contacts, conversations and messages")


@command.command()
@config_option
def rebuild(config: str | None) -> None:
    """Rebuild the projections (checkpoints, runs, dead letters) from the journal. Stop the daemon first."""
    settings = load_settings(config)
    with warnings_logged(settings):
        audit, seconds = asyncio.run(_audit(store_url_of(settings), rebuilds=True))
    echo_wrapped(f"The projections were rebuilt from {_audited(audit)} in {seconds:.1f} s")


async def _audit(store_url: StoreUrl, *, rebuilds: bool = False) -> tuple[Audit, float]:
    """Verify or rebuild; return the findings and the duration in seconds."""
    async with open_reader(store_url, alone=rebuilds) as journal_reader:
        began = perf_counter()
        audit = await (journal_reader.rebuild() if rebuilds else journal_reader.verify())
        return audit, perf_counter() - began


def _audited(audit: Audit) -> str:
    return ", ".join(
        (
            counted(audit.entries, "entry", "entries"),
            counted(audit.streams, "stream"),
            counted(audit.runs, "run"),
            counted(audit.dead_letters, "dead letter"),
        )
    )


# --- exporting --------------------------------------------------------------------------------------------------------


@command.command()
@config_option
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.argument("file", default="-", type=click.Path(dir_okay=False, allow_dash=True))
def export(config: str | None, file: str, *, force: bool) -> None:
    """Write the journal to FILE, or to stdout, as JSON Lines, oldest entry first.

    Each line is an object with seq, stream, version, run_id, recorded_at, type, data (an object) and hash.
    """
    store_url = store_url_of(load_settings(config))
    opened = (
        nullcontext(sys.stdout.buffer) if file == "-" else atomic_file(Path(file), force=force, database=store_url.file)
    )
    try:
        with opened as out:
            written = asyncio.run(_export(store_url, out))
    except OSError as error:
        if error.errno == errno.EPIPE:  # left to click, which is silent
            raise
        raise MilepostError(
            f"{'stdout' if file == '-' else file} cannot be written: {error.strerror}",
            hint="free some space, or write elsewhere: `milepost journal export FILE`",
        ) from error
    if file != "-":
        click.echo(f"{counted(written, 'entry', 'entries')} written to {file}", err=True)


async def _export(store_url: StoreUrl, out: BinaryIO) -> int:
    async with open_reader(store_url) as journal_reader:
        return await write_out(journal_reader, out, stopped_by_signals())


async def write_out(journal_reader: JournalReader, out: BinaryIO, stopped: asyncio.Event) -> int:
    """Write every entry recorded so far, and return their number. Raises click.Abort once `stopped` is set."""
    newest = await journal_reader.latest(limit=1)
    last_seq, after, written = newest[-1].seq if newest else 0, 0, 0
    while after < last_seq:
        if stopped.is_set():
            raise click.Abort
        stored = [each for each in await journal_reader.entries(after=after, limit=EXPORT_PAGE) if each.seq <= last_seq]
        out.write(b"".join(map(as_json, stored)))
        after = stored[-1].seq
        written += len(stored)
    out.flush()
    return written
