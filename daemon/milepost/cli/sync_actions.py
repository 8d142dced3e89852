"""Syncs streams once: through the daemon where one is using the database, else in this process."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, TextIO, cast

import click

from milepost.app.build import Parts, assembled
from milepost.app.database import store_url_of
from milepost.cli.options import Titles, demand_worked
from milepost.cli.sync_summary import Synced, rendered
from milepost.cli.terminal import echo, stdout_terminal
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import BadConfiguration
from milepost.core.model import Stream
from milepost.core.ports import Held, RunResult
from milepost.engine.feed import Reader, reading
from milepost.engine.interrupt import Stop, stopping_on_signals
from milepost.reporting.status import Condition, ConditionContext, condition, rate_limits_of
from milepost.reporting.summary import ExitCode, exit_code, exit_code_of, most_serious
from milepost.service.logs.journal import JournalLog
from milepost.service.logs.output import logged
from milepost.service.logs.redaction import Redactor
from milepost.settings import Settings, secrets
from milepost.stores.open import is_at_work, open_reader

if TYPE_CHECKING:
    from milepost.cli.progress import Progress


async def perform(settings: Settings, wanted: Sequence[Stream], *, full: bool) -> ExitCode:
    """Sync the streams, all of them if none is named, print the summary, and return the exit code."""
    synced = await _sync(settings, wanted, full=full)
    terminal = stdout_terminal()
    echo(rendered(synced, datetime.now(UTC), terminal), terminal)
    codes = {exit_code(synced.results)}
    if (why := synced.undiscovered) is not None:
        codes.add(ExitCode.PROGRESS_SAVED if isinstance(why, Held) else exit_code_of(why))
    return most_serious(codes)


async def _sync(settings: Settings, wanted: Sequence[Stream], *, full: bool) -> Synced:
    stop, redactor, log = Stop(), Redactor(secrets(settings)), settings.log
    out, level = (_above_bars(), "warning") if sys.stderr.isatty() else (sys.stderr, log.level)
    with logged(log.format, level, redactor, stream=out, environment=os.environ):
        async with stopping_on_signals(stop):
            if await _is_at_work(settings):
                return await _through_daemon(settings, wanted, stop, full=full)
            return await _here(settings, wanted, stop, redactor.learn, full=full)


async def _is_at_work(settings: Settings) -> bool:
    """Return whether another Milepost is at work that can be asked; otherwise the lock of the database refuses us."""
    store_url = store_url_of(settings)
    return await is_at_work(store_url) and (store_url.file is None or settings.http.port != 0)


async def _here(
    settings: Settings,
    wanted: Sequence[Stream],
    stop: Stop,
    learn_secret: Callable[[str], None],
    *,
    full: bool,
) -> Synced:
    began = perf_counter()
    async with assembled(settings, stop, learn_secret) as parts:
        titles = Titles(parts.registry.page_names())
        streams = _known(wanted, parts)
        with _progress(titles) as progress:
            readers: dict[str, Reader] = {"log": JournalLog().read}
            if progress is not None:
                readers["progress"] = progress.read
            async with reading(parts.feed, readers):
                results = await parts.supervisor.sync(streams, full=full)
            results += [RunResult(stream, None) for stream in wanted if stream not in streams]
        conditions = _conditions(settings, await parts.store.checkpoints(), is_at_work=False)
    return Synced(results, perf_counter() - began, conditions, parts.undiscovered, titles)


async def _through_daemon(settings: Settings, wanted: Sequence[Stream], stop: Stop, *, full: bool) -> Synced:
    # Only here: with them comes the HTTP server, a tenth of the start of a sync that needs none of it.
    from milepost.cli.daemon_sync import Look, sync_through_daemon  # noqa: PLC0415  (only where a daemon is at work)
    from milepost.cli.stream_actions import operator  # noqa: PLC0415  (only where a daemon is at work)

    began, store_url = perf_counter(), store_url_of(settings)
    async with operator(settings, stop, for_runs=True) as who, open_reader(store_url) as journal_reader:
        demand_worked(wanted, who.streams)
        click.echo(f"A daemon is using {store_url}: it syncs the streams", err=True)
        with _progress(who.titles) as progress:
            show = None if progress is None else progress.show
            look = Look(journal_reader, lambda: is_at_work(store_url), lambda: datetime.now(UTC), show)
            results = await sync_through_daemon(who, wanted or who.streams, look, settings.sync, stop, full=full)
        if stop.is_requested:
            click.echo("The daemon goes on with it: `milepost status` shows how far it is", err=True)
        conditions = _conditions(settings, await journal_reader.checkpoints(), is_at_work=True)
    return Synced(results, perf_counter() - began, conditions, titles=who.titles)


def _above_bars() -> TextIO:
    from milepost.cli.progress import BesideBars  # noqa: PLC0415  (only where bars are drawn)

    return cast("TextIO", BesideBars(sys.stderr))  # typeshed: a TextIOBase is no TextIO


def _progress(titles: Titles) -> AbstractContextManager["Progress | None"]:
    if not sys.stderr.isatty():
        return nullcontext()
    from milepost.cli.progress import progress_on_terminal  # noqa: PLC0415  (only where bars are drawn)

    return progress_on_terminal(sys.stderr, titles.short)


def _conditions(settings: Settings, checkpoints: Sequence[Checkpoint], *, is_at_work: bool) -> dict[Stream, Condition]:
    sync = settings.sync
    around = ConditionContext(
        datetime.now(UTC), is_at_work, sync.interval_seconds, sync.batch_size, rate_limits_of(checkpoints)
    )
    return {checkpoint.stream: condition(checkpoint, around) for checkpoint in checkpoints}


def _known(wanted: Sequence[Stream], parts: Parts) -> Sequence[Stream]:
    """Return the streams to sync: those that are wanted, or all. While pages are undiscovered, some may be missing.

    Raises BadParameter for a stream that does not exist, and BadConfiguration where there are none at all.
    """
    streams = parts.supervisor.streams
    if parts.undiscovered is not None:
        return [stream for stream in wanted or streams if stream in streams]
    if not streams:
        raise BadConfiguration(
            "there is nothing to sync: source.access_token manages no page",
            hint="give its owner a role on a page, or list pages in config.yaml",
        )
    demand_worked(wanted, streams)
    return wanted or streams
