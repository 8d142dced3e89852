"""From settings to the parts that work: the only file that knows every class."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from msgspec import Struct

from milepost.core.model import Platform, Stream
from milepost.core.plan import Policy
from milepost.core.ports import Source
from milepost.engine.clock import Clock, SystemClock
from milepost.engine.feed import Feed
from milepost.engine.shared import Shared
from milepost.engine.stop import Stop
from milepost.engine.supervisor import Pace, Supervisor
from milepost.settings import Settings
from milepost.sources.facebook.client import GraphClient
from milepost.sources.facebook.inbox import FacebookInbox, pace
from milepost.stores.sqlite import SqliteStore, open_sqlite

# The embedded world: large enough to see a sweep come along at two calls a second, small enough to see it end.
SIMULATED_PAGES = 2
SIMULATED_CONVERSATIONS = 500


class Page(Struct, frozen=True, repr_omit_defaults=True):
    """A page to work, wherever it was named: in the configuration or by the simulated world."""

    id: str
    name: str
    platforms: tuple[Platform, ...]
    access_token: str
    instagram_account_id: str | None = None

    def __repr__(self) -> str:
        return f"Page({self.id!r}, {self.platforms!r})"


class Parts(Struct, frozen=True, eq=False):
    """What an assembled Milepost consists of, as far as commands need to know."""

    supervisor: Supervisor
    store: SqliteStore
    streams: tuple[Stream, ...]
    feed: Feed


def policy_of(settings: Settings) -> Policy:
    """Pick the settings that decisions depend on."""
    return Policy(
        batch_size=settings.sync.batch_size,
        messages_per_conversation=settings.sync.messages_per_conversation,
        watermark_overlap_seconds=settings.sync.watermark_overlap_seconds,
        full_sweep_interval_seconds=settings.sync.full_sweep_interval_seconds,
        attempts=settings.retry.attempts,
        base_delay_seconds=settings.retry.base_delay_seconds,
        max_delay_seconds=settings.retry.max_delay_seconds,
    )


def pace_of(settings: Settings) -> Pace:
    """Pick the settings that say how often and how long streams are worked."""
    return Pace(
        interval_seconds=settings.sync.interval_seconds,
        concurrency=settings.sync.concurrency,
        max_run_seconds=settings.sync.max_run_duration_seconds,
        max_batches_per_run=settings.sync.max_batches_per_run,
    )


@asynccontextmanager
async def assembled(settings: Settings, stop: Stop) -> AsyncIterator[Parts]:
    """Open the store and the sources and put them together; close everything in the end.

    Raises BadConfiguration, StoreBusy, StoreRefused or StoreAway.
    """
    clock, feed = SystemClock(), Feed()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            open_sqlite(
                settings.store.sqlite_path,
                synchronous=settings.store.synchronous,
                events_chunk_size=settings.sync.events_chunk_size,
            )
        )
        sources = await stack.enter_async_context(_opened_sources(settings, clock))
        shared = Shared(store, clock, feed, stop, policy_of(settings))
        supervisor = Supervisor(shared, sources, pace_of(settings))
        yield Parts(supervisor, store, tuple(sources), feed)


@asynccontextmanager
async def _opened_sources(settings: Settings, clock: Clock) -> AsyncIterator[dict[Stream, Source]]:
    source = settings.source
    async with AsyncExitStack() as stack:
        if source.kind == "simulator":
            base_url, pages = await stack.enter_async_context(_simulated_world(settings, clock))
        else:
            base_url, pages = source.base_url, _configured_pages(settings)
        client = await stack.enter_async_context(
            GraphClient(
                base_url,
                source.version,
                clock=clock.now,
                app_secret=source.app_secret.get_secret_value(),
                request_timeout_seconds=source.request_timeout_seconds,
            )
        )
        yield {
            Stream(platform, page.id): inbox
            for page in pages
            for platform, inbox in _inboxes(client, page, source.calls_per_second).items()
        }


@asynccontextmanager
async def _simulated_world(settings: Settings, clock: Clock) -> AsyncIterator[tuple[str, list[Page]]]:
    """Serve a simulated Graph API on loopback, and give its base URL and pages."""
    # Imported here: who works real pages need not wait for a server to load.
    from milepost.sources.simulator.plan import SimulatedPage, WorldPlan  # noqa: PLC0415
    from milepost.sources.simulator.server import SimulatorServer  # noqa: PLC0415

    configured = tuple(
        SimulatedPage(
            id=page.id,
            name=page.name,
            token=page.access_token or f"made-up token of {page.id}",
            platforms=tuple(each.value for each in page.platforms),
            instagram_account_id=page.instagram_account_id,
        )
        for page in _configured_pages(settings)
    )
    plan = WorldPlan(conversations=SIMULATED_CONVERSATIONS, pages=configured or SIMULATED_PAGES)
    app_secret = settings.source.app_secret.get_secret_value()
    async with SimulatorServer(plan, clock=clock.now, app_secret=app_secret) as simulator:
        yield (
            simulator.base_url,
            [
                Page(
                    page.id,
                    page.name,
                    tuple(Platform(each) for each in page.platforms),
                    page.token,
                    page.instagram_account_id,
                )
                for page in simulator.pages
            ],
        )


def _configured_pages(settings: Settings) -> list[Page]:
    return [
        Page(
            page.id,
            page.name,
            tuple(Platform(each) for each in page.platforms),
            page.access_token.get_secret_value(),
            page.instagram_account_id,
        )
        for page in settings.pages
    ]


def _inboxes(client: GraphClient, page: Page, calls_per_second: float) -> dict[Platform, Source]:
    """Make the sources of a page's streams, which share the page's pace."""
    limiter = pace(calls_per_second)
    return {
        platform: FacebookInbox(
            client, Stream(platform, page.id), page.access_token, limiter, page.instagram_account_id
        )
        for platform in page.platforms
    }
