"""`milepost journal`: follow, verify, rebuild or export the journal."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import BinaryIO

import click

from milepost.app.database import store_url_of
from milepost.cli.atomic_file import atomic_file
from milepost.cli.groups import Group
from milepost.cli.journal_lines import (
    as_json,
    as_text,
    as_wrapped,
    follow,
    reported_write_errors,
    show_newest,
    write_out,
)
from milepost.cli.options import config_option, demand_known, load_settings, stream_option
from milepost.cli.signals import stop_at_closed_pipe, stopped_by_signals
from milepost.cli.terminal import echo_wrapped, stdout_terminal
from milepost.cli.titles import Titles, known_titles
from milepost.reporting.humanize import counted
from milepost.settings import Settings
from milepost.stores.audit import Audit
from milepost.stores.open import open_reader
from milepost.stores.reader import StoredEntry
from milepost.stores.url import StoreUrl

MAX_LINES = 10_000


@click.group(cls=Group, name="journal")
def command() -> None:
    """Follow, verify, rebuild or export the journal: the append-only record of everything that happened."""


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


def _show(titles: Titles, *, writes_json: bool) -> Callable[[StoredEntry], None]:
    """Return what shows an entry, as JSON or in words."""
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
        after = await show_newest(journal_reader, lines, stream, show)
        if follows:
            stopped = stopped_by_signals()
            stop_at_closed_pipe(sys.stdout, stopped)
            await follow(journal_reader, after, stream, show, stopped)


@command.command()
@config_option
def verify(config: str | None) -> None:
    """Verify every hash chain, and that every projection equals the fold of its entries.

    Contacts, conversations and messages are not covered: they have no hashes.

    Exit codes: 0 all is sound · 1 something is damaged, and the message says where and what to do.
    """
    audit, seconds = asyncio.run(_verify(store_url_of(load_settings(config))))
    echo_wrapped([f"The journal is sound: {_audited(audit)}, checked in {seconds:.1f} s"])
    echo_wrapped(["Not covered, because they have no hashes: contacts, conversations and messages"])


async def _verify(store_url: StoreUrl) -> tuple[Audit, float]:
    async with open_reader(store_url) as journal_reader:
        began = perf_counter()
        return await journal_reader.verify(), perf_counter() - began


@command.command()
@config_option
def rebuild(config: str | None) -> None:
    """Rebuild the projections (checkpoints, runs, dead letters) from the journal. Stop the daemon first."""
    audit, seconds = asyncio.run(_rebuild(store_url_of(load_settings(config))))
    echo_wrapped([f"The projections are rebuilt from {_audited(audit)} in {seconds:.1f} s"])


async def _rebuild(store_url: StoreUrl) -> tuple[Audit, float]:
    async with open_reader(store_url, alone=True) as journal_reader:
        began = perf_counter()
        return await journal_reader.rebuild(), perf_counter() - began


def _audited(audit: Audit) -> str:
    return ", ".join(
        (
            counted(audit.entries, "entry", "entries"),
            counted(audit.streams, "stream"),
            counted(audit.runs, "run"),
            counted(audit.dead_letters, "dead letter"),
        )
    )


@command.command()
@config_option
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.argument("file", default="-", type=click.Path(dir_okay=False, allow_dash=True))
def export(config: str | None, file: str, *, force: bool) -> None:
    """Write the journal to FILE, or to stdout, as JSON Lines, oldest entry first.

    Each line is an object with seq, stream, version, run_id, recorded_at, type, data (an object) and hash.
    """
    store_url = store_url_of(load_settings(config))
    opened = nullcontext(sys.stdout.buffer) if file == "-" else atomic_file(Path(file), force=force)
    with reported_write_errors("stdout" if file == "-" else file), opened as out:
        written = asyncio.run(_export(store_url, out))
    if file != "-":
        click.echo(f"{counted(written, 'entry', 'entries')} written to {file}", err=True)


async def _export(store_url: StoreUrl, out: BinaryIO) -> int:
    async with open_reader(store_url) as journal_reader:
        return await write_out(journal_reader, out, stopped_by_signals())
