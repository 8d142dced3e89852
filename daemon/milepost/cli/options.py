"""The option that says which configuration a command goes by."""

import os
from pathlib import Path

import click

from milepost.settings import Settings, load_or_default

config_option = click.option(
    "-c",
    "--config",
    metavar="FILE",
    envvar="MILEPOST_CONFIG",
    help="The configuration. Left out: the file that MILEPOST_CONFIG names, or config.yaml in the current directory, "
    "or the built-in settings.",
)


def load_settings(config: str | None) -> Settings:
    """Load what the option names. Raises BadConfiguration with everything that is wrong with it."""
    return load_or_default(None if config is None else Path(config), os.environ)
