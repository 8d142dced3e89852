"""Subscriptions to webhooks: looked at every few hours, reported where one is missing, and mended where wanted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from structlog.testing import capture_logs

from app.trial import page_of
from kit.engine_doubles import engine
from kit.memory_store import MemoryStore
from kit.simulated import BAKERY, BICYCLES, frozen_world
from kit.virtual_time import LeapingClock
from milepost.app.page_watch import (
    FIRST_SECONDS,
    SUBSCRIPTION_AGAIN_SECONDS,
    SUBSCRIPTION_SECONDS,
    SubscriptionWatch,
)
from milepost.app.pages import PageRegistry
from milepost.core.model import Platform, Stream
from milepost.engine.interrupt import Stop
from milepost.facebook.client import GraphClient
from milepost.reporting.health import IssueKind
from milepost.simulator.access import ALL_FIELDS
from milepost.simulator.server import SimulatorServer

OF_BAKERY = [Stream(platform, BAKERY.id) for platform in (Platform.MESSENGER, Platform.INSTAGRAM)]
OF_BICYCLES = Stream(Platform.MESSENGER, BICYCLES.id)


@dataclass
class Trial:
    simulator: SimulatorServer
    registry: PageRegistry
    watch: SubscriptionWatch
    clock: LeapingClock
    subscribes: bool = False

    async def look(self, after_seconds: float = 0.0) -> None:
        """Look at the subscriptions that are due so much later."""
        self.clock.time += timedelta(seconds=after_seconds)
        await self.watch.look_due(self.clock)

    @property
    def looks(self) -> int:
        return sum(request.edge == "subscribed_apps" for request in self.simulator.requests.last)

    def fields_of(self, page_id: str) -> frozenset[str]:
        return self.simulator.world.access.subscribed_fields(page_id)


@asynccontextmanager
async def trial() -> AsyncIterator[Trial]:
    stop = Stop()
    clock = LeapingClock(stop)
    parts = engine(MemoryStore(), clock=clock, stop=stop)
    async with (
        frozen_world(3, pages=(BAKERY, BICYCLES)) as simulator,
        GraphClient(simulator.base_url, "v26.0", clock=clock.now) as client,
    ):
        registry = PageRegistry(client, parts.rate_limits, 0, "")
        registry.add([page_of(BAKERY), page_of(BICYCLES)])
        made = Trial(simulator, registry, SubscriptionWatch(registry, lambda: made.subscribes), clock)
        yield made


async def test_pages_that_are_subscribed_raise_no_issue() -> None:
    async with trial() as watched:
        assert watched.watch.missing() == {}, "nothing is known yet"
        await watched.look()
        assert watched.watch.missing() == {**dict.fromkeys(OF_BAKERY, False), OF_BICYCLES: False}
        assert [*watched.watch.issues()] == []


async def test_what_a_page_is_not_subscribed_to_is_said_until_it_is() -> None:
    async with trial() as watched:
        watched.simulator.world.access.subscribe(BAKERY.id, "messages,message_reads")
        with capture_logs() as logged:
            await watched.look()
            await watched.look(SUBSCRIPTION_AGAIN_SECONDS)
        assert [line["missing"] for line in logged if line["event"] == "webhooks not subscribed"] == [
            "message_echoes, messaging_postbacks, standby"
        ]
        (issue,) = watched.watch.issues()
        assert issue.kind is IssueKind.UNSUBSCRIBED
        assert issue.reason == f"page {BAKERY.id}: message_echoes, messaging_postbacks, standby"
        assert watched.watch.missing() == {**dict.fromkeys(OF_BAKERY, True), OF_BICYCLES: False}
        assert watched.fields_of(BAKERY.id) == {"messages", "message_reads"}, "it is only reported"

        watched.simulator.world.access.subscribe(BAKERY.id, ",".join(ALL_FIELDS))
        await watched.look(SUBSCRIPTION_AGAIN_SECONDS)
        assert [*watched.watch.issues()] == []


async def test_what_is_missing_is_added_to_what_is_there() -> None:
    async with trial() as watched:
        watched.subscribes = True
        watched.simulator.world.access.subscribe(BAKERY.id, "messages,message_reads")
        watched.simulator.world.access.subscribe(BICYCLES.id)
        await watched.look()
        needed = {"messages", "message_echoes", "messaging_postbacks", "standby"}
        assert watched.fields_of(BAKERY.id) == needed | {"message_reads"}
        assert watched.fields_of(BICYCLES.id) == needed
        assert [*watched.watch.issues()] == []


async def test_the_fields_of_facts_are_added_to_the_others_later_and_are_not_missed() -> None:
    async with trial() as watched:
        needed = "messages,message_echoes,messaging_postbacks,standby"
        watched.simulator.world.access.subscribe(BAKERY.id, needed)
        await watched.look()
        assert [*watched.watch.issues()] == []
        assert watched.fields_of(BAKERY.id) == {*needed.split(",")}, "nobody has asked for them"

        watched.subscribes = True
        await watched.look(SUBSCRIPTION_SECONDS)
        assert watched.fields_of(BAKERY.id) == {
            *needed.split(","),
            *("message_edits", "message_reactions", "messaging_referrals"),
        }
        watched.simulator.world.access.subscribe(BAKERY.id, needed)
        await watched.look(SUBSCRIPTION_SECONDS)
        assert watched.fields_of(BAKERY.id) == {*needed.split(",")}, "they are requested once"


async def test_a_page_that_may_not_be_asked_says_nothing_and_is_asked_again() -> None:
    async with trial() as watched:
        watched.simulator.world.access.forbid(BAKERY.id, 200)
        await watched.look()
        assert watched.watch.missing() == {OF_BICYCLES: False}
        watched.simulator.world.access.allow(BAKERY.id)
        await watched.look(SUBSCRIPTION_AGAIN_SECONDS)
        assert len(watched.watch.missing()) == 3


async def test_pages_are_looked_at_every_few_hours() -> None:
    async with trial() as watched:
        for _ in range(5):
            await watched.look(FIRST_SECONDS)
        assert watched.looks == 2
        await watched.look(SUBSCRIPTION_SECONDS)
        assert watched.looks == 4


async def test_a_page_that_is_removed_is_forgotten() -> None:
    async with trial() as watched:
        watched.simulator.world.access.subscribe(BAKERY.id)
        await watched.look()
        watched.registry.retain([page_of(BICYCLES)], ())
        await watched.look()
        assert watched.watch.missing() == {OF_BICYCLES: False}
        assert [*watched.watch.issues()] == []


async def test_nothing_is_mended_with_a_rate_limit_or_a_refusal() -> None:
    async with trial() as watched:
        watched.subscribes = True
        watched.simulator.world.access.subscribe(BAKERY.id, "messages")
        watched.simulator.limit(4, 600)
        await watched.look()
        assert watched.fields_of(BAKERY.id) == {"messages"}
        assert watched.watch.missing() == {}
