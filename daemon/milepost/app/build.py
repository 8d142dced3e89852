"""Builds the parts from the settings: the only module that knows which source meets which store."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import structlog
from msgspec import Struct

from milepost.app.database import demand_source, store_url_of
from milepost.app.discovery import PageDiscovery
from milepost.app.pages import PageRegistry, configured_pages, graph_client
from milepost.app.reload import ConfigReloader, ReloadTargets, policy_of, schedule_of
from milepost.core.checkpoint import Checkpoint, furthest_ahead
from milepost.core.model import Platform
from milepost.core.ports import Clock, Held
from milepost.core.problems import Problem
from milepost.engine.clock import SystemClock
from milepost.engine.context import EngineContext, Slots
from milepost.engine.feed import Feed, SlotWaited
from milepost.engine.interrupt import Stop, stopping_when_lost
from milepost.engine.rate_limits import RateLimits
from milepost.engine.supervisor import Supervisor
from milepost.facebook.pages import Page
from milepost.settings.model import Settings
from milepost.stores.open import open_store
from milepost.stores.store import OpenStore

# The embedded world: large enough to watch a sweep progress at two calls a second, small enough to see it end.
SIMULATED_PAGES = 2
SIMULATED_CONVERSATIONS = 500
SIMULATED_LONGEST_THREAD = 200


class Parts(Struct, frozen=True, eq=False):
    """The assembled parts that commands need.

    `undiscovered` says why page discovery failed at startup; the configured pages are synced nevertheless.
    `send_webhooks` makes a simulated world send webhooks to a URL, signed with a secret; None for the real API.
    """

    supervisor: Supervisor
    engine: EngineContext
    registry: PageRegistry
    store: OpenStore
    feed: Feed
    clock: Clock
    reloader: ConfigReloader
    discovery: PageDiscovery
    undiscovered: Problem | Held | None
    send_webhooks: Callable[[str, str], object] | None


class _World(Struct, frozen=True):
    """The Graph API's URL, the pages to sync, and the token of the user whose pages are discovered.

    The other fields are those of Parts.
    """

    base_url: str
    pages: list[Page]
    manager_token: str
    send_webhooks: Callable[[str, str], object] | None = None


@asynccontextmanager
async def assembled(
    settings: Settings, stop: Stop, learn_secret: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Parts]:
    """Open the store, assemble the parts, and close everything at the end.

    `learn_secret` is called with each token that is not in the configuration. When the database is lost, a stop is
    requested. Raises BadConfiguration, StoreBusy, StoreRefused or StoreAway; StoreLost also after the block.
    """
    clock, feed = SystemClock(), Feed()
    async with (
        _store(settings, stop) as store,
        _world(settings, clock) as world,
        graph_client(settings.source, world.base_url, clock.now) as client,
    ):
        rate_limits = RateLimits(clock, feed, floor_seconds=settings.source.rate_limit_floor_seconds)
        checkpoints = await store.checkpoints()
        _warn_of_skew(checkpoints, clock)
        for checkpoint in checkpoints:
            rate_limits.observe(checkpoint)  # before the first call: a limit outlives the process that met it
        registry = PageRegistry(client, rate_limits, settings.source.calls_per_second, world.manager_token)
        slots = Slots(settings.sync.concurrency, lambda seconds: feed.publish(SlotWaited(seconds)))
        engine = EngineContext(store, clock, feed, stop, policy_of(settings), rate_limits, slots)
        supervisor = Supervisor(engine, registry.add(world.pages), schedule_of(settings))
        discovery = PageDiscovery(registry, supervisor, settings, learn_secret, clock)
        targets = ReloadTargets(supervisor, client, rate_limits, discovery)
        undiscovered: Problem | Held | None = Held()
        async with stop.interruptible():
            undiscovered = await discovery.discover()
        yield Parts(
            supervisor=supervisor,
            engine=engine,
            registry=registry,
            store=store,
            feed=feed,
            clock=clock,
            reloader=ConfigReloader(settings, targets, learn_secret),
            discovery=discovery,
            undiscovered=undiscovered,
            send_webhooks=world.send_webhooks,
        )


@asynccontextmanager
async def _store(settings: Settings, stop: Stop) -> AsyncIterator[OpenStore]:
    """Open the store and check that its data is from the configured source; request a stop when it is lost."""
    async with open_store(
        store_url_of(settings),
        synchronous=settings.store.synchronous,
        events_chunk_size=settings.sync.events_chunk_size,
    ) as store:
        await demand_source(store, settings)
        async with stopping_when_lost(store.watch, stop):
            yield store


def _warn_of_skew(checkpoints: Iterable[Checkpoint], clock: Clock) -> None:
    """Warn once if the clock was ahead when the journal was written, or is behind now."""
    now = clock.now()
    ahead = furthest_ahead(checkpoints, now)
    if ahead:
        structlog.get_logger("milepost").warning(
            "the journal is ahead of the clock",
            what=", ".join(ahead),
            ahead_seconds=round((max(ahead.values()) - now).total_seconds()),
            hint="nothing waits for it, and a sweep whose watermark is in the future is a full one;"
            " check the machine's time synchronization (timedatectl)",
        )


@asynccontextmanager
async def _world(settings: Settings, clock: Clock) -> AsyncIterator[_World]:
    """Yield the world to sync; a simulated one is served during the block."""
    source = settings.source
    if source.kind == "simulator":
        async with _simulated_world(settings, clock) as world:
            yield world
    else:
        yield _World(source.base_url, configured_pages(settings), source.access_token.get_secret_value())


@asynccontextmanager
async def _simulated_world(settings: Settings, clock: Clock) -> AsyncIterator[_World]:
    """Serve a simulated Graph API on loopback."""
    # Imported here, so that a daemon for real pages does not load a server.
    from milepost.simulator.plan import WorldPlan  # noqa: PLC0415
    from milepost.simulator.server import SimulatorServer  # noqa: PLC0415

    plan = WorldPlan(
        conversations=SIMULATED_CONVERSATIONS, pages=SIMULATED_PAGES, longest_thread=SIMULATED_LONGEST_THREAD
    )
    app_secret = settings.source.app_secret.get_secret_value()
    async with SimulatorServer(plan, clock=clock.now, app_secret=app_secret) as simulator:
        pages = [
            Page(page.id, page.name, tuple(map(Platform, page.platforms)), page.token, page.instagram_account_id)
            for page in simulator.pages
        ]
        yield _World(simulator.base_url, pages, simulator.world.user_token, simulator.send_webhooks)
