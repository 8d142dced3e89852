"""`milepost changes` and `deliveries`: the rows that changed, shown here or pushed to destinations."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

import click
import msgspec
from click.shell_completion import CompletionItem

from milepost.app.database import store_url_of
from milepost.cli.options import config_option, demand_known, load_settings, named, stream_option, warnings_logged
from milepost.cli.signals import stopped_by_signals, wait_to_poll
from milepost.cli.terminal import Cell, Column, Group, Terminal, did_you_mean, echo, stdout_terminal, table
from milepost.core.changes import ALL_KINDS, Change, ChangeKind, ChangesPage, Delivery, DeliveryPlaces, DeliveryState
from milepost.core.errors import MilepostError, StoreAway
from milepost.core.model import Stream
from milepost.reporting.health import DeliveryView, delivery_view
from milepost.reporting.humanize import ago, ahead, counted, in_words, lasting, on_one_line
from milepost.settings.model import Settings
from milepost.stores.open import open_deliveries, open_reader
from milepost.stores.reader import JournalReader

COLUMNS = (
    Column("destination", shortest=12),
    Column("state", shortest=10),
    Column("behind", rank=2),
    Column("last delivered", rank=1),
    Column("place", is_right=True, rank=3),
)
COLOURS = {
    DeliveryState.UP_TO_DATE: "green",
    DeliveryState.DELIVERING: "cyan",
    DeliveryState.PAUSED: "yellow",
    DeliveryState.FAILING: "red",
}
START = "start"
MAX_DIGITS = 19  # of a seq, in both databases
SOME_FAILURES = 3  # fewer may resolve themselves soon

Act = Callable[[DeliveryPlaces, str], Awaitable[bool]]


@click.group(cls=Group, name="deliveries")
def command() -> None:
    """List, pause, resume or replay deliveries: changed rows that are pushed to HTTP endpoints.

    The destinations are those under `deliveries` in the configuration. Commands work beside a running daemon, which
    notices within seconds, and without one.
    """


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the configured destinations that begin with the typed text; none after an error."""
    try:
        names = [each.name for each in load_settings(ctx.params.get("config")).deliveries]
    except (MilepostError, OSError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


destinations_argument = click.argument(
    "destinations", metavar="DESTINATION...", nargs=-1, required=True, shell_complete=_complete
)


# --- listing ----------------------------------------------------------------------------------------------------------


@command.command(name="list")
@config_option
@click.option(
    "--json", "writes_json", is_flag=True, help="Write JSON Lines: one object for each, as GET /api/deliveries has it."
)
def list_(config: str | None, *, writes_json: bool) -> None:
    """List the destinations: what each is doing, how far it is behind, and why it fails.

    Destinations that were removed from the configuration are listed, too: their progress is kept.
    """
    settings, now = load_settings(config), datetime.now(UTC)
    found = asyncio.run(_all(settings))
    configured = [each.name for each in settings.deliveries]
    views = [delivery_view(found[name], configured, now) for name in sorted(found)]
    if writes_json:
        for view in views:
            click.echo(msgspec.json.encode(view))
        return
    terminal = stdout_terminal()
    lines = _rendered(views, now, terminal)
    lines += [f"{name} begins when the daemon runs" for name in configured if name not in found]
    echo(lines or ["No destination is configured: see `deliveries` in config.yaml"], terminal)


async def _all(settings: Settings) -> Mapping[str, Delivery]:
    async with open_deliveries(store_url_of(settings)) as places:
        return await places.all()


def _rendered(views: Sequence[DeliveryView], now: datetime, terminal: Terminal) -> list[str]:
    """Return the destinations as lines: one each, and more if there are details."""
    if not views:
        return []
    shown = table(COLUMNS, [_row(view, now) for view in views], terminal)
    return shown.with_details([_details(view, now) for view in views], terminal)


def _row(view: DeliveryView, now: datetime) -> tuple[str | Cell, ...]:
    return (
        view.destination,
        Cell(in_words(view.state), COLOURS[view.state]),
        lasting(view.lag_seconds) if view.lag_seconds else "-",
        ago(view.delivered_at, now),
        f"{view.place:,}",
    )


def _details(view: DeliveryView, now: datetime) -> list[str]:
    lines = []
    if view.paused_at is not None:
        lines.append(f"paused {ago(view.paused_at, now)}; `milepost deliveries resume {view.destination}` resumes it")
    if not view.is_configured:
        return [*lines, "not configured: nothing is delivered"]
    if view.problem is not None:
        attempts = counted(view.failures, "attempt")
        lines.append(f"cause: {on_one_line(view.problem)}; {attempts}, the first {ago(view.failing_since, now)}")
        if view.retry_at is not None and view.paused_at is None:
            lines.append(f"next attempt {ahead(view.retry_at, now)}")
        if view.failures >= SOME_FAILURES:
            skip = f"`milepost deliveries replay --from SEQ {view.destination}`"
            lines.append(
                f"everything behind it waits, because changes come in order; {skip} skips what is never accepted"
            )
    return lines


# --- acting -----------------------------------------------------------------------------------------------------------


@command.command()
@config_option
@destinations_argument
def pause(config: str | None, destinations: Sequence[str]) -> None:
    """Pause destinations until they are resumed. Changes of that time are delivered afterwards.

    Exit codes: 0 paused · 1 failed, and the message says why · 78 bad configuration or unusable database · 2 wrong
    usage
    """
    now = datetime.now(UTC)
    _perform(load_settings(config), destinations, lambda places, name: places.pause(name, now), "paused")


@command.command()
@config_option
@destinations_argument
def resume(config: str | None, destinations: Sequence[str]) -> None:
    """Resume paused destinations, and try those that fail at once.

    The exit codes are those of pause.
    """
    done = "resumed; it is tried within seconds"
    _perform(load_settings(config), destinations, lambda places, name: places.resume(name), done)


def _parse_place(ctx: click.Context, parameter: click.Parameter, value: str) -> int:
    """Parse the option --from. Raises BadParameter if it is not a place in the change feed."""
    if value == START:
        return 0
    if value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS:
        return int(value)
    raise click.BadParameter(f"{value!r} is neither a seq of the change feed nor {START}", ctx, parameter)


@command.command()
@config_option
@click.option(
    "--from",
    "place",
    metavar="SEQ|start",
    callback=_parse_place,
    default=START,
    show_default=True,
    help="Deliver what comes after this seq of the change feed; one that is later than its place skips some.",
)
@destinations_argument
def replay(config: str | None, place: int, destinations: Sequence[str]) -> None:
    """Deliver again what was delivered before: all that is stored, or what changed after a seq.

    Each row comes at its latest state. The exit codes are those of pause.
    """
    settings = load_settings(config)
    last = asyncio.run(_last_change(settings))
    if place > last:
        raise click.BadParameter(f"the latest change has the seq {last}", param_hint="--from")
    done = f"delivers again what comes after {place:,}"
    _perform(settings, destinations, lambda places, name: places.move(name, place), done)


async def _last_change(settings: Settings) -> int:
    async with open_reader(store_url_of(settings)) as journal_reader:
        return await journal_reader.last_change()


def _perform(settings: Settings, destinations: Sequence[str], act: Act, done: str) -> None:
    """Act on each destination and print the result. Raises BadParameter for an unknown name."""

    async def perform() -> None:
        async with open_deliveries(store_url_of(settings)) as places:
            known = await places.all()
            for name in destinations:
                _demand(name, known, settings)
            for name in dict.fromkeys(destinations):
                await act(places, name)
                click.echo(f"{name}: {done}")

    asyncio.run(perform())


def _demand(name: str, known: Mapping[str, Delivery], settings: Settings) -> None:
    if name in known:
        return
    configured = [each.name for each in settings.deliveries]
    if name in configured:
        raise MilepostError(f"{name} has not begun", hint="it begins when the daemon runs: start it first")
    names = sorted({*known, *configured})
    others = did_you_mean(name, names) or f"; known are {named(names)}"
    raise click.BadParameter(f"there is no destination {name!r}{others}", param_hint="DESTINATION")


# --- the change feed --------------------------------------------------------------------------------------------------

PAGE = 500


@click.command(name="changes")
@config_option
@click.option(
    "--after",
    metavar="SEQ",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Only changes with a greater seq; after 0 comes everything that is stored.",
)
@click.option(
    "--mark",
    default="",
    help="The mark that --json shows with that seq: refuse to continue if a restore has lost changes since.",
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
def changes(  # noqa: PLR0913  (a command has options)
    config: str | None,
    after: int,
    mark: str,
    kinds: tuple[str, ...],
    stream: str | None,
    *,
    follows: bool,
    writes_json: bool,
) -> None:
    """Show the rows that changed, in the order of their changes, each as it is now.

    To continue later, pass the last seq that is shown to --after, and its mark to --mark. Rows that are gone are shown
    as deletes.
    """
    settings, show = load_settings(config), _as_json if writes_json else _as_text
    with warnings_logged(settings):
        asyncio.run(_show(settings, ChangesPage((), after, mark), kinds, stream, follows=follows, show=show))


async def _show(
    settings: Settings,
    page: ChangesPage,
    kinds: tuple[str, ...],
    stream: str | None,
    *,
    follows: bool,
    show: Callable[[Change, str], bytes],
) -> None:
    """Show what follows a page."""
    wanted = frozenset(map(ChangeKind, kinds)) or ALL_KINDS
    stopped = stopped_by_signals(sys.stdout if follows else None)
    async with open_reader(store_url_of(settings)) as reader:
        await demand_known(stream, reader, settings)
        of_stream = None if stream is None else Stream.parse(stream)
        while not stopped.is_set():
            after = page.next
            page = await _next_page(reader, page, wanted, of_stream, may_be_away=follows)
            if page.next < after:
                what = f"The latest change has the seq {page.next}: is {after} a place of another database?"
                click.echo(what, err=True)
            if page.changes:
                click.echo(b"".join(show(change, page.mark) for change in page.changes), nl=False)
            if page.next == after:
                if not follows:
                    return
                await wait_to_poll(stopped)
    if not follows:  # what was shown is not all
        raise click.Abort


async def _next_page(
    reader: JournalReader, page: ChangesPage, kinds: frozenset[ChangeKind], stream: Stream | None, *, may_be_away: bool
) -> ChangesPage:
    """Read the page that follows. When following the feed, retry while the database is unavailable."""
    try:
        return await reader.read_changes(page.next, PAGE, kinds, stream, page.mark)
    except StoreAway:
        if may_be_away:
            return ChangesPage((), page.next, page.mark)
        raise


def _as_json(change: Change, mark: str) -> bytes:
    return msgspec.json.encode({**msgspec.structs.asdict(change), "mark": mark}) + b"\n"


def _as_text(change: Change, _: str) -> bytes:
    key = "  ".join(f"{name}={value}" for name, value in change.key.items())
    version = "" if change.row is None else f"  version={change.row['version']}"
    history = "  history" if change.history else ""
    return f"#{change.seq}  {change.op:6}  {change.kind:12}  {key}{version}{history}\n".encode()
