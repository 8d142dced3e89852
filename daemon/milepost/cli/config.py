"""`milepost config` and `milepost notify`: write a configuration, and test one before anything depends on it."""

import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import click

from milepost.app.database import store_url_of
from milepost.cli.atomic_file import atomic_file
from milepost.cli.options import config_option, load_settings, warnings_logged
from milepost.cli.terminal import Group, echo_wrapped
from milepost.core.errors import BadConfiguration, MilepostError
from milepost.reporting.humanize import in_columns
from milepost.reporting.summary import ExitCode
from milepost.settings.load import default_path, moved_keys, secret_report
from milepost.settings.model import Settings
from milepost.settings.secrets import SecretOrigin

DEFAULT = Path("config.yaml")
FOR_FACEBOOK = """\
# Milepost's configuration, for pages of your own. Fill in `pages`; docs/configuration.md explains every key, and
# `milepost config check --online` reports mistakes and tries the tokens.
#
# Values shown are the defaults. ${NAME} and ${NAME:-default} read the environment; durations are
# written 250ms, 270s, 4.5m, 1h, 7d. Settings to uncomment have no single space after their #.

"""


@click.group(cls=Group, name="config")
def command() -> None:
    """Write a configuration to begin with, and check it."""


@command.command()
@click.option(
    "-c", "--config", metavar="FILE", envvar="MILEPOST_CONFIG", default="config.yaml", show_default=True, help="Where."
)
@click.option("--facebook", "is_facebook", is_flag=True, help="For your own pages instead of the simulated world.")
def init(config: str, *, is_facebook: bool) -> None:
    """Write a config.yaml in which every key is explained, with its default.

    A file that exists is never overwritten. Only you can read the new one, in case you write secrets into it.

    Exit codes: 0 written · 1 it cannot be written · 2 it exists
    """
    path = Path(config)
    if os.path.lexists(path):
        raise click.UsageError(f"{path} exists, and is left as it is; --config FILE names another one")
    try:
        with atomic_file(path, force=False) as file:
            file.write(sample(is_facebook=is_facebook).encode())
    except OSError as error:
        hint = "write it elsewhere: --config FILE names the file"
        raise MilepostError(f"{path} cannot be written: {error.strerror}", hint=hint) from error
    echo_wrapped(f"{path} is written", *_next_steps(path, is_facebook=is_facebook))


def sample(*, is_facebook: bool) -> str:
    """Return the shipped configuration: that of the simulated world, or the same with a page to fill in."""
    text = (files("milepost.cli") / "config.sample.yaml").read_text(encoding="utf-8")
    if not is_facebook:
        return text
    _, _, rest = text.partition("\n\n")  # the introduction is about the simulated world
    lines = [line[1:] if _is_of_pages(line) else line for line in rest.split("\n")]
    # Few pages need it, and an invented id would be taken for a real one.
    lines = [line.replace("    instagram_account_id:", "    # instagram_account_id:") for line in lines]
    return FOR_FACEBOOK + "\n".join(lines).replace("kind: simulator   ", "kind: facebook    ", 1)


def _is_of_pages(line: str) -> bool:
    """Return whether a line is one of the block of pages, which has no space after its #."""
    return line.startswith(("#pages:", "#  "))


def _next_steps(path: Path, *, is_facebook: bool) -> list[str]:
    option = "" if path == DEFAULT else f" -c {path}"
    if not is_facebook:
        return [f"  → `milepost run{option}` copies a simulated world, whose people are invented"]
    return [
        "  → fill in pages: the id, the name, and the variable or file that holds the access token",
        f"  → `milepost config check --online{option}` tries the tokens; then `milepost run{option}`",
    ]


@command.command()
@config_option
@click.option("--online", is_flag=True, help="Also try each stream's first request, and check the tokens.")
def check(config: str | None, *, online: bool) -> None:
    """Check the configuration, and show where each secret comes from, but never its value.

    With --online, also request the newest conversation of each page and platform, and check how long each token is
    valid and what it permits.

    Exit codes: 0 valid · 78 invalid · with --online also 77 a token was refused · 1 the API is unavailable, or a page
    lacks something, such as a subscription to webhooks
    """
    settings = load_settings(config)
    _demand_usable(settings)
    path = default_path() if config is None else Path(config)
    if path is None:
        echo_wrapped("There is no config.yaml here: the built-in settings apply, with the simulator")
    elif path.is_fifo():  # read already, and only once
        echo_wrapped(f"{path} is valid", _purpose(settings))
    else:
        lines = [f"{path} is valid", _purpose(settings), *moved_keys(path, os.environ)]
        echo_wrapped(*lines, "", *_origins(secret_report(path, os.environ)))
    if online:
        sys.exit(_try_tokens(settings))


def _demand_usable(settings: Settings) -> None:
    """Raise BadConfiguration for what only the environment or Apprise can tell: a bad proxy, certificates or notices.

    What that needs is imported here, because it loads more than everything else in a check.
    """
    if settings.source.kind == "facebook":
        from yarl import URL  # noqa: PLC0415

        from milepost.facebook.network import route_to  # noqa: PLC0415

        route_to(URL(settings.source.base_url), os.environ)
    if any(each.url.startswith("https:") for each in settings.deliveries):
        from milepost.facebook.network import trusted  # noqa: PLC0415

        trusted(os.environ)
    if settings.notify.urls:
        from milepost.service.notices import demand_sendable  # noqa: PLC0415

        demand_sendable(settings)


def _purpose(settings: Settings) -> str:
    """Return what is copied where, because a valid file may still say something other than its author meant."""
    if settings.source.kind == "simulator":
        return f"It copies a simulated world, whose people are invented, into {store_url_of(settings)}"
    return f"It copies from {settings.source.base_url} into {store_url_of(settings)}"


def _origins(origins: Sequence[SecretOrigin]) -> list[str]:
    lines = in_columns([(origin.key, origin.origin) for origin in origins])
    return [
        text
        for line, origin in zip(lines, origins, strict=True)
        for text in (line, *([f"  → {origin.warning}"] if origin.warning else []))
    ]


def _try_tokens(settings: Settings) -> ExitCode:
    """Try the token of every page, report each, and return the exit code of the most serious result."""
    click.echo()
    if settings.source.kind == "simulator":
        echo_wrapped("There is no token to try: the simulator has its own")
        return ExitCode.COMPLETE
    # Imported here so that without --online no HTTP client is loaded.
    from milepost.cli.token_check import try_tokens  # noqa: PLC0415

    with warnings_logged(settings):
        return asyncio.run(try_tokens(settings, echo_wrapped))


# --- notices ----------------------------------------------------------------------------------------------------------


@click.group(cls=Group, name="notify")
def notify() -> None:
    """Test whether notices to people arrive."""


@notify.command()
@config_option
def test(config: str | None) -> None:
    """Send a notice to each destination in notify.urls, and show whether its service accepted it.

    Only the kind of service and its host are shown, because the rest of the URL may be secret.

    Exit codes: 0 all services accepted it · 1 one did not · 78 there is no destination, or the configuration is invalid
    """
    # Imported here because none of the other commands sends notices.
    from milepost.reporting.notices import trial_notice  # noqa: PLC0415
    from milepost.service.notices import destinations, try_each, urls_of  # noqa: PLC0415

    urls = urls_of(load_settings(config))
    if not urls:
        hint = "set notify.urls to where notices should go: docs/notices.md"
        raise BadConfiguration("notify.urls is empty: there is nothing to try", hint=hint)
    found = destinations(urls)
    reasons = asyncio.run(try_each(found, trial_notice()))
    words = ["accepted" if reason is None else f"not accepted: {reason}" for reason in reasons]
    echo_wrapped(*in_columns([(each.name, said) for each, said in zip(found, words, strict=True)]))
    sys.exit(ExitCode.WITH_ERRORS if any(reasons) else ExitCode.COMPLETE)
