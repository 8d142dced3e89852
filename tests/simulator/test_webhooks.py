"""The simulator's webhooks: what happens in a world is sent, as Meta writes it, with the faults of a plan."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Literal

import aiohttp
import pytest
from aiohttp import web

from kit.simulated import BAKERY, NOW, Clock, frozen_world
from milepost.core.errors import BadConfiguration
from milepost.core.model import Platform, Stream
from milepost.core.webhooks import WebhookEvent, WebhookKind
from milepost.facebook.webhooks import SIGNATURE_HEADER, UpdateResult, signing_secret, updates_in
from milepost.simulator.plan import WorldPlan
from milepost.simulator.server import SimulatorServer
from milepost.simulator.webhooks import NO_FAULTS, WebhookFaults, WebhookSender, parse_webhook_faults
from milepost.simulator.world import World

SECRET = "app-secret"
STREAMS = {
    ("page", BAKERY.id): Stream(Platform.MESSENGER, BAKERY.id),
    ("instagram", BAKERY.account_id("instagram")): Stream(Platform.INSTAGRAM, BAKERY.id),
}


class Receiver:
    """Takes webhooks as Milepost does, or answers with another `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.bodies: list[bytes] = []
        self.messages: Counter[str] = Counter()
        self.facts: list[WebhookEvent] = []
        self.badly_signed = 0
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.status == 200 and signing_secret(body, request.headers[SIGNATURE_HEADER], [SECRET]) is None:
            self.badly_signed += 1
            return web.Response(status=403)
        if self.status == 200:
            self.bodies.append(body)
            for update in updates_in(body, lambda kind, account_id: STREAMS.get((kind, account_id)), NOW):
                assert update.result in {None, UpdateResult.IGNORED}
                self.messages.update(event.message_id for event in update.events if event.kind is WebhookKind.MESSAGE)
                self.facts += [event for event in update.events if event.kind.is_fact]
        return web.Response(status=self.status)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


class Sending:
    """A world of an hour's messages, which are sent when a test says so."""

    def __init__(self, receiver: Receiver, session: aiohttp.ClientSession, faults: WebhookFaults) -> None:
        self.clock = Clock()
        self.world = World(WorldPlan(pages=(BAKERY,), conversations=50, arrivals_per_minute=6))
        self.sender = WebhookSender(self.world, receiver.url, SECRET, clock=self.clock, faults=faults)
        self._session = session

    async def pass_minutes(self, minutes: float = 10) -> set[str]:
        """Let time pass, and return the messages that have arrived meanwhile."""
        before = self._messages()
        self.clock.now += timedelta(minutes=minutes)
        await self.sender.tick(self._session)
        return self._messages() - before

    async def tick(self) -> None:
        await self.sender.tick(self._session)

    def _messages(self) -> set[str]:
        return {
            message_id
            for inbox in self.world.inboxes
            for thread in self.world.truth(inbox.page.id, inbox.platform, self.clock())
            for message_id in thread.message_ids
        }


@asynccontextmanager
async def sending(receiver: Receiver, faults: WebhookFaults = NO_FAULTS) -> AsyncIterator[Sending]:
    async with aiohttp.ClientSession() as session:
        yield Sending(receiver, session, faults)


def assert_sent_once(receiver: Receiver, arrived: set[str]) -> None:
    """Ten minutes have 60 messages in each of the two inboxes, a few of which are not listed any more at their end."""
    assert arrived <= receiver.messages.keys()
    assert receiver.messages.total() == len(receiver.messages) == pytest.approx(120, abs=2)


async def test_each_message_of_both_platforms_is_sent_once(receiver: Receiver) -> None:
    async with sending(receiver) as world:
        arrived = await world.pass_minutes()
        await world.tick()
    assert_sent_once(receiver, arrived)


async def test_a_message_that_a_test_makes_arrive_is_sent_too(receiver: Receiver) -> None:
    async with sending(receiver) as world:
        conversation_id = world.world.receive(BAKERY.id, "messenger", NOW)
        await world.tick()
        thread = world.world.find(conversation_id, NOW)
    assert thread is not None
    assert receiver.messages == Counter(moment.id for moment in thread.newest)


@pytest.mark.parametrize("platform", ["messenger", "instagram"])
async def test_what_is_done_by_hand_is_sent_as_the_platform_says_it(
    receiver: Receiver, platform: Literal["messenger", "instagram"]
) -> None:
    async with sending(receiver) as world:
        conversation_id = world.world.receive(BAKERY.id, platform, NOW, count=2)
        await world.tick()
        first, second = receiver.messages
        receiver.facts.clear()
        world.world.edit(conversation_id, first, "hallo")
        world.world.react(conversation_id, first)
        world.world.react(conversation_id, first, None)
        world.world.refer(conversation_id, "spring")
        world.world.unsend(conversation_id, second)
        await world.tick()
        await world.tick()
    kinds = [(event.kind.value, event.message_id, event.detail) for event in receiver.facts]
    assert kinds[:4] == [
        ("edit", first, '{"text":"hallo"}'),
        ("reaction", first, '{"reaction":"love","emoji":"\u2764"}'),
        ("reaction", first, None),
        ("referral", "", '{"ref":"spring","source":"SHORTLINK","type":"OPEN_THREAD"}'),
    ]
    assert kinds[4:] == ([("unsend", second, None)] if platform == "instagram" else [])


async def test_some_messages_come_from_an_ad_and_to_some_the_contact_reacts(receiver: Receiver) -> None:
    async with sending(receiver) as world:
        await world.pass_minutes(120)
    kinds = Counter(event.kind for event in receiver.facts)
    assert kinds.keys() == {WebhookKind.REACTION, WebhookKind.REFERRAL}
    assert min(kinds.values()) >= 20
    assert not any("oh=" in (event.detail or "") for event in receiver.facts), "no signature is kept"


async def test_bodies_are_written_as_meta_does(receiver: Receiver) -> None:
    async with sending(receiver) as world:
        await world.pass_minutes()
    everything = b"".join(receiver.bodies)
    assert everything.isascii()
    assert rb"\/" in everything
    assert b"://" not in everything
    for part in (b'"is_echo":true', b'"standby":', b'"attachments":', b'"object":"instagram"'):
        assert part in everything


async def test_an_outage_is_followed_by_everything_at_once(receiver: Receiver) -> None:
    async with sending(receiver) as world:
        world.sender.is_held = True
        arrived = [await world.pass_minutes(1) for _ in range(10)]
        assert receiver.bodies == []
        world.sender.is_held = False
        await world.tick()
    assert_sent_once(receiver, {each for some in arrived for each in some})
    assert len(receiver.bodies) == 2, "one for each platform"


async def test_what_is_not_acknowledged_is_repeated(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milepost.simulator.webhooks.RETRY_SECONDS", (0.0, 0.0))
    receiver.status = 503
    async with sending(receiver) as world:
        arrived = await world.pass_minutes()
        assert receiver.messages == Counter()
        receiver.status = 200
        await world.tick()
    assert_sent_once(receiver, arrived)


async def test_faults_strike_their_share(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = WebhookFaults(missing=0.2, doubled=0.3, badly_signed=0.2, late=0.5, late_seconds=0.0)
    async with sending(receiver, faults) as world:
        arrived = await world.pass_minutes(60)
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1e9)
        await world.tick()
    missing = arrived - receiver.messages.keys()
    assert 0.1 < len(missing) / len(arrived) < 0.3
    doubled = [message_id for message_id, count in receiver.messages.items() if count == 2]
    assert 0.15 < len(doubled) / len(arrived) < 0.35
    assert receiver.badly_signed > 0


async def test_a_server_sends_until_it_ends(receiver: Receiver) -> None:
    clock = Clock()
    async with frozen_world(10, pages=(BAKERY,), clock=clock) as server:
        server.send_webhooks(receiver.url, SECRET)
        server.hold_webhooks()
        server.world.receive(BAKERY.id, "instagram", NOW)
        server.release_webhooks()
        async with asyncio.timeout(60):
            while not receiver.messages:  # noqa: ASYNC110  (another task brings it about)
                await asyncio.sleep(0.01)


async def test_nothing_is_held_where_nothing_is_sent() -> None:
    server: SimulatorServer = frozen_world(10)
    with pytest.raises(ValueError, match="no webhooks are sent"):
        server.hold_webhooks()


def test_faults_are_parsed() -> None:
    assert parse_webhook_faults("") == NO_FAULTS
    assert parse_webhook_faults("missing=0.1, late=1,late_seconds=30", 7) == WebhookFaults(
        seed=7, missing=0.1, late=1, late_seconds=30
    )


@pytest.mark.parametrize("text", ["missing", "missing=2", "missing=-1", "lost=0.1", "late=x", "seed=1"])
def test_other_faults_are_refused(text: str) -> None:
    with pytest.raises(BadConfiguration, match="cannot read the webhook fault"):
        parse_webhook_faults(text)
