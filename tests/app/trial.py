"""The reloader, the discovery and the watches of a daemon, over a simulated API and virtual time."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from kit.engine_doubles import engine
from kit.memory_store import MemoryStore
from kit.simulated import BAKERY, BICYCLES, frozen_world
from kit.virtual_time import LeapingClock
from milepost.app.discovery import PageDiscovery
from milepost.app.pages import PageRegistry, TokenWatch
from milepost.app.reload import ConfigReloader, Configuration, Reload, ReloadTargets
from milepost.app.webhooks import SubscriptionWatch
from milepost.core.model import Platform, Stream
from milepost.engine.context import EngineContext
from milepost.engine.interrupt import Interrupt, Stop
from milepost.engine.supervisor import Schedule, Supervisor
from milepost.facebook.client import GraphClient
from milepost.facebook.pages import Page
from milepost.settings.model import Settings
from milepost.simulator.plan import SimulatedPage
from milepost.simulator.server import SimulatorServer

OF_BICYCLES = Stream(Platform.MESSENGER, BICYCLES.id)


@dataclass
class Trial:
    """The reloader, the discovery and the watches of a daemon that runs on virtual time."""

    simulator: SimulatorServer
    clock: LeapingClock
    engine: EngineContext
    supervisor: Supervisor
    registry: PageRegistry
    client: GraphClient
    discovery: PageDiscovery
    reloader: ConfigReloader
    secrets: list[str]
    store: MemoryStore
    tokens: TokenWatch
    subscriptions: SubscriptionWatch
    subscribes: bool = False

    async def check(self, after_seconds: float = 0.0) -> None:
        """Check the tokens that are due so much later."""
        self.clock.time += timedelta(seconds=after_seconds)
        await self.tokens.check_due(self.clock)

    async def look(self, after_seconds: float = 0.0) -> None:
        """Look at the subscriptions that are due so much later."""
        self.clock.time += timedelta(seconds=after_seconds)
        await self.subscriptions.look_due(self.clock)

    async def run_discovery(self, seconds: float) -> None:
        """Run the discovery until so much time has passed."""
        self.clock.ends_at = self.clock.time + timedelta(seconds=seconds)
        await self.discovery.run(self.clock, self.engine.stop)

    async def run_reloader(self, seconds: float, configuration: Configuration, requested: Interrupt) -> None:
        """Run the reloader until so much time has passed."""
        self.clock.ends_at = self.clock.time + timedelta(seconds=seconds)
        await self.reloader.run(configuration, requested, self.clock, self.engine.stop)

    async def reload(self, *pages: Page, discover_pages: bool = False) -> Reload:
        """Reload with these pages listed."""
        wanted = settings_with(*pages, discover_pages=discover_pages, source=manager_of(self.simulator))
        return await self.reloader.reload(Configuration(lambda: wanted, None))

    @property
    def in_effect(self) -> dict[str, object]:
        """The values in effect that a reload can change."""
        supervisor, registry, client = self.supervisor, self.registry, self.client
        return {
            "policy": supervisor._engine.policy,
            "schedule": supervisor._schedule,
            "concurrency": supervisor._engine.slots._concurrency,
            "streams": supervisor.streams,
            "calls": (registry._calls_per_second, client.request_timeout_seconds, client._app_secret),
            "manager": registry._manager.token,
            "discovers": self.reloader.settings.source.discover_pages,
            "floor": self.engine.rate_limits.floor_seconds,
            "webhooks": self.reloader.settings.webhooks,  # asked at each request
            "notify": self.reloader.settings.notify,  # asked at each look
            "deliveries": self.reloader.settings.deliveries,  # likewise
            "level": logging.getLogger().level,
        }

    @property
    def discoveries(self) -> int:
        """The number of requests for the list of pages."""
        return sum(request.edge == "accounts" for request in self.simulator.requests.last)


@asynccontextmanager
async def trial_of(*pages: Page, faults: str = "calm") -> AsyncIterator[Trial]:
    stop, secrets = Stop(), list[str]()
    clock = LeapingClock(stop)
    share = engine(store := MemoryStore(), clock=clock, stop=stop)
    async with (
        frozen_world(3, faults, pages=(BAKERY, BICYCLES)) as simulator,
        GraphClient(simulator.base_url, "v26.0", clock=clock.now) as client,
    ):
        registry = PageRegistry(client, share.rate_limits, 0, simulator.world.user_token)
        supervisor = Supervisor(share, registry.add(pages), Schedule())
        settings = settings_with(*pages, discover_pages=True, source=manager_of(simulator))
        discovery = PageDiscovery(registry, supervisor, settings, secrets.append, clock)
        targets = ReloadTargets(supervisor, client, share.rate_limits, discovery)
        reloader = ConfigReloader(settings, targets, secrets.append)
        tokens = TokenWatch(registry, supervisor)
        subscriptions = SubscriptionWatch(registry, lambda: trial.subscribes)
        trial = Trial(
            simulator,
            clock,
            share,
            supervisor,
            registry,
            client,
            discovery,
            reloader,
            secrets,
            store,
            tokens,
            subscriptions,
        )
        yield trial


def settings_with(
    *pages: Page, discover_pages: bool = False, source: Mapping[str, object] = MappingProxyType({})
) -> Settings:
    """Return the settings that list these pages."""
    listed = tuple(
        {
            "id": page.id,
            "name": page.name,
            "access_token": page.access_token,
            "platforms": tuple(map(str, page.platforms)),
            "instagram_account_id": page.instagram_account_id,
        }
        for page in pages
    )
    keys = {"kind": "facebook", "discover_pages": discover_pages, **source}
    return Settings.model_validate({"source": keys, "pages": listed})


def manager_of(simulator: SimulatorServer) -> dict[str, object]:
    """Return the keys of `source` that discovery needs."""
    return {"access_token": simulator.world.user_token, "calls_per_second": 0.0}


def page_of(page: SimulatedPage, *platforms: Platform) -> Page:
    return Page(page.id, page.name, platforms or tuple(map(Platform, page.platforms)), page.token)
