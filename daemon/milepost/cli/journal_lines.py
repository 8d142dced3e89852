"""Journal entries as lines, in words for people or as JSON Lines for programs: shown, followed and exported."""

import asyncio
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC
from typing import BinaryIO

import click
import msgspec
from msgspec import Struct

from milepost.cli.terminal import Terminal
from milepost.cli.titles import Titles
from milepost.core.errors import MilepostError, StoreAway
from milepost.core.events import Entry
from milepost.core.journal import instant_text
from milepost.reporting.describe import describe
from milepost.reporting.humanize import on_one_line
from milepost.stores.reader import JournalReader, StoredEntry

EXPORT_PAGE = 1_000
FOLLOW_PAGE = 500
POLL_SECONDS = 0.5

_STREAM_WIDTH = len("instagram:17841400000000000")

# Fields that the sentence leaves out, for whoever reads the journal entry by entry.
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


# --- one entry --------------------------------------------------------------------------------------------------------


class EntryObject(Struct, frozen=True):
    """An entry as JSON: the columns of the journal, with `data` as the very text that `hash` covers."""

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
    """Return an entry as lines that fit a terminal: when, whose, what happened, and details."""
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


# --- many entries -----------------------------------------------------------------------------------------------------


async def show_newest(journal_reader: JournalReader, lines: int, stream: str | None, show: Show) -> int:
    """Show the newest entries, oldest first, and return the seq of the last one; 0 where there is none."""
    stored = await journal_reader.latest(limit=max(lines, 1), stream=stream)
    for each in stored[:lines]:
        show(each)
    return stored[-1].seq if stored else 0


async def follow(
    journal_reader: JournalReader, after: int, stream: str | None, show: Show, stopped: asyncio.Event
) -> None:
    """Show what is appended after the seq `after`, until `stopped` is set. An unavailable database is polled again."""
    while not stopped.is_set():
        try:
            stored = await journal_reader.entries(after=after, limit=FOLLOW_PAGE, stream=stream)
        except StoreAway:
            stored = []
        for each in stored:
            show(each)
            after = each.seq
        if len(stored) < FOLLOW_PAGE:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await stopped.wait()


async def write_out(journal_reader: JournalReader, out: BinaryIO, stopped: asyncio.Event) -> int:
    """Write every entry that there is now, and return their number. Raises click.Abort once `stopped` is set."""
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


@contextmanager
def reported_write_errors(where: str) -> Iterator[None]:
    """Turn a failure to write to `where` into an error with a hint. A closed pipe is left to click, which is silent."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise MilepostError(
            f"{where} cannot be written: {error.strerror}",
            hint="free some space, or write elsewhere: `milepost journal export FILE`",
        ) from error
