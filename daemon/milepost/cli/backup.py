"""`milepost backup`: a verified copy of the database, made while the daemon runs."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Never

import click
from tqdm import tqdm

from milepost.app.database import store_url_of
from milepost.cli.atomic_file import atomic_file
from milepost.cli.options import config_option, load_settings
from milepost.cli.signals import interruptible_by_signals
from milepost.cli.terminal import echo_wrapped
from milepost.core.errors import BadConfiguration, JournalDamaged, MilepostError
from milepost.reporting.humanize import counted
from milepost.stores.audit import Audit
from milepost.stores.sqlite.reader import open_sqlite_reader


@click.command(name="backup")
@config_option
@click.option("--force", is_flag=True, help="Overwrite FILE, once the new copy is verified.")
@click.argument("file", type=click.Path(dir_okay=False))
def command(config: str | None, file: str, *, force: bool) -> None:
    """Copy the database to FILE as it is now, and verify the copy. The daemon may keep running.

    FILE is complete and sound, or not created at all. It holds everything, including people's messages, and only its
    owner may read it. To restore it, see docs/operations.md.
    """
    began = perf_counter()
    store_url = store_url_of(load_settings(config))
    database = store_url.file
    if database is None:
        raise BadConfiguration(
            f"`milepost backup` copies SQLite databases, and {store_url} is not one",
            hint="back up PostgreSQL with its own tools, such as pg_dump: docs/postgresql.md",
        )
    try:
        with atomic_file(Path(file), force=force) as temporary:
            audit = asyncio.run(_back_up(database, Path(temporary.name)))
            size = temporary.seek(0, 2)
    except OSError as error:
        raise MilepostError(f"{file} cannot be written: {error.strerror}", hint="write it elsewhere") from error
    seconds = perf_counter() - began
    entries = counted(audit.entries, "journal entry", "journal entries")
    echo_wrapped(f"{file} is a sound copy of {database}: {size / 1e6:,.1f} MB, {entries}, in {seconds:.1f} s")


async def _back_up(database: Path, target: Path) -> Audit:
    with interruptible_by_signals():
        async with open_sqlite_reader(database) as journal_reader:
            with _progress() as bar:
                await journal_reader.copy_to(target, _updates(bar))
        async with open_sqlite_reader(target) as copied:
            try:
                return await copied.verify_whole()
            except JournalDamaged as error:
                raise MilepostError(
                    f"no backup was made, because the copy is damaged: {error.message}",
                    hint="run `milepost journal verify` to check the database itself",
                ) from error


def _progress() -> "tqdm[Never]":
    """Return a progress bar, which shows on a terminal where the copy takes longer than a second."""
    tqdm.monitor_interval = 0  # no thread of its own
    return tqdm(desc="copied", unit=" pages", disable=not sys.stderr.isatty(), delay=1.0, leave=False)


def _updates(bar: "tqdm[Never]") -> Callable[[int, int], None]:
    def show(copied: int, pages: int) -> None:
        bar.total = pages
        bar.update(copied - bar.n)

    return show
