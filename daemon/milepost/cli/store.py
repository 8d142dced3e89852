"""`milepost store` and `milepost backup`: the database as a whole."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Never

import click
from msgspec.structs import replace
from pydantic import ValidationError
from tqdm import tqdm

from milepost.app.database import Holding, holdings, source_of, store_url_in, store_url_of
from milepost.cli.atomic_file import atomic_file
from milepost.cli.options import config_option, confirm, load_settings, warnings_logged, yes_option
from milepost.cli.signals import interruptible_by_signals
from milepost.cli.terminal import Group, echo_wrapped
from milepost.core.errors import BadConfiguration, JournalDamaged, MilepostError, StoreAway, StoreBusy, StoreRefused
from milepost.core.model import DataSource
from milepost.reporting.humanize import counted, in_columns
from milepost.settings.load import default_path
from milepost.settings.model import Settings, StoreSettings, key_of
from milepost.settings.secrets import read_secret
from milepost.stores.copy import CopyJob, CopyResult, Progress, Report
from milepost.stores.open import copy_store, has_database, is_at_work, open_store
from milepost.stores.reader import Audit
from milepost.stores.sqlite.reader import open_sqlite_reader
from milepost.stores.url import StoreUrl

LINE_SECONDS = 10.0


@click.group(cls=Group, name="store")
def command() -> None:
    """Copy the database into another one, or switch it to another source."""


@command.command()
@config_option
@click.option("--to", "url", metavar="URL", required=True, help="The database to copy into, written as store.url is.")
@click.option("--password-file", metavar="FILE", help="The file with the password for URL.")
@click.option("--schema", metavar="NAME", help="The schema to copy into, as store.schema (PostgreSQL only).")
@click.option("--pooler", type=click.Choice(["session", "transaction"]), help="As store.pooler (PostgreSQL only).")
@click.option(
    "--replace-nul", is_flag=True, help="Write U+FFFD for the character NUL, which PostgreSQL does not accept."
)
def copy(config: str | None, url: str, password_file: str | None, *, replace_nul: bool, **keys: str | None) -> None:
    """Copy the database of the configuration into an empty one, and verify the copy.

    Stop Milepost first. The target gets all of it or nothing: if the copy fails or is stopped, run it again.
    PostgreSQL's password comes from FILE, PGPASSWORD or ~/.pgpass. Step by step: docs/migrate.md.

    Exit codes: 0 copied and verified · 1 not copied, and the message says why · 75 a database is in use ·
    78 bad configuration, or a database that cannot be used.
    """
    began = perf_counter()
    settings, store = load_settings(config), _target(url, keys)
    source = store_url_of(settings)
    _demand_applicable(store, {**keys, "password-file": password_file})
    target = replace(store_url_in(store), password="" if password_file is None else read_secret(Path(password_file)))
    with warnings_logged(settings):
        result = asyncio.run(_copy(CopyJob(source, target, replaces_nul=replace_nul)))
    summary = _summary(source, target, result, perf_counter() - began)
    click.echo("\n".join([*summary, "", *_next_step(config, target, store, password_file)]))


def _target(url: str, keys: Mapping[str, str | None]) -> StoreSettings:
    """Validate the options as the keys of `store`. An error does not repeat the URL, which may hold a password."""
    given = {key: value for key, value in keys.items() if value is not None}
    try:
        return StoreSettings.model_validate({"url": url, **given})
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)[0]
        if details["loc"] != ("url",):
            key = details["loc"][0]
            raise click.BadParameter(f"store.{key} does not allow it", param_hint=f"--{key}") from None
        if details["type"] == "rule":  # its text says what to write in the configuration
            hint = "here the options --schema and --pooler do the same"
            raise BadConfiguration(f"--to: {details['msg']}", hint=hint) from None
    raise BadConfiguration(
        "--to is not the URL of a database",
        hint="write it as store.url is, without a password: docs/migrate.md",
    )


def _demand_applicable(store: StoreSettings, options: Mapping[str, str | None]) -> None:
    """Raise UsageError for an option of PostgreSQL if the target is a file."""
    given = next((option for option, value in options.items() if value is not None), None)
    if given is not None and store_url_in(store).file is not None:
        raise click.UsageError(f"--{given} is for PostgreSQL, and --to is a SQLite database")


async def _copy(job: CopyJob) -> CopyResult:
    with _progress() as report, interruptible_by_signals(_stopped):
        try:
            return await copy_store(job, report)
        except (StoreAway, StoreRefused) as error:
            raise type(error)(error.message, hint=_hint(error, job.target)) from error


def _hint(error: MilepostError, target: StoreUrl) -> str:
    """Return an error's hint for this command, which has options for its target and does not retry as a daemon does."""
    hint, name = error.hint, target.name if target.file is None else target.file.absolute()
    if f" {name} " in error.message:
        hint = hint.replace("store.password, store.password_file", "--password-file").replace("store.url", "--to")
    if isinstance(error, StoreAway):
        hint = f"{hint.removesuffix('retrying').rstrip('; ')}; then run the copy again".lstrip("; ")
    return hint


def _stopped() -> MilepostError:
    return MilepostError("the copy was stopped, and nothing was copied", hint="run it again")


def _summary(source: StoreUrl, target: StoreUrl, result: CopyResult, seconds: float) -> list[str]:
    entries = counted(result.audit.entries, "journal entry", "journal entries")
    return [
        f"{target} is a verified copy of {source}: {entries}, in {seconds:.1f} s",
        "",
        *in_columns(
            [("table", "rows"), *((table, f"{rows:,}") for table, rows in result.rows.items())], frozenset({1})
        ),
    ]


def _next_step(config: str | None, target: StoreUrl, store: StoreSettings, password_file: str | None) -> list[str]:
    """Return the lines that switch the configuration to the copy."""
    where = config or default_path() or "config.yaml"
    # A path on the command line is relative to the working directory, a path in the configuration to its file.
    url = target.url if target.file is None else f"sqlite:///{target.file.absolute()}"
    lines = [f"To switch to it, write into {where}, then start Milepost:", "", "store:", f"  url: {url}"]
    lines += [f"  {key_of(name)}: {getattr(store, name)}" for name in sorted(store.model_fields_set - {"url"})]
    if password_file is not None:
        lines.append(f"  password_file: {_as_written(Path(password_file).absolute())}")
    return lines


def _as_written(path: Path) -> str:
    """Return a path; one in systemd's credentials directory as the configuration has to name it."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if credentials and path.parent == Path(credentials):
        return f"${{CREDENTIALS_DIRECTORY}}/{path.name}"
    return str(path)


@contextmanager
def _progress() -> Iterator[Report]:
    """Show the progress on stderr: a bar for each table on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    tqdm.monitor_interval = 0  # no thread of its own
    with tqdm(unit=" rows", file=sys.stderr, leave=False, delay=0) as bar:
        yield partial(_show_on, bar)


def _show_on(bar: "tqdm[Never]", progress: Progress) -> None:
    if progress.rows < bar.n or progress.is_done:  # another table begins, or one is complete
        bar.reset(progress.total)
    bar.set_description(f"{progress.phase} {progress.table}", refresh=False)
    bar.total = progress.total
    bar.update(progress.rows - bar.n)
    bar.refresh()


class _Lines:
    """Prints a line for each table that is done, and now and then one for a table that takes long."""

    def __init__(self) -> None:
        self._last_line_at = monotonic()

    def __call__(self, progress: Progress) -> None:
        now = monotonic()
        if progress.is_done or now - self._last_line_at >= LINE_SECONDS:
            self._last_line_at = now
            rows = f"{progress.rows:,} of {progress.total:,} rows"
            click.echo(f"{progress.phase} {progress.table}: {rows}", err=True)


# --- adopt ------------------------------------------------------------------------------------------------------------


@command.command()
@config_option
@yes_option
def adopt(config: str | None, *, is_confirmed: bool) -> None:
    """Switch the database to the source that the configuration names.

    A database remembers where its rows come from and refuses another source, so that real and invented conversations
    never mix by accident. This command overrides that. It first shows what the database holds, all of which stays;
    `milepost streams remove` removes streams that should not. Stop Milepost first.

    Exit codes: 0 done · 75 the database is in use · 78 bad configuration, or a database that cannot be used.
    """
    settings = load_settings(config)
    with warnings_logged(settings):
        done = asyncio.run(_adopt(settings, is_confirmed=is_confirmed))
    echo_wrapped(done)


async def _adopt(settings: Settings, *, is_confirmed: bool) -> str:
    store_url, wanted = store_url_of(settings), source_of(settings)
    if not await has_database(store_url):
        raise StoreRefused(
            f"there is no database at {store_url}", hint="the first start creates one, for its own source"
        )
    if store_url.file is None and await is_at_work(store_url):  # a file is locked when it is opened
        raise StoreBusy(f"a Milepost is using the database {store_url}", hint="stop it first")
    async with open_store(store_url) as store:
        recorded = await store.source()
        if recorded == wanted:
            return f"{store_url} already belongs to {wanted}"
        held = await holdings(store)
        if held:
            click.echo("\n".join(_holdings_table(store_url, recorded, held)))
            if not is_confirmed:
                confirm(f"Switch {store_url} to {wanted}, and keep all of this?")
        await store.replace_source(wanted)
    # The old watermark would make a sweep complete at once, with most of the new source unread.
    whole = "; `milepost sync --full` reads the existing streams in full" if held else ""
    return f"{store_url} belongs to {wanted} from now on{whole}"


def _holdings_table(store_url: StoreUrl, recorded: DataSource | None, held: Sequence[Holding]) -> list[str]:
    """Return the conversations that stay, as the lines of a table."""
    rows = [
        ("stream", "conversations", "of them invented"),
        *((each.stream, f"{each.conversations:,}", f"{each.invented:,}") for each in held),
    ]
    source = "" if recorded is None else f", from {recorded}"
    return [
        f"{store_url} holds{source}:",
        "",
        *in_columns(rows, frozenset({1, 2})),
        "",
        "All of it stays, and so does each stream's place",
    ]


# --- backup -----------------------------------------------------------------------------------------------------------


@click.command()
@config_option
@click.option("--force", is_flag=True, help="Overwrite FILE, once the new copy is verified.")
@click.argument("file", type=click.Path(dir_okay=False))
def backup(config: str | None, file: str, *, force: bool) -> None:
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
        with atomic_file(Path(file), force=force, database=database) as temporary:
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
            with _bar_of_pages() as bar:
                await journal_reader.copy_to(target, _updates(bar))
        async with open_sqlite_reader(target) as copied:
            try:
                return await copied.verify_whole()
            except JournalDamaged as error:
                raise MilepostError(
                    f"no backup was made, because the copy is damaged: {error.message}",
                    hint="run `milepost journal verify` to check the database itself",
                ) from error


def _bar_of_pages() -> "tqdm[Never]":
    """Return a progress bar, which shows on a terminal if the copy takes longer than a second."""
    tqdm.monitor_interval = 0  # no thread of its own
    return tqdm(desc="copied", unit=" pages", disable=not sys.stderr.isatty(), delay=1.0, leave=False)


def _updates(bar: "tqdm[Never]") -> Callable[[int, int], None]:
    def show(copied: int, pages: int) -> None:
        bar.total = pages
        bar.update(copied - bar.n)

    return show
