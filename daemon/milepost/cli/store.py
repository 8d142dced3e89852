"""`milepost store`: the database as a whole."""

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import click
from pydantic import ValidationError

from milepost.app.database import Holding, holdings, source_of, store_url_of
from milepost.cli.options import config_option, load_settings
from milepost.cli.signals import interruptible_by_signals
from milepost.cli.store_progress import shown
from milepost.core.errors import BadConfiguration, MilepostError, StoreAway, StoreBusy, StoreRefused
from milepost.core.model import DataSource
from milepost.reporting.humanize import counted, in_columns
from milepost.settings import Settings, StoreSettings, default_path
from milepost.settings.files import read_text
from milepost.stores.moving_house import Move, Moved, move
from milepost.stores.open import has_database, is_at_work, open_store
from milepost.stores.url import StoreUrl

MAX_FILE_BYTES = 16 * 1024
RIGHT = frozenset({1, 2})


@click.group(name="store")
def command() -> None:
    """Copy the database into another one, or let it change over to another source."""


@command.command()
@config_option
@click.option("--to", "url", metavar="URL", required=True, help="The database to copy into, as store.url has it.")
@click.option("--password-file", metavar="FILE", help="The file with the password for URL.")
@click.option("--replace-nul", is_flag=True, help="Write U+FFFD for the character NUL, which PostgreSQL does not take.")
def copy(config: str | None, url: str, password_file: str | None, *, replace_nul: bool) -> None:
    """Copy all that store.url of the configuration holds into another database, and verify the copy.

    Nobody may work on either meanwhile. What was cut off goes on when it is run again; until the copy is verified,
    nothing else opens the target. PostgreSQL's password comes from FILE, or from where libpq finds it: PGPASSWORD or
    ~/.pgpass. Step by step: docs/moving.md.

    Exit codes: 0 copied and verified · 1 not, and the message says why · 75 somebody works on one of the databases ·
    78 bad configuration, or a database that cannot be used.
    """
    began = perf_counter()
    origin, target = store_url_of(load_settings(config)), _target(url, password_file)
    moved = asyncio.run(_moved(Move(origin, target, replaces_nul=replace_nul)))
    click.echo(
        "\n".join([*_told(origin, target, moved, perf_counter() - began), "", *_next(config, target, password_file)])
    )


def _target(url: str, password_file: str | None) -> StoreUrl:
    """Read the options. What is wrong with the URL is told without it: it may hold a password."""
    try:
        url = StoreSettings.model_validate({"url": url}).url
    except ValidationError:
        raise BadConfiguration(
            "--to is not the URL of a database",
            hint="give it as store.url has it, without a password: docs/moving.md",
        ) from None
    if password_file is None:
        return StoreUrl(url)
    password = read_text(Path(password_file), max_bytes=MAX_FILE_BYTES).rstrip("\r\n")
    if not password:
        raise BadConfiguration(f"{password_file}: is empty; it must hold the password")
    return StoreUrl(url, password)


async def _moved(what: Move) -> Moved:
    with shown() as tell, interruptible_by_signals(_stopped):
        try:
            return await move(what, datetime.now(UTC), tell)
        except StoreAway as error:  # a daemon tries again; here somebody has to
            hint = error.hint.removesuffix("it is tried again").rstrip("; ")
            raise StoreAway(error.message, hint=f"{hint}; then run it again, and it goes on".lstrip("; ")) from error


def _stopped() -> MilepostError:
    return MilepostError("the copy was stopped before its end", hint="run it again, and it goes on")


def _told(origin: StoreUrl, target: StoreUrl, moved: Moved, seconds: float) -> list[str]:
    rows = [
        ("table", "rows", "written"),
        *((each.table, f"{each.rows:,}", f"{each.written:,}") for each in moved.tables),
    ]
    entries = counted(moved.audit.entries, "journal entry", "journal entries")
    return [
        f"{target} is a verified copy of {origin}: {entries}, in {seconds:.1f} s",
        "",
        *in_columns(rows, RIGHT),
    ]


def _next(config: str | None, target: StoreUrl, password_file: str | None) -> list[str]:
    """Say what makes Milepost work on the copy."""
    where = config or default_path() or "config.yaml"
    # A path that was given here is relative to this folder, one in the configuration to the configuration's.
    url = target.url if target.file is None else f"sqlite:///{target.file.absolute()}"
    lines = [f"To work on it, write into {where}, and then start Milepost:", "", "store:", f"  url: {url}"]
    if password_file is not None:
        lines.append(f"  password_file: {_as_written(Path(password_file).absolute())}")
    return lines


def _as_written(path: Path) -> str:
    """Name a credential as the service finds it, which reads no other copy of it."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if credentials and path.parent == Path(credentials):
        return f"${{CREDENTIALS_DIRECTORY}}/{path.name}"
    return str(path)


# --- adopt ------------------------------------------------------------------------------------------------------------


@command.command()
@config_option
@click.option("--yes", "is_confirmed", is_flag=True, help="Don't ask whether to do it.")
def adopt(config: str | None, *, is_confirmed: bool) -> None:
    """Let the database change over to the source that the configuration names.

    A database remembers where its rows come from, and refuses another source: real conversations and invented ones must
    not meet by a slip. This is the word that lets it. What it holds stays in the tables, and is shown before;
    `milepost streams remove` removes the streams that are not to stay. Nobody may work on it meanwhile.

    Exit codes: 0 done · 75 somebody works on the database · 78 bad configuration, or a database that cannot be used.
    """
    click.echo(asyncio.run(_adopted(load_settings(config), is_confirmed=is_confirmed)))


async def _adopted(settings: Settings, *, is_confirmed: bool) -> str:
    store_url, wanted = store_url_of(settings), source_of(settings)
    if not await has_database(store_url):
        raise StoreRefused(f"there is no database at {store_url}", hint="the first start makes one, for its own source")
    if await is_at_work(store_url):
        raise StoreBusy(f"a Milepost works on the database {store_url}", hint="stop it first")
    async with open_store(store_url) as store:
        recorded = await store.source()
        if recorded == wanted:
            return f"{store_url} works for {wanted} already"
        held = await holdings(store)
        if held:
            click.echo("\n".join(_held(store_url, recorded, held)))
            if not is_confirmed:
                _confirm(store_url, wanted)
        await store.replace_source(wanted)
    # A watermark from before would hide what is older: complete at once, and most of it unread.
    whole = "; `milepost sync --full` reads the streams from before whole" if held else ""
    return f"{store_url} works for {wanted} from now on{whole}"


def _held(store_url: StoreUrl, recorded: DataSource | None, held: Sequence[Holding]) -> list[str]:
    """Say what stays in the tables."""
    rows = [
        ("stream", "conversations", "of them invented"),
        *((each.stream, f"{each.conversations:,}", f"{each.invented:,}") for each in held),
    ]
    source = "" if recorded is None else f", from {recorded}"
    return [
        f"{store_url} holds{source}:",
        "",
        *in_columns(rows, RIGHT),
        "",
        "All of it stays, and so does each stream's place",
    ]


def _confirm(store_url: StoreUrl, wanted: DataSource) -> None:
    """Ask whether to do it. Raises UsageError where nobody can be asked, Abort where the answer is no."""
    if not sys.stdin.isatty():
        raise click.UsageError("stdin is not a terminal; pass --yes to confirm")
    click.confirm(f"Let {store_url} work for {wanted}, beside all this?", abort=True)
