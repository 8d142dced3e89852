"""`milepost simulate`: the simulated Graph API as a server of its own."""

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import click
import msgspec

from milepost.cli.signals import stopped_by_signals
from milepost.core.errors import BadConfiguration
from milepost.settings.yaml import read_text
from milepost.simulator.faults import parse_faults
from milepost.simulator.plan import SimulatedPage, WorldPlan
from milepost.simulator.server import SimulatorServer
from milepost.simulator.webhooks import WebhookFaults, parse_webhook_faults

MAX_SECRET_BYTES = 16 * 1024


class Hooks(NamedTuple):
    """Where webhooks are sent, the secret that signs them, and the faults to inject into them."""

    url: str
    secret: str
    faults: WebhookFaults


@click.command(name="simulate")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen. Milepost only calls local simulators.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=9470, show_default=True, help="0 picks a free port.")
@click.option("--pages", type=click.IntRange(1), default=2, show_default=True, help="Pages, each on both platforms.")
@click.option("--conversations", type=int, default=1000, show_default=True, help="Conversations in each inbox.")
@click.option(
    "--arrivals",
    "arrivals_per_minute",
    type=float,
    default=6,
    show_default=True,
    help="Messages per minute and inbox.",
)
@click.option(
    "--longest-thread",
    type=int,
    default=1000,
    show_default=True,
    help="Messages in the longest threads, of which there are a few.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same world.")
@click.option(
    "--faults",
    metavar="PLAN",
    default="calm",
    show_default=True,
    help="For example hostile,latency=50ms,pace=2.",
)
@click.option("--webhooks", metavar="URL", help="Send webhooks to this URL, signed with --app-secret-file.")
@click.option(
    "--webhook-faults",
    metavar="PLAN",
    default="",
    help="For example missing=0.1,doubled=0.1,late=0.2,late_seconds=5,badly_signed=0.05.",
)
@click.option("--app-secret-file", metavar="FILE", help="Require calls that are signed with the secret in this file.")
def command(
    host: str,
    port: int,
    faults: str,
    webhooks: str | None,
    webhook_faults: str,
    app_secret_file: str | None,
    **world: object,
) -> None:
    """Serve a simulated Graph API until Ctrl-C, and write a configuration for it to stdout.

    A fault plan begins with calm, rough or hostile. docs/simulator.md explains what else it may hold, and what
    POST /simulator/<action> does while the simulator runs.

    The ids and tokens are made up: they work with this simulator only.
    """
    if not host:  # it would mean all addresses of the machine
        raise click.BadParameter("it is empty", param_hint="--host")
    if webhooks is not None and app_secret_file is None:
        raise click.UsageError("--webhooks needs --app-secret-file: webhooks are signed with its secret")
    if webhooks is not None and not _is_url(webhooks):
        raise click.BadParameter(f"{webhooks} is not an http:// or https:// URL", param_hint="--webhooks")
    try:
        plan = msgspec.convert(world, WorldPlan)
        fault_plan = parse_faults(faults, plan.seed)
        webhook_plan = parse_webhook_faults(webhook_faults, plan.seed)
    except BadConfiguration as error:
        raise click.UsageError(str(error)) from error
    server = SimulatorServer(
        plan,
        clock=lambda: datetime.now(UTC),
        faults=fault_plan,
        host=host,
        port=port,
        app_secret=_secret(app_secret_file),
    )
    hooks = None if webhooks is None else Hooks(webhooks, _secret(app_secret_file), webhook_plan)
    asyncio.run(_serve(server, app_secret_file, hooks))


def _is_url(text: str) -> bool:
    """Return whether a text is the URL of a host and a port that there may be."""
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna")
        has_port = parts.port != 0
    except ValueError:
        return False
    return host != b"" and has_port and re.fullmatch(r"https?://[^/\s]+(/\S*)?", text) is not None


def _secret(file: str | None) -> str:
    if file is None:
        return ""
    secret = read_text(Path(file), max_bytes=MAX_SECRET_BYTES).rstrip("\r\n")
    if not secret:
        raise click.BadParameter(f"{file} is empty; it must hold the secret", param_hint="--app-secret-file")
    return secret


async def _serve(server: SimulatorServer, app_secret_file: str | None, hooks: Hooks | None) -> None:
    stopped = stopped_by_signals()
    async with server:
        if hooks is not None:
            server.send_webhooks(hooks.url, hooks.secret, hooks.faults)
        click.echo("\n".join(_configuration(server, app_secret_file, hooks)).encode())  # whatever stdout's encoding
        await stopped.wait()


def _configuration(server: SimulatorServer, app_secret_file: str | None, hooks: Hooks | None) -> Iterator[str]:
    """Yield the lines of a config.yaml for the simulator, explained in comments."""
    # A server that listens on all addresses is reached at the loopback address.
    base_url = server.base_url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    yield f"# The simulated Graph API is at {base_url} until Ctrl-C."
    yield "# This is a configuration for it. Save it to a file, and run `milepost sync -c FILE`."
    yield "# The ids and tokens are made up: they work with this simulator only."
    yield f"# The truth: {base_url}/simulator/truth · the requests so far: {base_url}/simulator/requests"
    yield f"# To make things happen: POST {base_url}/simulator/<action>; docs/simulator.md lists the actions."
    yield f"# The user who manages the pages (me/accounts) has the token {server.world.user_token}"
    yield "store:"
    yield f"  url: sqlite:///simulated-{server.port}.db"  # a new database, because each holds the rows of one source
    yield "source:"
    yield "  kind: facebook"
    yield f"  base_url: {base_url}"
    if app_secret_file is not None:
        yield f"  app_secret_file: {_quoted(str(Path(app_secret_file).resolve()))}"
    yield from _webhooks(hooks)
    yield "pages:"
    for page in server.pages:
        yield from _page(page)


def _webhooks(hooks: Hooks | None) -> Iterator[str]:
    """Yield the lines of `webhooks`, if the simulator sends them straight to a listener and not to a proxy."""
    url = urlsplit(hooks.url) if hooks is not None else None
    if url is not None and url.scheme == "http" and url.port is not None and url.path.strip("/"):
        yield "webhooks:"
        yield f"  listen: {_quoted(url.netloc)}"
        yield f"  path: {_quoted(url.path)}"
        yield "  verify_token: any-word"


def _page(page: SimulatedPage) -> Iterator[str]:
    yield f"  - id: {_quoted(page.id)}"
    yield f"    name: {_quoted(page.name)}"
    yield f"    platforms: [{', '.join(page.platforms)}]"
    yield f"    access_token: {page.token}"
    if page.instagram_account_id is not None:
        yield f"    instagram_account_id: {_quoted(page.instagram_account_id)}"


def _quoted(text: str) -> str:
    """Return a quoted string for YAML, which accepts JSON's syntax."""
    return json.dumps(text, ensure_ascii=False)
