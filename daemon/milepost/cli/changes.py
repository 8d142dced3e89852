"""`milepost changes`: the rows that changed, in the order of their changes."""

import asyncio
import sys
from collections.abc import Callable

import click
import msgspec

from milepost.app.database import store_url_of
from milepost.cli.options import config_option, demand_known, load_settings, stream_option
from milepost.cli.signals import stopped_by_signals, wait_to_poll
from milepost.core.changes import ALL_KINDS, Change, ChangeKind, ChangesPage
from milepost.core.errors import StoreAway
from milepost.core.model import Stream
from milepost.settings import Settings
from milepost.stores.open import open_reader
from milepost.stores.reader import JournalReader

PAGE = 500

_encode = msgspec.json.Encoder().encode


@click.command()
@config_option
@click.option(
    "--after",
    metavar="SEQ",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Only changes with a greater seq; after 0 comes everything that is stored.",
)
@click.option("-f", "--follow", "follows", is_flag=True, help="Keep showing new changes, until Ctrl-C.")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice([kind.value for kind in ChangeKind]),
    multiple=True,
    help="Only changes of this kind; may be given more than once.",
)
@stream_option
@click.option("--json", "writes_json", is_flag=True, help="Write JSON Lines with the whole rows.")
def command(
    config: str | None, after: int, kinds: tuple[str, ...], stream: str | None, *, follows: bool, writes_json: bool
) -> None:
    """Show the rows that changed, in the order of their changes, each as it is now.

    To continue later, pass the last seq that is shown to --after. Rows that are gone are shown as deletes.
    """
    settings = load_settings(config)
    asyncio.run(_show(settings, after, kinds, stream, follows=follows, show=_as_json if writes_json else _as_text))


async def _show(
    settings: Settings,
    after: int,
    kinds: tuple[str, ...],
    stream: str | None,
    *,
    follows: bool,
    show: Callable[[Change], str],
) -> None:
    wanted = frozenset(map(ChangeKind, kinds)) or ALL_KINDS
    stopped = stopped_by_signals(sys.stdout if follows else None)
    async with open_reader(store_url_of(settings)) as reader:
        await demand_known(stream, reader, settings)
        if after > (last := await reader.last_change()):
            click.echo(f"The latest change has the seq {last}: is {after} a place of another database?", err=True)
        of_stream = None if stream is None else Stream.parse(stream)
        while not stopped.is_set():
            page = await _page(reader, after, wanted, of_stream, may_be_away=follows)
            if page.changes:
                click.echo("".join(map(show, page.changes)), nl=False)
            if page.next == after:
                if not follows:
                    return
                await wait_to_poll(stopped)
            after = page.next
    if not follows:  # what was shown is not all
        raise click.Abort


async def _page(
    reader: JournalReader, after: int, kinds: frozenset[ChangeKind], stream: Stream | None, *, may_be_away: bool
) -> ChangesPage:
    """Read a page. When following the feed, retry while the database is unavailable."""
    try:
        return await reader.read_changes(after, PAGE, kinds, stream)
    except StoreAway:
        if may_be_away:
            return ChangesPage((), after)
        raise


def _as_json(change: Change) -> str:
    return _encode(change).decode() + "\n"


def _as_text(change: Change) -> str:
    key = "  ".join(f"{name}={value}" for name, value in change.key.items())
    version = "" if change.row is None else f"  version={change.row['version']}"
    history = "  history" if change.history else ""
    return f"#{change.seq}  {change.op:6}  {change.kind:12}  {key}{version}{history}\n"
