"""`milepost notify`: tries whether notices to people arrive."""

import asyncio
import sys

import click

from milepost.cli.groups import Group
from milepost.cli.options import config_option, load_settings
from milepost.cli.terminal import echo_wrapped
from milepost.core.errors import BadConfiguration
from milepost.reporting.humanize import in_columns
from milepost.reporting.notices import trial_notice
from milepost.reporting.summary import ExitCode
from milepost.service.notices import destinations, try_each, urls_of


@click.group(cls=Group, name="notify")
def command() -> None:
    """Try whether notices to people arrive."""


@command.command()
@config_option
def test(config: str | None) -> None:
    """Send a notice to each destination in notify.urls, and show whether its service took it.

    Of a destination no more is shown than the kind of service and its host: the rest of its URL may be secret.

    Exit codes: 0 all of them took it · 1 one did not · 78 there is none, or the configuration is invalid
    """
    urls = urls_of(load_settings(config))
    if not urls:
        hint = "set notify.urls to where notices should go: docs/notices.md"
        raise BadConfiguration("notify.urls is empty: there is nothing to try", hint=hint)
    found = destinations(urls)
    reasons = asyncio.run(try_each(found, trial_notice()))
    words = ["taken" if reason is None else f"not taken: {reason}" for reason in reasons]
    echo_wrapped(*in_columns([(each.name, said) for each, said in zip(found, words, strict=True)]))
    sys.exit(ExitCode.WITH_ERRORS if any(reasons) else ExitCode.COMPLETE)
