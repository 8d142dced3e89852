"""Subscriptions to webhooks are looked at every few hours, and mended if wanted."""

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from app.trial import OF_BICYCLES, Trial, page_of, trial_of
from kit.simulated import BAKERY, BICYCLES
from milepost.app.webhooks import FIRST_SECONDS, SUBSCRIPTION_AGAIN_SECONDS, SUBSCRIPTION_SECONDS
from milepost.core.model import Platform, Stream
from milepost.facebook import calls
from milepost.facebook.pages import Page
from milepost.reporting.health import IssueKind
from milepost.simulator.access import ALL_FIELDS

OF_BAKERY = tuple(Stream(platform, BAKERY.id) for platform in (Platform.MESSENGER, Platform.INSTAGRAM))


def looks(trial: Trial) -> int:
    return sum(request.edge == "subscribed_apps" for request in trial.simulator.requests.last)


def fields_of(trial: Trial, page_id: str) -> frozenset[str]:
    return trial.simulator.world.access.subscribed_fields(page_id)


def with_token(page: Page, token: str) -> Page:
    return replace(page, access_token=token)


async def test_pages_that_are_subscribed_raise_no_issue() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        assert watched.subscriptions.missing() == {}, "nothing is known yet"
        await watched.look()
        assert watched.subscriptions.missing() == {**dict.fromkeys(OF_BAKERY, False), OF_BICYCLES: False}
        assert [*watched.subscriptions.issues()] == []


async def test_what_a_page_is_not_subscribed_to_is_said_until_it_is() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        watched.simulator.world.access.subscribe(BAKERY.id, "messages,message_reads")
        with capture_logs() as logged:
            await watched.look()
            await watched.look(SUBSCRIPTION_AGAIN_SECONDS)
        assert [line["missing"] for line in logged if line["event"] == "webhooks not subscribed"] == [
            "message_echoes, messaging_postbacks, standby"
        ]
        (issue,) = watched.subscriptions.issues()
        assert issue.kind is IssueKind.UNSUBSCRIBED
        assert issue.reason == f"page {BAKERY.id}: message_echoes, messaging_postbacks, standby"
        assert watched.subscriptions.missing() == {**dict.fromkeys(OF_BAKERY, True), OF_BICYCLES: False}
        assert fields_of(watched, BAKERY.id) == {"messages", "message_reads"}, "it is only reported"

        watched.simulator.world.access.subscribe(BAKERY.id, ",".join(ALL_FIELDS))
        await watched.look(SUBSCRIPTION_AGAIN_SECONDS)
        assert [*watched.subscriptions.issues()] == []


async def test_what_is_missing_is_added_to_what_is_there() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        watched.subscribes = True
        watched.simulator.world.access.subscribe(BAKERY.id, "messages,message_reads")
        watched.simulator.world.access.subscribe(BICYCLES.id)
        await watched.look()
        needed = {"messages", "message_echoes", "messaging_postbacks", "standby"}
        assert fields_of(watched, BAKERY.id) == needed | {"message_reads"}
        assert fields_of(watched, BICYCLES.id) == needed
        assert [*watched.subscriptions.issues()] == []


async def test_the_fields_of_facts_are_added_to_the_others_later_and_are_not_missed() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        needed = "messages,message_echoes,messaging_postbacks,standby"
        watched.simulator.world.access.subscribe(BAKERY.id, needed)
        await watched.look()
        assert [*watched.subscriptions.issues()] == []
        assert fields_of(watched, BAKERY.id) == {*needed.split(",")}, "nobody has asked for them"

        watched.subscribes = True
        await watched.look(SUBSCRIPTION_SECONDS)
        assert fields_of(watched, BAKERY.id) == {
            *needed.split(","),
            *("message_edits", "message_reactions", "messaging_referrals"),
        }
        watched.simulator.world.access.subscribe(BAKERY.id, needed)
        await watched.look(SUBSCRIPTION_SECONDS)
        assert fields_of(watched, BAKERY.id) == {*needed.split(",")}, "they are requested once"


async def test_a_page_that_may_not_be_asked_says_nothing_and_is_asked_again() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        watched.simulator.world.access.forbid(BAKERY.id, 200)
        await watched.look()
        assert watched.subscriptions.missing() == {OF_BICYCLES: False}
        watched.simulator.world.access.allow(BAKERY.id)
        await watched.look(SUBSCRIPTION_AGAIN_SECONDS)
        assert len(watched.subscriptions.missing()) == 3


async def test_pages_are_looked_at_every_few_hours() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        for _ in range(5):
            await watched.look(FIRST_SECONDS)
        assert looks(watched) == 2
        await watched.look(SUBSCRIPTION_SECONDS)
        assert looks(watched) == 4


async def test_a_page_that_is_removed_is_forgotten() -> None:
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        watched.simulator.world.access.subscribe(BAKERY.id)
        await watched.look()
        watched.registry.retain([page_of(BICYCLES)], ())
        await watched.look()
        assert watched.subscriptions.missing() == {OF_BICYCLES: False}
        assert [*watched.subscriptions.issues()] == []


async def test_nothing_is_mended_with_a_rate_limit_or_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_SLOWDOWN_SECONDS", 0.0)  # for which the next call would really wait
    async with trial_of(page_of(BAKERY), page_of(BICYCLES)) as watched:
        watched.subscribes = True
        watched.simulator.world.access.subscribe(BAKERY.id, "messages")
        watched.simulator.limit(4, 600)
        await watched.look()
        assert fields_of(watched, BAKERY.id) == {"messages"}
        assert watched.subscriptions.missing() == {}
