"""`milepost run`: the daemon."""

import asyncio
import os
import sys

import click
import structlog

from milepost import __version__
from milepost.assembly import assembled
from milepost.cli.options import config_option, load_settings
from milepost.engine.readers import reading
from milepost.engine.shutdown import stopping_on_signals
from milepost.engine.stop import Stop
from milepost.service.http import serve
from milepost.service.journal_log import read as log_signal
from milepost.service.logs import configure
from milepost.service.metrics import Metrics
from milepost.service.monitoring import exposition, probes
from milepost.service.redaction import Redactor
from milepost.settings import Settings, secrets


@click.command(name="run")
@config_option
def command(config: str | None) -> None:
    """Work every stream on its interval and serve HTTP, until SIGTERM.

    The first SIGTERM or Ctrl-C lets the batch in hand be committed; a second one stops at once.
    """
    settings = load_settings(config)
    configure(
        settings.log.format,
        settings.log.level,
        Redactor(secrets(settings)),
        stream=sys.stderr,
        environment=os.environ,
    )
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    log = structlog.get_logger("milepost")
    stop = Stop()
    async with stopping_on_signals(stop), assembled(settings, stop) as parts:
        metrics = Metrics()
        for stream in parts.streams:
            metrics.recall(await parts.store.recall(stream.key))
        routes = [*probes(parts.store.answers, parts.supervisor.stalled), *exposition(metrics.expose)]
        http = settings.http
        async with serve(http.host, http.port, routes, token=http.token.get_secret_value()) as url:
            log.info("started", version=__version__, streams=len(parts.streams), store=settings.store.url, http=url)
            if settings.source.kind == "simulator":
                log.info("this world is simulated", hint="for pages of your own see the Facebook block of config.yaml")
            async with reading(parts.feed, {"metrics": metrics.read, "log": log_signal}):
                await parts.supervisor.run()
    log.info("stopped", hint="the next start goes on from the last committed batch")
