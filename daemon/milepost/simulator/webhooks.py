"""The webhooks of a simulated world: what happens in it is sent, signed, and in a form that is as odd as Meta's.

What arrives, and what is done by hand, is sent as it happens. What is not answered with 200 is repeated, with growing
waits.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

import aiohttp
import msgspec

from milepost.core.errors import BadConfiguration
from milepost.simulator import seeded
from milepost.simulator.arrivals import instant_us
from milepost.simulator.inbox import Inbox, Thread
from milepost.simulator.messages import Node
from milepost.simulator.webhook_updates import updates_of_happening, updates_of_message
from milepost.simulator.world import World

TICK_SECONDS = 0.2
TIMEOUT_SECONDS = 5.0
MAX_UPDATES = 1000  # of one request, once many have to be sent at once
MAX_WAITING = 100_000
RETRY_SECONDS = (0.5, 2.0, 10.0, 60.0)


class WebhookFaults(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong with webhooks: shares of them, each drawn by itself; the late ones by `late_seconds`."""

    seed: int = 1
    missing: float = 0.0
    doubled: float = 0.0
    badly_signed: float = 0.0
    late: float = 0.0
    late_seconds: float = 5.0
    standby: float = 0.1
    """Not a fault: the share of threads that another app owns, whose webhooks come under another key."""


NO_FAULTS = WebhookFaults()


def parse_webhook_faults(text: str, seed: int = 1) -> WebhookFaults:
    """Parse faults such as `missing=0.1,late=0.2`. Raises BadConfiguration."""
    found: dict[str, float] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.strip().partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = -1.0
        known = set(WebhookFaults.__struct_fields__) - {"seed"}
        if name not in known or found[name] < 0 or (found[name] > 1 and name != "late_seconds"):
            raise BadConfiguration(
                f"cannot read the webhook fault {item!r}",
                hint=f"write a share from 0 to 1 for one of {', '.join(sorted(known))}, such as missing=0.1",
            )
    return WebhookFaults(seed=seed, **found)


class Update(msgspec.Struct, frozen=True):
    """One update of an inbox, not before `due_at` (of the event loop's clock)."""

    inbox: Inbox
    item: Node
    key: str
    due_at: float
    attempts: int = 0
    is_badly_signed: bool = False


class WebhookSender:
    """Sends a world's webhooks to a URL, from now on. While it `is_held`, they are collected."""

    def __init__(
        self,
        world: World,
        url: str,
        secret: str,
        *,
        clock: Callable[[], datetime],
        faults: WebhookFaults = NO_FAULTS,
    ) -> None:
        self.is_held = False
        self.sent = 0
        self.answers: dict[int, int] = {}
        self._world = world
        self._url = url
        self._secret = secret
        self._clock = clock
        self._faults = faults
        self._since_us = instant_us(clock())
        self._waiting: list[Update] = []
        for inbox in world.inboxes:
            inbox.take_received()
            inbox.take_happened()

    async def run(self) -> None:
        """Send until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT_SECONDS)) as session:
            while True:
                await self.tick(session)
                await asyncio.sleep(TICK_SECONDS)

    async def tick(self, session: aiohttp.ClientSession) -> None:
        """Send what has happened since the last tick, and what is due again."""
        now = asyncio.get_running_loop().time()
        self._waiting += self._happened(now)
        del self._waiting[:-MAX_WAITING]
        if self.is_held:
            return
        due = [update for update in self._waiting if update.due_at <= now]
        self._waiting = [update for update in self._waiting if update.due_at > now]
        for body, updates in self._requests(due):
            status = await self._post(session, body, is_badly_signed=updates[0].is_badly_signed)
            self.answers[status] = self.answers.get(status, 0) + 1
            if status != 200:
                self._waiting += self._again(updates, now)

    def _happened(self, now: float) -> Iterator[Update]:
        since_us, self._since_us = self._since_us, instant_us(self._clock())
        for inbox in self._world.inboxes:
            for conversation_id, moment in [*inbox.arrived(since_us, self._since_us), *inbox.take_received()]:
                thread = inbox.find(conversation_id, self._since_us)
                if thread is not None:
                    for part, item in enumerate(updates_of_message(thread, moment)):
                        name = f"{moment.id} {part}" if part else moment.id
                        yield from self._updates_of(inbox, thread, item, name, now)
            for happening in inbox.take_happened():
                thread = inbox.find(happening.conversation_id, self._since_us)
                if thread is not None:
                    for item in updates_of_happening(thread, happening, self._since_us):
                        yield from self._updates_of(inbox, thread, item, f"{thread.id} {happening.number}", now)

    def _updates_of(self, inbox: Inbox, thread: Thread, item: Node, name: str, now: float) -> Iterator[Update]:
        """Yield an update as often as it is sent, and when. Its name determines the faults."""
        faults = self._faults

        def strikes(fault: str, share: float) -> bool:
            return seeded.share(faults.seed, name, fault) < share

        if strikes("missing", faults.missing):
            return
        key = "standby" if seeded.share(faults.seed, thread.id, "standby") < faults.standby else "messaging"
        due_at = now + (faults.late_seconds if strikes("late", faults.late) else 0.0)
        update = Update(inbox, item, key, due_at)
        yield update
        if strikes("doubled", faults.doubled):
            yield msgspec.structs.replace(update, due_at=due_at + 1)
        if strikes("badly_signed", faults.badly_signed):
            yield msgspec.structs.replace(update, is_badly_signed=True, attempts=len(RETRY_SECONDS))

    def _again(self, updates: Iterable[Update], now: float) -> Iterator[Update]:
        for update in updates:
            if update.attempts < len(RETRY_SECONDS):
                wait_seconds = RETRY_SECONDS[update.attempts]
                yield msgspec.structs.replace(update, due_at=now + wait_seconds, attempts=update.attempts + 1)

    def _requests(self, due: list[Update]) -> Iterator[tuple[bytes, list[Update]]]:
        """Yield bodies with their updates: one each or, if many are due at once, as many as a request may hold."""
        at_once = 1 if len(due) <= 10 else MAX_UPDATES
        groups: dict[tuple[str, bool], list[Update]] = {}
        for update in due:
            groups.setdefault((update.inbox.platform, update.is_badly_signed), []).append(update)
        for (platform, _), updates in groups.items():
            for start in range(0, len(updates), at_once):
                group = updates[start : start + at_once]
                yield body_of("instagram" if platform == "instagram" else "page", group, self._since_us), group

    async def _post(self, session: aiohttp.ClientSession, body: bytes, *, is_badly_signed: bool) -> int:
        """Send a body, and return the status of the answer; 0 for none."""
        secret = "not the secret" if is_badly_signed else self._secret
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={digest}"}
        self.sent += 1
        try:
            async with session.post(self._url, data=body, headers=headers) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0


def body_of(kind: str, updates: Iterable[Update], at_us: int) -> bytes:
    r"""Return the body of a request, written as Meta does: ASCII, with `\/` for a slash."""
    entries = [
        {
            "id": update.inbox.page.account_id(update.inbox.platform),
            "time": at_us // 1000,
            update.key: [update.item],
        }
        for update in updates
    ]
    text = json.dumps({"object": kind, "entry": entries}, separators=(",", ":"))
    return text.replace("/", "\\/").encode("ascii")
