"""Tokens are checked once a day, new ones soon; subscriptions are looked at every few hours, and mended if wanted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from app.trial import page_of
from kit.engine_doubles import engine, types
from kit.memory_store import MemoryStore
from kit.simulated import BAKERY, BICYCLES, NOW, frozen_world
from kit.virtual_time import LeapingClock
from milepost.app.page_watch import (
    CHECK_AGAIN_SECONDS,
    CHECK_SECONDS,
    FIRST_SECONDS,
    LOOK_SECONDS,
    SUBSCRIPTION_AGAIN_SECONDS,
    SUBSCRIPTION_SECONDS,
    SubscriptionWatch,
    TokenWatch,
)
from milepost.app.pages import PageRegistry
from milepost.core.model import Platform, Stream, TokenHealth
from milepost.core.ports import Held
from milepost.core.problems import Problem
from milepost.engine.interrupt import Stop
from milepost.engine.supervisor import Schedule, Supervisor
from milepost.facebook import rate_limiter
from milepost.facebook.client import GraphClient
from milepost.facebook.pages import Page
from milepost.facebook.token_health import InspectedToken
from milepost.reporting.health import IssueKind
from milepost.simulator.access import ALL_FIELDS
from milepost.simulator.server import SimulatorServer

OF_BAKERY = tuple(Stream(platform, BAKERY.id) for platform in (Platform.MESSENGER, Platform.INSTAGRAM))
OF_BICYCLES = Stream(Platform.MESSENGER, BICYCLES.id)
HEALTH = TokenHealth(True, None, NOW.replace(hour=0) + timedelta(days=60))


@dataclass
class Trial:
    """The watches of some pages of a simulated world."""

    simulator: SimulatorServer
    stop: Stop
    store: MemoryStore
    registry: PageRegistry
    clock: LeapingClock
    tokens: TokenWatch
    watch: SubscriptionWatch
    subscribes: bool = False

    async def check(self, after_seconds: float = 0.0) -> None:
        """Check the tokens that are due so much later."""
        self.clock.time += timedelta(seconds=after_seconds)
        await self.tokens.check_due(self.clock)

    async def look(self, after_seconds: float = 0.0) -> None:
        """Look at the subscriptions that are due so much later."""
        self.clock.time += timedelta(seconds=after_seconds)
        await self.watch.look_due(self.clock)

    @property
    def requests(self) -> int:
        return sum(request.owner == "debug_token" for request in self.simulator.requests.last)

    @property
    def looks(self) -> int:
        return sum(request.edge == "subscribed_apps" for request in self.simulator.requests.last)

    async def health_of(self, stream: Stream) -> TokenHealth | None:
        return (await self.store.load(stream)).token

    def fields_of(self, page_id: str) -> frozenset[str]:
        return self.simulator.world.access.subscribed_fields(page_id)


@asynccontextmanager
async def trial_of(*pages: Page) -> AsyncIterator[Trial]:
    store, stop = MemoryStore(), Stop()
    clock = LeapingClock(stop)
    parts = engine(store, clock=clock, stop=stop)
    async with (
        frozen_world(3, pages=(BAKERY, BICYCLES)) as simulator,
        GraphClient(simulator.base_url, "v26.0", clock=clock.now) as client,
    ):
        registry = PageRegistry(client, parts.rate_limits, 0, "")
        tokens = TokenWatch(registry, Supervisor(parts, registry.add(pages), Schedule()))
        watch = SubscriptionWatch(registry, lambda: trial.subscribes)
        trial = Trial(simulator, stop, store, registry, clock, tokens, watch)
        yield trial


def with_token(page: Page, token: str) -> Page:
    return replace(page, access_token=token)


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_every_stream_of_a_page_learns_the_health_of_its_token() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as trial:
        trial.simulator.world.access.expire(BICYCLES.id, 7200.0, NOW)
        await trial.check()
        assert [await trial.health_of(stream) for stream in OF_BAKERY] == [HEALTH, HEALTH]
        assert await trial.health_of(OF_BICYCLES) == replace(HEALTH, expires_at=NOW + timedelta(hours=2))
        assert trial.requests == 2, "one per page, however many streams it has"


async def test_a_token_is_checked_once_a_day_and_only_changes_are_journaled() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        for _ in range(4):
            await trial.check(CHECK_SECONDS / 2)
        assert trial.requests == 2
        assert types(trial.store, OF_BICYCLES) == ["token_checked"]


async def test_a_new_token_is_checked_at_the_next_look() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        await trial.check()
        trial.registry.rotate_tokens([with_token(page_of(BICYCLES), trial.simulator.world.access.renew(BICYCLES.id))])
        trial.simulator.world.access.expire(BICYCLES.id, 60.0, NOW)
        await trial.check(LOOK_SECONDS)
        assert trial.requests == 2
        assert await trial.health_of(OF_BICYCLES) == replace(HEALTH, expires_at=NOW + timedelta(minutes=1))


async def test_a_failed_check_changes_nothing_and_is_repeated_within_hours() -> None:
    async with trial_of(with_token(page_of(BICYCLES), "nobodys-token"), page_of(BAKERY)) as trial:
        await trial.check()
        assert await trial.health_of(OF_BICYCLES) is None
        assert await trial.health_of(OF_BAKERY[0]) == HEALTH, "one page's token holds up no other"
        await trial.check(CHECK_AGAIN_SECONDS - 1)
        assert trial.requests == 2
        await trial.check(1)
        assert trial.requests == 3


async def test_the_token_of_a_suspended_page_is_not_checked() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        trial.registry.suspend([BICYCLES.id])
        await trial.check()
        assert trial.requests == 0


async def test_a_page_that_is_dropped_during_its_check_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trial_of(page_of(BICYCLES), page_of(BAKERY)) as trial:
        fetch = trial.registry.inspect_token

        async def drop_meanwhile(page_id: str) -> InspectedToken | Problem | Held:
            found = await fetch(page_id)
            trial.registry.retain([page_of(BAKERY)], besides=())
            return found

        monkeypatch.setattr(trial.registry, "inspect_token", drop_meanwhile)
        await trial.check()
        assert await trial.health_of(OF_BICYCLES) is None
        assert await trial.health_of(OF_BAKERY[0]) == HEALTH


async def test_a_page_that_is_dropped_before_its_check_is_not_checked() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        check = asyncio.create_task(trial.check())
        await asyncio.sleep(0)
        trial.registry.retain([], besides=())
        await check
        assert trial.requests == 0


async def test_tokens_are_checked_again_and_again_until_a_stop_is_requested() -> None:
    async with trial_of(page_of(BICYCLES)) as trial:
        trial.clock.ends_at = trial.clock.time + timedelta(seconds=3 * CHECK_SECONDS)
        await trial.tokens.run(trial.clock, trial.stop)
        assert trial.requests == 3


# --- subscriptions ----------------------------------------------------------------------------------------------------


async def test_pages_that_are_subscribed_raise_no_issue() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        assert watched.watch.missing() == {}, "nothing is known yet"
        await watched.look()
        assert watched.watch.missing() == {**dict.fromkeys(OF_BAKERY, False), OF_BICYCLES: False}
        assert [*watched.watch.issues()] == []


async def test_what_a_page_is_not_subscribed_to_is_said_until_it_is() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
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
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        watched.subscribes = True
        watched.simulator.world.access.subscribe(BAKERY.id, "messages,message_reads")
        watched.simulator.world.access.subscribe(BICYCLES.id)
        await watched.look()
        needed = {"messages", "message_echoes", "messaging_postbacks", "standby"}
        assert watched.fields_of(BAKERY.id) == needed | {"message_reads"}
        assert watched.fields_of(BICYCLES.id) == needed
        assert [*watched.watch.issues()] == []


async def test_the_fields_of_facts_are_added_to_the_others_later_and_are_not_missed() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
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
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        watched.simulator.world.access.forbid(BAKERY.id, 200)
        await watched.look()
        assert watched.watch.missing() == {OF_BICYCLES: False}
        watched.simulator.world.access.allow(BAKERY.id)
        await watched.look(SUBSCRIPTION_AGAIN_SECONDS)
        assert len(watched.watch.missing()) == 3


async def test_pages_are_looked_at_every_few_hours() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        for _ in range(5):
            await watched.look(FIRST_SECONDS)
        assert watched.looks == 2
        await watched.look(SUBSCRIPTION_SECONDS)
        assert watched.looks == 4


async def test_a_page_that_is_removed_is_forgotten() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        watched.simulator.world.access.subscribe(BAKERY.id)
        await watched.look()
        watched.registry.retain([page_of(BICYCLES)], ())
        await watched.look()
        assert watched.watch.missing() == {OF_BICYCLES: False}
        assert [*watched.watch.issues()] == []


async def test_nothing_is_mended_with_a_rate_limit_or_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limiter, "MAX_SLOWDOWN_SECONDS", 0.0)  # for which the next call would really wait
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        watched.subscribes = True
        watched.simulator.world.access.subscribe(BAKERY.id, "messages")
        watched.simulator.limit(4, 600)
        await watched.look()
        assert watched.fields_of(BAKERY.id) == {"messages"}
        assert watched.watch.missing() == {}
