"""`milepost run`: the daemon."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import click
import structlog

from milepost import __version__
from milepost.app.build import Parts, assembled, labour_of
from milepost.app.database import store_url_of
from milepost.app.serving import Shown, serving
from milepost.app.upkeep import Configuration
from milepost.cli.options import config_option, load_settings
from milepost.engine.bulkhead import bulkhead
from milepost.engine.feed import Reader, reading
from milepost.engine.interrupt import Interrupt, Stop, stopping_on_signals
from milepost.service.activity import Activity, recent_activity
from milepost.service.events.broadcast import Broadcast
from milepost.service.events.route import event_stream
from milepost.service.logs.dedup import Deduplicator
from milepost.service.logs.journal import JournalLog
from milepost.service.logs.output import configure
from milepost.service.logs.redaction import Redactor
from milepost.service.metrics.collect import Metrics
from milepost.service.probes import exposition, probes
from milepost.service.status_line import StatusLine
from milepost.service.systemd import Notifier, keep_told, starting
from milepost.service.underway import Underway
from milepost.service.wrong_tokens import WrongTokens
from milepost.settings import Settings, default_path, load_or_default, secrets
from milepost.stores.open import open_reader


@click.command(name="run")
@config_option
def command(config: str | None) -> None:
    """Run the daemon: sync every stream on its interval and serve HTTP, until SIGTERM.

    The first SIGTERM or Ctrl-C lets the current batch be committed; a second one stops at once. SIGHUP reloads the
    configuration, as a change of config.yaml or of a token file does, and tries every stream.
    """
    settings = load_settings(config)
    redactor = Redactor(secrets(settings))
    log, systemd = settings.log, Notifier(os.environ)
    repeats = configure(log.format, log.level, redactor, stream=sys.stderr, environment=os.environ)
    path = default_path() if config is None else Path(config)  # one that was there has to stay
    configuration = Configuration(lambda: load_or_default(path, os.environ), path, systemd.reloading)
    asyncio.run(_run(settings, configuration, redactor, repeats, systemd))


async def _run(
    settings: Settings, configuration: Configuration, redactor: Redactor, repeats: Deduplicator, systemd: Notifier
) -> None:
    stop, reload = Stop(), Interrupt()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload.set)
    async with (
        repeats.flushing(),
        stopping_on_signals(stop),
        starting(systemd) as ready,
        assembled(settings, stop, redactor.learn) as parts,
        open_reader(store_url_of(settings)) as journal_reader,
        labour_of(settings, parts, journal_reader) as labour,
    ):
        wrong_tokens = WrongTokens()
        metrics, status_line = Metrics(), StatusLine(lambda: parts.supervisor.streams)
        metrics.describe(lambda: parts.upkeep.settings.sync.interval_seconds, store_url_of(settings).file)
        metrics.register(wrong_tokens)
        for stream in parts.supervisor.streams:
            checkpoint = await parts.store.load(stream.key)
            metrics.load(checkpoint)
            status_line.load(checkpoint)
        broadcast, activity = Broadcast(journal_reader, parts.clock.now), Activity(parts.clock.now)
        await activity.load(journal_reader)
        underway = Underway(parts.clock.now)
        telling = [*event_stream(broadcast), *recent_activity(activity.past)]
        routes = [*probes(parts.store.answers, parts.supervisor.stalled), *exposition(metrics.expose)]
        readers = {
            "metrics": metrics.read,
            "log": JournalLog().read,
            "events": broadcast.read,
            "underway": underway.read,
            "status line": status_line.read,
        }
        of_all: dict[str, Reader] = {"activity": activity.read}
        if labour.follower is not parts.feed:  # others write, too
            of_all |= {
                "metrics of others": metrics.learn,
                "events of others": broadcast.read,
                "status line of all": status_line.read,
            }
        async with (
            serving(settings, parts, Shown(journal_reader, underway, telling), routes, wrong_tokens) as url,
            broadcast.running(),
            reading(parts.feed, readers),
            reading(labour.follower, of_all),
            asyncio.TaskGroup() as tasks,
        ):
            ready()
            _say_started(settings, parts, url)
            beside = {
                "upkeep": parts.upkeep.run(configuration, reload, parts.clock, stop),
                "token watch": parts.token_watch.run(parts.clock, stop),
                "systemd": keep_told(systemd, status_line.words, parts.supervisor.stalled, parts.clock, stop),
            }
            for name, work in beside.items():
                tasks.create_task(bulkhead(name, work), name=name)
            await labour.run()
    structlog.get_logger("milepost").info("stopped", hint="the next start goes on from the last committed batch")


def _say_started(settings: Settings, parts: Parts, url: str) -> None:
    log, streams = structlog.get_logger("milepost"), len(parts.supervisor.streams)
    log.info("started", version=__version__, streams=streams, store=settings.store.url, http=url)
    if settings.source.kind == "simulator":
        log.info("this world is simulated", hint="for pages of your own see the Facebook block of config.yaml")
