"""`milepost status`: the state of every stream, as tables for people or as JSON."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec

from milepost.app.database import store_url_of
from milepost.cli.options import config_option, configured_streams, load_settings
from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Reason
from milepost.core.position import Phase
from milepost.reporting.health import DaemonStatus, in_a_sentence, webhooks_in_words
from milepost.reporting.humanize import ago, ahead, counted, in_columns, in_words, on_one_line, waiting
from milepost.reporting.status import ConditionContext, State, rate_limits_of
from milepost.reporting.views import OpenSweep, Status, StreamStatus, statuses
from milepost.settings import HttpSettings
from milepost.stores.open import has_database, is_at_work, open_reader
from milepost.stores.url import StoreUrl

CONDITION = ("stream", "state", "open sweep", "last saved", "last success", "next run")
WRITTEN = ("stream", "conversations", "updates", "contacts", "events", "open dead letters")


@click.command(name="status")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object, with times in ISO 8601.")
def command(config: str | None, *, as_json: bool) -> None:
    """Show every stream: its state, what it waits for, what was written, and when its next run is.

    This reads the database, so it works whether the daemon is running or not; a daemon that runs is asked what is wrong
    with it as a whole, which comes first. "next run" is an estimate; "conversations" counts new ones, "contacts" and
    "events" count rows written.

    The object of --json has at, database, is_at_work (whether a Milepost is using the database), streams and daemon
    (what the daemon says of itself, as at /api/daemon; null if none answers). Each of the streams has stream, platform,
    page_id, page_name, state (never_synced, queued, syncing, retrying, rate_limited, complete, complete_with_errors,
    paused, failed, stopped, interrupted or on_hold), is_configured, waits_for (in words), since, until, reason and
    problem (why it is not complete), advice (what a person can do), remark, retry_at, sweep (an open one: mode, phase,
    batches, walk_started_at, reached_at, conversations, expected, walk_until), updated_at, last_success_at,
    last_full_sweep_at, watermark, written (conversations_inserted, conversations_updated, contacts,
    interaction_events), open_dead_letters, message_backlog (conversations with older messages that are still to be
    read), message_history (left and total, of those whose histories are), next_run_at, run (the latest one), on_hold
    (since and by, where an operator paused it), token_is_valid and
    token_expires_at. Fields that do not apply are null.
    """
    settings = load_settings(config)
    store_url = store_url_of(settings)
    at_work, checkpoints, daemon = asyncio.run(_look(store_url, settings.http))
    around = ConditionContext(
        datetime.now(UTC),
        at_work,
        settings.sync.interval_seconds,
        settings.sync.batch_size,
        rate_limits_of(checkpoints),
    )
    page_names = {page.id: page.name for page in settings.pages}
    streams = statuses(checkpoints, around, configured_streams(settings), page_names, daemon)
    status = Status(around.now, str(store_url), at_work, streams, daemon)
    click.echo(msgspec.json.format(msgspec.json.encode(status)) if as_json else rendered(status))


async def _look(store_url: StoreUrl, http: HttpSettings) -> tuple[bool, Sequence[Checkpoint], DaemonStatus | None]:
    at_work = await is_at_work(store_url)  # first: a daemon that ends in between has recorded the end of its runs
    daemon = await _ask_daemon(http) if at_work and http.port else None
    if not await has_database(store_url):
        return at_work, (), daemon
    async with open_reader(store_url) as journal_reader:
        return at_work, await journal_reader.checkpoints(), daemon


async def _ask_daemon(http: HttpSettings) -> DaemonStatus | None:
    # Imported here: without a daemon nobody needs to wait for an HTTP client to load.
    from milepost.cli.daemon_client import daemon_at  # noqa: PLC0415

    async with daemon_at(http) as daemon:
        return await daemon.fetch_status()


# --- for people -------------------------------------------------------------------------------------------------------


def rendered(status: Status) -> str:
    """Return what is wrong, and two tables for people, with what each stream waits for and what to do."""
    wrong = _issues(status)
    if not status.streams:
        nothing = "No stream has been synced yet: start with `milepost sync` or `milepost run`."
        return "\n".join(wrong) if wrong else nothing
    head, *rows = in_columns([CONDITION, *(_condition(stream, status) for stream in status.streams)])
    lines = [head]
    for stream, row in zip(status.streams, rows, strict=True):
        lines += row, *(f"  {line}" for line in _waiting(stream, status.at))
    written = in_columns([WRITTEN, *map(_written, status.streams)], right=frozenset(range(1, len(WRITTEN))))
    return "\n".join([*wrong, *([""] if wrong else []), *lines, "", *written, *_webhooks(status)])


def _webhooks(status: Status) -> list[str]:
    """Return what has come by webhooks, where a daemon takes them."""
    webhooks = None if status.daemon is None else status.daemon.webhooks
    return [] if webhooks is None else ["", webhooks_in_words(webhooks, status.at)]


def _issues(status: Status) -> list[str]:
    """Return what is wrong with the daemon as a whole, before anything else."""
    lines = []
    for issue in status.daemon.issues if status.daemon is not None else ():
        sentence = in_a_sentence(issue, status.at)
        lines.append(f"{sentence[0].upper()}{sentence[1:]}")
        if issue.advice is not None:
            lines.append(f"  → {issue.advice}")
    return lines


def _condition(stream: StreamStatus, status: Status) -> tuple[str, ...]:
    return (
        stream.stream,
        _state(stream, status.at),
        _sweep(stream.sweep),
        ago(stream.updated_at, status.at),
        ago(stream.last_success_at, status.at),
        _next_run(stream, status),
    )


def _written(stream: StreamStatus) -> tuple[str, ...]:
    written = stream.written
    counts = (
        written.conversations_inserted,
        written.conversations_updated,
        written.contacts,
        written.interaction_events,
        stream.open_dead_letters,
    )
    return (stream.stream, *(f"{count:,}" for count in counts))


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
    if stream.next_run_at is None:
        return "under way"
    return ahead(stream.next_run_at, status.at)


def _waiting(stream: StreamStatus, now: datetime) -> list[str]:
    """Return what a stream waits for, why, and what to do; nothing where it only waits for its next run."""
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
