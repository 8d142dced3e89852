"""The option that says which configuration a command goes by, and what is taken from that."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from milepost.core.model import Platform, Stream
from milepost.settings import Settings, load_or_default

config_option = click.option(
    "-c",
    "--config",
    metavar="FILE",
    help="The configuration. Left out: config.yaml in the current directory, or the built-in settings without one.",
)


def load_settings(config: str | None) -> Settings:
    """Load what the option names. Raises BadConfiguration with everything that is wrong with it."""
    return load_or_default(None if config is None else Path(config), os.environ)


def configured_streams(settings: Settings) -> Sequence[str] | None:
    """Name the streams that the configuration lists; None where it leaves that to the simulator."""
    if not settings.pages:
        return None
    return [Stream(Platform(platform), page.id).key for page in settings.pages for platform in page.platforms]
