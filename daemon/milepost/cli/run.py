"""`milepost run`: the daemon."""

import asyncio
import os
import sys
from pathlib import Path

import click

from milepost.app.daemon import Logging, run_daemon
from milepost.app.reload import Configuration, fingerprint
from milepost.cli.options import config_option
from milepost.service.logs.lines import Redactor
from milepost.service.logs.output import configure
from milepost.service.notices import demand_sendable
from milepost.service.systemd import Notifier
from milepost.settings.load import default_path, load_or_default
from milepost.settings.model import Settings
from milepost.settings.secrets import secrets


@click.command(name="run")
@config_option
def command(config: str | None) -> None:
    """Run the daemon: sync every stream on its interval and serve HTTP, until SIGTERM.

    The first SIGTERM or Ctrl-C lets the current batch be committed; a second one stops at once. SIGHUP reloads the
    configuration, as a change of config.yaml or of a token file does, and tries every stream.
    """
    path = default_path() if config is None else Path(config)  # if it existed at the start, reloads require it

    def load() -> Settings:
        settings = load_or_default(path, os.environ)
        demand_sendable(settings)
        return settings

    settings = load()
    loaded = fingerprint(settings, path)
    redactor = Redactor(secrets(settings))
    log, systemd = settings.log, Notifier(os.environ)
    dedup = configure(log.format, log.level, redactor, stream=sys.stderr, environment=os.environ)
    configuration = Configuration(load, path, systemd.reloading, loaded)
    asyncio.run(run_daemon(settings, configuration, Logging(redactor, dedup), systemd))
