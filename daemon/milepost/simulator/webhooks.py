"""The webhooks of a simulated world, signed and in the same odd forms as Meta's.

Arriving messages and manual actions are sent as they happen. A request that is not answered with 200 is repeated, after
longer and longer waits.
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
from milepost.simulator.inbox import Happening, Inbox, Moment, Thread
from milepost.simulator.nodes import Message
from milepost.simulator.plan import instant_us
from milepost.simulator.requests import Node
from milepost.simulator.world import World

TICK_SECONDS = 0.2
TIMEOUT_SECONDS = 5.0
MAX_UPDATES = 1000  # in one request, when many are due at once
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
    """One update of an inbox, to be sent at `due_at` at the earliest, by the event loop's clock."""

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
        faults: WebhookFaults,
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
        """Send the updates since the last tick, and those that are due again."""
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
        """Yield an update once for each time that it is sent, with its time. Its name determines the faults."""
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
        """Yield bodies with their updates: one in each or, if many are due at once, as many as a request may hold."""
        at_once = 1 if len(due) <= 10 else MAX_UPDATES
        groups: dict[tuple[str, bool], list[Update]] = {}
        for update in due:
            groups.setdefault((update.inbox.platform, update.is_badly_signed), []).append(update)
        for (platform, _), updates in groups.items():
            for start in range(0, len(updates), at_once):
                group = updates[start : start + at_once]
                yield body_of("instagram" if platform == "instagram" else "page", group, self._since_us), group

    async def _post(self, session: aiohttp.ClientSession, body: bytes, *, is_badly_signed: bool) -> int:
        """Send a body, and return the status of the response; 0 if there was none."""
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


# --- updates ----------------------------------------------------------------------------------------------------------

APP_ID = 263902037430900  # of Meta's own inbox, with which the page's messages are written
EMOJI = {
    "smile": "\U0001f606",
    "angry": "\U0001f620",
    "sad": "\U0001f622",
    "wow": "\U0001f62e",
    "love": "\u2764",
    "like": "\U0001f44d",
    "dislike": "\U0001f44e",
}
# The share of contacts' messages that come from an ad, and the shares of the page's messages that the contact reacts to
# and has read.
AD_SHARE, REACTION_SHARE, READ_SHARE = 0.05, 0.1, 0.3


def updates_of_message(thread: Thread, moment: Moment) -> Iterator[Node]:
    """Yield the update of a message, which for the page's own is an echo, and the contact's reactions to it."""
    message = Message(thread, moment)
    update = _message_update(message)
    yield update
    if not message.is_outgoing:
        return
    at_ms = moment.at_us // 1000
    if seeded.share(moment.id, "reacts") < REACTION_SHARE:
        yield _by_contact(thread, at_ms, "reaction", _reaction(moment.id, seeded.pick(tuple(EMOJI), moment.seed[40])))
    if seeded.share(moment.id, "reads") < READ_SHARE:
        read: Node = {"mid": moment.id} if thread.platform == "instagram" else {"watermark": at_ms}
        yield _by_contact(thread, at_ms, "read", read)


def updates_of_happening(thread: Thread, happening: Happening, at_us: int) -> Iterator[Node]:
    """Yield the update of a manual action; none if the platform does not report such actions."""
    message_id, at_ms = happening.message_id, at_us // 1000
    match happening.kind:
        case "edit":
            edit: Node = {"mid": message_id, "text": happening.text, "num_edit": 1}
            yield _by_contact(thread, at_ms, "message_edit", edit)
        case "unsend":
            if thread.platform == "instagram":  # Messenger has no field for it
                yield _by_contact(thread, at_ms, "message", {"mid": message_id, "is_deleted": True})
        case "react":
            yield _by_contact(thread, at_ms, "reaction", _reaction(message_id, happening.text))
        case "refer":
            opened: Node = {"ref": happening.text, "source": "SHORTLINK", "type": "OPEN_THREAD"}
            yield _by_contact(thread, at_ms, "referral", opened)


def _reaction(message_id: str, reaction: str | None) -> Node:
    if reaction is None:
        return {"mid": message_id, "action": "unreact"}
    return {"mid": message_id, "action": "react", "reaction": reaction, "emoji": EMOJI.get(reaction, "\u2728")}


def _by_contact(thread: Thread, at_ms: int, key: str, said: Node) -> Node:
    page = thread.page.account_id(thread.platform)
    return {"sender": {"id": thread.contact.id}, "recipient": {"id": page}, "timestamp": at_ms, key: said}


def _message_update(message: Message) -> Node:
    thread, moment = message.thread, message.moment
    told: Node = {"mid": moment.id}
    if message.text:
        told["text"] = message.text
    if message.kind in ("image", "video", "file"):
        told["attachments"] = [{"type": message.kind, "payload": {"url": "https://scontent.example.net/v"}}]
    if message.kind == "unsupported":
        told["is_unsupported"] = True
    update = _by_contact(thread, moment.at_us // 1000, "message", told)
    if not message.is_outgoing:
        if seeded.share(moment.id, "ad") < AD_SHARE:
            told["referral"] = _ad(moment)
        return update
    told["is_echo"] = True
    if thread.platform == "messenger":
        told["app_id"] = APP_ID
    return {**update, "sender": update["recipient"], "recipient": update["sender"]}


def _ad(moment: Moment) -> Node:
    ad_id = str(seeded.scattered(int.from_bytes(moment.seed[41:48], "big")))
    picture = f"https://scontent.example.net/v/ad.jpg?oh={moment.seed[48:56].hex()}"
    data: Node = {"ad_title": "Fresh bread, every morning", "photo_url": picture}
    return {"source": "ADS", "type": "OPEN_THREAD", "ad_id": ad_id, "ads_context_data": data}
