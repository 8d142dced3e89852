"""`milepost status`: the state of every stream, as tables for people or as JSON."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click
import msgspec

from milepost.app.database import store_url_of
from milepost.cli.options import Titles, config_option, configured_names, configured_streams, known_names, load_settings
from milepost.cli.terminal import PLAIN, Cell, Column, Terminal, echo, stdout_terminal, table
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Reason
from milepost.core.model import Stream
from milepost.core.position import Phase
from milepost.reporting.health import DaemonStatus, in_a_sentence, webhooks_in_words
from milepost.reporting.humanize import ago, ahead, counted, in_words, on_one_line, waiting
from milepost.reporting.status import ConditionContext, State, rate_limits_of
from milepost.reporting.views import OpenSweep, Status, StreamStatus, statuses
from milepost.settings.model import HttpSettings, Settings
from milepost.settings.types import authority, reached_at
from milepost.stores.open import has_database, is_at_work, open_reader
from milepost.stores.url import StoreUrl

CONDITION = (
    Column("state", shortest=18),
    Column("open sweep", rank=2),
    Column("last saved", rank=1),
    Column("last success", rank=4),
    Column("next run", rank=3),
)
WRITTEN = (
    Column("conversations", is_right=True),
    Column("updates", is_right=True, rank=1),
    Column("contacts", is_right=True, rank=2),
    Column("events", is_right=True),
    Column("open dead letters", is_right=True, rank=3),
)
GOOD, UNDER_WAY, WAITING, BAD = "green", "cyan", "yellow", "red"
COLOURS = {
    State.NEVER_SYNCED: None,
    State.QUEUED: None,
    State.SYNCING: UNDER_WAY,
    State.RETRYING: WAITING,
    State.RATE_LIMITED: WAITING,
    State.COMPLETE: GOOD,
    State.COMPLETE_WITH_ERRORS: WAITING,
    State.PAUSED: WAITING,
    State.FAILED: BAD,
    State.STOPPED: BAD,
    State.INTERRUPTED: WAITING,
    State.ON_HOLD: WAITING,
}


@click.command(name="status")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object, as explained in docs/commands.md.")
def command(config: str | None, *, as_json: bool) -> None:
    """Show every stream: its state, what it waits for, what was written, and when its next run is.

    It reads the database, whether the daemon is running or not. "next run" is an estimate; "conversations" counts new
    ones, "contacts" and "events" count rows written. A narrow terminal shows fewer columns.
    """
    settings = load_settings(config)
    store_url = store_url_of(settings)
    seen = asyncio.run(_look(settings, store_url))
    around = ConditionContext(
        datetime.now(UTC),
        seen.is_at_work,
        settings.sync.interval_seconds,
        settings.sync.batch_size,
        rate_limits_of(seen.checkpoints),
    )
    streams = statuses(seen.checkpoints, around, configured_streams(settings), seen.names, seen.daemon)
    status = Status(around.now, str(store_url), seen.is_at_work, streams, seen.daemon)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(status)))
    else:
        terminal = stdout_terminal()
        echo(rendered(status, terminal), terminal)


class _Seen(msgspec.Struct, frozen=True):
    """Whether a Milepost is running, the state in the database, and the daemon's own status."""

    is_at_work: bool
    daemon: DaemonStatus | None
    checkpoints: Sequence[Checkpoint] = ()
    names: Mapping[str, str] = {}


async def _look(settings: Settings, store_url: StoreUrl) -> _Seen:
    at_work = await is_at_work(store_url)  # first, because a daemon that ends in between records the end of its runs
    daemon = await fetch_status(settings.http) if at_work and settings.http.port else None
    if not await has_database(store_url):
        return _Seen(at_work, daemon, names=configured_names(settings))
    async with open_reader(store_url) as journal_reader:
        names = await known_names(settings, journal_reader)
        return _Seen(at_work, daemon, await journal_reader.checkpoints(), names)


# --- the status of the daemon -----------------------------------------------------------------------------------------

MAX_ANSWER_SECONDS = 5.0


async def fetch_status(http: HttpSettings) -> DaemonStatus | None:
    """Return the status of the daemon as a whole; None if it does not answer, or refuses us.

    This does not use aiohttp, because loading it takes as long as all of `milepost status`.
    """
    try:
        async with asyncio.timeout(MAX_ANSWER_SECONDS):
            answer = await _get(http, "/api/daemon")
    except (OSError, TimeoutError):
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(maxsplit=2)[1:2] != [b"200"]:
        return None
    try:
        return msgspec.json.decode(body, type=DaemonStatus)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def _get(http: HttpSettings, path: str) -> bytes:
    """Return a whole response, head and body. HTTP/1.0 has no chunks, and the connection ends with the response."""
    host, token = reached_at(http.host), http.token.get_secret_value()
    lines = [f"GET {path} HTTP/1.0", f"Host: {authority(host, http.port)}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    reader, writer = await asyncio.open_connection(host, http.port)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode())
        return await reader.read()
    finally:
        writer.close()


# --- for people -------------------------------------------------------------------------------------------------------


def rendered(status: Status, terminal: Terminal = PLAIN) -> list[str]:
    """Return the lines for people: what is wrong, and two tables, with what each stream waits for and what to do."""
    wrong = _issues(status, terminal)
    if not status.streams:
        nothing = "No stream has been synced yet: start with `milepost sync` or `milepost run`."
        return wrong or [nothing]
    streams = [Stream(stream.platform, stream.page_id) for stream in status.streams]
    titles = Titles({stream.page_id: stream.page_name for stream in status.streams})
    leading = titles.columns(streams)
    titled = [(titles.cells(stream, leading), each) for stream, each in zip(streams, status.streams, strict=True)]
    conditions = table(
        [*leading, *CONDITION], [[*cells, *_condition(each, status)] for cells, each in titled], terminal
    )
    lines = conditions.with_details([_waiting(stream, status.at) for stream in status.streams], terminal)
    written = table([*leading, *WRITTEN], [[*cells, *_written(each)] for cells, each in titled], terminal)
    return [*wrong, *([""] if wrong else []), *lines, "", *written.lines, *_webhooks(status, terminal)]


def _webhooks(status: Status, terminal: Terminal) -> list[str]:
    """Return the counts of webhooks if a daemon receives them."""
    webhooks = None if status.daemon is None else status.daemon.webhooks
    return [] if webhooks is None else ["", *terminal.wrapped(webhooks_in_words(webhooks, status.at))]


def _issues(status: Status, terminal: Terminal) -> list[str]:
    """Return what is wrong with the daemon as a whole; it is shown before anything else."""
    texts = []
    for issue in status.daemon.issues if status.daemon is not None else ():
        sentence = in_a_sentence(issue, status.at)
        texts.append(f"{sentence[0].upper()}{sentence[1:]}")
        if issue.advice is not None:
            texts.append(f"  → {issue.advice}")
    return terminal.fitted(texts)


def _condition(stream: StreamStatus, status: Status) -> tuple[str | Cell, ...]:
    return (
        Cell(_state(stream, status.at), COLOURS[stream.state]),
        _sweep(stream.sweep),
        ago(stream.updated_at, status.at),
        ago(stream.last_success_at, status.at),
        _next_run(stream, status),
    )


def _written(stream: StreamStatus) -> tuple[str | Cell, ...]:
    written = stream.written
    counts = (
        written.conversations_inserted,
        written.conversations_updated,
        written.contacts,
        written.interaction_events,
    )
    open_dead_letters = stream.open_dead_letters
    return (*(f"{count:,}" for count in counts), Cell(f"{open_dead_letters:,}", BAD if open_dead_letters else None))


def _state(stream: StreamStatus, now: datetime) -> str:
    words = in_words(stream.state)
    match stream.state:
        case State.SYNCING if stream.sweep is not None:
            return f"{words}, at batch {stream.sweep.batches + 1:,}"
        case State.RETRYING if stream.retry_at is not None:
            return f"{words} {ahead(stream.retry_at, now)}"
        case State.PAUSED | State.STOPPED if stream.reason is not None:
            return f"{words}: {in_words(stream.reason)}"
        case State.INTERRUPTED if stream.reason is not Reason.BROKE_OFF:
            return f"{words}: process died"
        case _:
            return words


def _sweep(sweep: OpenSweep | None) -> str:
    if sweep is None:
        return "-"
    phase = " catch-up" if sweep.phase is Phase.CATCH_UP else ""
    return f"{sweep.mode}{phase}, {counted(sweep.batches, 'batch', 'batches')}"


def _next_run(stream: StreamStatus, status: Status) -> str:
    if stream.is_configured is False:
        return "not configured"
    if not status.is_at_work:
        return "when the daemon runs"
    if stream.state is State.ON_HOLD:
        return "when resumed"
    if stream.next_run_at is None:
        return "under way"
    return ahead(stream.next_run_at, status.at)


def _waiting(stream: StreamStatus, now: datetime) -> list[str]:
    """Return what a stream waits for, why, and what to do; nothing if it only waits for its next run."""
    lines = []
    if stream.waits_for is not None:
        lines.append(waiting(stream.waits_for, stream.since, stream.until, now))
    if stream.problem is not None:
        lines.append(f"cause: {on_one_line(stream.problem)}")
    if stream.advice is not None:
        lines.append(f"→ {stream.advice}")
    if stream.remark is not None:
        lines.append(on_one_line(stream.remark))
    return lines
