"""`milepost config`: checks the configuration before anything depends on it."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from milepost.app.database import store_url_of
from milepost.cli.options import config_option, load_settings
from milepost.reporting.humanize import in_columns
from milepost.reporting.summary import ExitCode
from milepost.settings import SecretOrigin, Settings, default_path, moved_keys, secret_report, secrets


@click.group(name="config")
def command() -> None:
    """Check the configuration."""


@command.command()
@config_option
@click.option("--online", is_flag=True, help="Also ask the API for what each stream will, and what the tokens permit.")
def check(config: str | None, *, online: bool) -> None:
    """Check the configuration, and show where each secret comes from, but never its value.

    With --online, the newest conversation of each page and platform is asked for, and for how long the token is valid
    and what it permits.

    Exit codes: 0 valid · 78 invalid · with --online also 77 a token was refused · 1 the API is unavailable
    """
    settings = load_settings(config)
    path = default_path() if config is None else Path(config)
    if path is None:
        click.echo("There is no config.yaml here: the built-in settings apply, with the simulator")
    else:
        click.echo(f"{path} is valid")
        click.echo("\n".join([_purpose(settings), *moved_keys(path, os.environ)]))
        click.echo("\n".join(["", *_origins(secret_report(path, os.environ))]))
    if online:
        sys.exit(_try_tokens(settings))


def _purpose(settings: Settings) -> str:
    """Return what is copied where: a valid file may still not be what was meant."""
    if settings.source.kind == "simulator":
        return f"It copies a simulated world, whose people are invented, into {store_url_of(settings)}"
    return f"It copies from {settings.source.base_url} into {store_url_of(settings)}"


def _origins(origins: Sequence[SecretOrigin]) -> list[str]:
    lines = in_columns([(origin.key, origin.origin) for origin in origins])
    return [
        f"{line}\n  → {origin.warning}" if origin.warning else line for line, origin in zip(lines, origins, strict=True)
    ]


def _try_tokens(settings: Settings) -> ExitCode:
    """Try the token of every page, report each, and return the exit code of the most serious result."""
    click.echo()
    if settings.source.kind == "simulator":
        click.echo("There is no token to try: the simulator has its own")
        return ExitCode.COMPLETE
    # Imported here: without --online nobody needs to wait for an HTTP client to load.
    from milepost.cli.token_check import try_tokens  # noqa: PLC0415
    from milepost.service.logs.output import logged  # noqa: PLC0415
    from milepost.service.logs.redaction import Redactor  # noqa: PLC0415

    log = settings.log
    with logged(log.format, "warning", Redactor(secrets(settings)), stream=sys.stderr, environment=os.environ):
        return asyncio.run(try_tokens(settings, click.echo))
