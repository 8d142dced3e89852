"""`milepost backup`: a copy of the database, made beside the daemon and verified."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Never

import click
from tqdm import tqdm

from milepost.app.database import store_url_of
from milepost.cli.atomic_file import whole_file
from milepost.cli.options import config_option, load_settings
from milepost.cli.signals import aborted_by_sigterm
from milepost.core.errors import BadConfiguration, JournalDamaged, MilepostError
from milepost.reporting.humanize import counted
from milepost.stores.audit import Audit
from milepost.stores.sqlite.reader import open_sqlite_reader


@click.command(name="backup")
@config_option
@click.option("--force", is_flag=True, help="Overwrite FILE, once the new copy is verified.")
@click.argument("file", type=click.Path(dir_okay=False))
def command(config: str | None, file: str, *, force: bool) -> None:
    """Copy the database to FILE as it is now, and verify the copy. A daemon may go on working meanwhile.

    FILE is there whole and sound, or not at all. It holds everything, people's messages too, and only its owner may
    read it. How to restore it: docs/operations.md.
    """
    began = perf_counter()
    store_url = store_url_of(load_settings(config))
    database = store_url.file
    if database is None:
        raise BadConfiguration(
            f"`milepost backup` copies a SQLite database, and {store_url} is none",
            hint="back PostgreSQL up with its own means, such as pg_dump: docs/postgresql.md",
        )
    try:
        with whole_file(Path(file), force=force) as unfinished:
            audit = asyncio.run(_back_up(database, Path(unfinished.name)))
            size = unfinished.seek(0, 2)
    except OSError as error:
        raise MilepostError(f"{file} cannot be written: {error.strerror}", hint="write it elsewhere") from error
    seconds = perf_counter() - began
    entries = counted(audit.entries, "journal entry", "journal entries")
    click.echo(f"{file} is a sound copy of {database}: {size / 1e6:,.1f} MB, {entries}, in {seconds:.1f} s")


async def _back_up(database: Path, target: Path) -> Audit:
    with aborted_by_sigterm():
        async with open_sqlite_reader(database) as journal_reader:
            with _progress() as bar:
                await journal_reader.copy_to(target, _shown_on(bar))
        async with open_sqlite_reader(target) as copied:
            try:
                return await copied.verify_whole()
            except JournalDamaged as error:
                raise MilepostError(
                    f"no backup was made, because the copy is not sound: {error.message}",
                    hint="`milepost journal verify` tells how the database itself is",
                ) from error


def _progress() -> "tqdm[Never]":
    """Draw a bar on a terminal, where the copy takes longer than a moment."""
    tqdm.monitor_interval = 0  # no thread of its own
    return tqdm(desc="copied", unit=" pages", disable=not sys.stderr.isatty(), delay=1.0, leave=False)


def _shown_on(bar: "tqdm[Never]") -> Callable[[int, int], None]:
    def show(copied: int, pages: int) -> None:
        bar.total = pages
        bar.update(copied - bar.n)

    return show
