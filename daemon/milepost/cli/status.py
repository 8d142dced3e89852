"""`milepost status`: where every stream stands."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec

from milepost.app.database import store_url_of
from milepost.cli.known_streams import configured_streams
from milepost.cli.options import config_option, load_settings
from milepost.cli.status_table import rendered
from milepost.core.checkpoint import Checkpoint
from milepost.reporting.status import ConditionContext, rate_limits_of
from milepost.reporting.views import Status, statuses
from milepost.stores.open import has_database, is_at_work, open_reader
from milepost.stores.url import StoreUrl


@click.command(name="status")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object, with times in ISO 8601.")
def command(config: str | None, *, as_json: bool) -> None:
    """Show where every stream stands: what it is at and waits for, what it has brought, and when it is worked next.

    It reads the database only, and so answers whether the daemon runs or not. "next run" is an estimate;
    "conversations" are those that were new, "contacts" and "events" the rows that were written.

    The object of --json has at, database, is_at_work (whether a Milepost holds the database) and streams. Each of these
    has stream, platform, page_id, page_name, state (never_synced, syncing, retrying, rate_limited, complete,
    complete_with_errors, paused, failed, stopped or interrupted), is_configured, waits_for (what keeps it from going
    on, in words), since, until, reason and problem (why it is not complete), advice (what a person can do), remark,
    retry_at, sweep (of an open one: mode, phase, batches, walk_started_at, reached_at, conversations, expected,
    walk_until), updated_at, last_success_at, last_full_sweep_at, watermark, written (conversations_inserted,
    conversations_updated, contacts, interaction_events), open_dead_letters, next_run_at, run (the latest one), on_hold
    (since and by, where somebody paused it), token_is_valid and token_expires_at.
    What does not apply is null.
    """
    settings = load_settings(config)
    store_url = store_url_of(settings)
    at_work, checkpoints = asyncio.run(_look(store_url))
    around = ConditionContext(
        datetime.now(UTC),
        at_work,
        settings.sync.interval_seconds,
        settings.sync.batch_size,
        rate_limits_of(checkpoints),
    )
    page_names = {page.id: page.name for page in settings.pages}
    streams = statuses(checkpoints, around, configured_streams(settings), page_names)
    status = Status(around.now, str(store_url), at_work, streams)
    click.echo(msgspec.json.format(msgspec.json.encode(status)) if as_json else rendered(status))


async def _look(store_url: StoreUrl) -> tuple[bool, Sequence[Checkpoint]]:
    at_work = await is_at_work(store_url)  # asked first: a daemon that ends in between has recorded the end of its runs
    if not await has_database(store_url):
        return at_work, ()
    async with open_reader(store_url) as journal_reader:
        return at_work, await journal_reader.checkpoints()
