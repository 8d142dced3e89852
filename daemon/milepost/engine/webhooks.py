"""Processes webhook events: prompts runs of the streams that they are about, and applies facts to stored messages.

It also counts the messages that a sweep stored although no webhook had announced them.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog
from msgspec import Struct

from milepost.core.errors import MilepostError
from milepost.core.model import Stream
from milepost.core.ports import Clock
from milepost.core.webhooks import WebhookInbox, WebhookKind
from milepost.engine.clock import Deadline
from milepost.engine.feed import Notice, Recorded
from milepost.engine.interrupt import Interrupt, Stop

LOOK_SECONDS = 5.0  # between looks for events that are due again, and for those that another worker stored
MIN_SECONDS = 0.25  # between looks, however many events arrive
TRIM_SECONDS = 60.0
IDLE_LOOK_SECONDS = 3600.0  # if no webhooks are received
KEPT_SECONDS = 2 * 86_400.0  # the platform repeats unacknowledged events for 36 hours (Meta, "Webhooks")
MAX_EVENTS = 100_000
GRACE_SECONDS = 60.0  # for a webhook to come after its message was stored
JUDGE_SECONDS = 10.0
MAX_WAITING = 50_000  # messages still to be judged; a page's first copy may bring more
MAX_AT_ONCE = 1_000

log = structlog.get_logger("milepost")


class WebhookWorker:
    """Processes the events of an inbox: `prompt` makes a stream run soon, and `apply` applies its facts.

    `expire` is called with the events that were never processed, because no list has shown their messages for days.
    """

    def __init__(
        self,
        inbox: WebhookInbox,
        prompt: Callable[[Stream], None],
        apply: Callable[[Stream], Awaitable[None]],
        clock: Clock,
        expire: Callable[[Counter[WebhookKind]], None],
    ) -> None:
        self._inbox = inbox
        self._prompt = prompt
        self._apply = apply
        self._clock = clock
        self._arrived = Interrupt()
        self._trim_at = clock.steady()
        self._is_away = False
        self._expire = expire
        self._applying: set[Stream] = set()

    def notify(self) -> None:
        """Note that events have arrived."""
        self._arrived.set()

    async def run(self, stop: Stop) -> None:
        """Process events as they arrive, until a stop is requested."""
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_requested:
                self._arrived.clear()
                await self._unless_away(self._look(tasks))
                async with stop.interruptible():
                    await asyncio.sleep(MIN_SECONDS)
                await stop.sleep(self._clock, LOOK_SECONDS, self._arrived)

    async def work_off(self, stop: Stop) -> None:
        """Process what is left of earlier webhooks, now and every hour, until a stop is requested: none arrive here."""
        async with asyncio.TaskGroup() as tasks:
            while not stop.is_requested:
                await self._unless_away(self._look(tasks))
                await stop.sleep(self._clock, IDLE_LOOK_SECONDS)

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        now = self._clock.now()
        for stream in await self._inbox.claim(now):
            self._prompt(stream)
        for stream in await self._inbox.streams_with_facts():
            if stream not in self._applying:  # a running stream executes commands between two batches
                self._applying.add(stream)
                tasks.create_task(self._apply_facts(stream), name=f"facts of {stream.key}")
        if self._clock.steady() >= self._trim_at:
            await self._trim(now)

    async def _trim(self, now: datetime) -> None:
        self._expire(await self._inbox.trim(now - timedelta(seconds=KEPT_SECONDS), MAX_EVENTS))
        self._trim_at = self._clock.steady() + TRIM_SECONDS

    async def _unless_away(self, work: Awaitable[None]) -> None:
        """Await work. If the database is unavailable, the next look tries again."""
        try:
            await work
        except MilepostError as error:
            if not self._is_away:
                log.warning("database unavailable, retrying", part="webhooks", reason=error.message)
            self._is_away = True
        else:
            self._is_away = False

    async def _apply_facts(self, stream: Stream) -> None:
        """Apply the facts of a stream. If that is impossible now, the next look tries again."""
        try:
            await self._apply(stream)
        except MilepostError as error:
            log.warning("facts not applied, retrying", stream=stream.key, reason=error.message, hint=error.hint)
        finally:
            self._applying.discard(stream)


class _Stored(Struct, frozen=True):
    """A message that was stored, and when, by the steady clock."""

    stream: Stream
    message_id: str
    stored_at: float


class WebhookJudge:
    """Counts new messages that no webhook announced. `count` is called with a stream and the number of its misses."""

    def __init__(self, inbox: WebhookInbox, clock: Clock, count: Callable[[Stream, int], None]) -> None:
        self._inbox = inbox
        self._clock = clock
        self._count = count
        self._since: Deadline | None = None
        self._stored: deque[_Stored] = deque(maxlen=MAX_WAITING)

    def begin(self) -> None:
        """Judge messages that are written at least a minute from now: Meta has to notice that the listener is open."""
        self._since = Deadline(self._clock, self._clock.now() + timedelta(seconds=GRACE_SECONDS))

    def read(self, notice: Notice) -> None:
        """Note the messages of a commit."""
        if not isinstance(notice, Recorded) or self._since is None:
            return
        stream, now, since = notice.checkpoint.stream, self._clock.steady(), self._since.at
        written = (message_id for message_id, written_at in notice.recent if written_at >= since)
        self._stored.extend(_Stored(stream, message_id, now) for message_id in written)

    async def run(self, stop: Stop) -> None:
        """Judge until a stop is requested."""
        while not stop.is_requested:
            await stop.sleep(self._clock, JUDGE_SECONDS)
            try:
                await self.judge()
            except MilepostError as error:  # others report it; the next look tries again
                log.debug("missed webhooks not counted", reason=error.message)

    async def judge(self) -> None:
        """Count the messages that no webhook has announced in time."""
        until = self._clock.steady() - GRACE_SECONDS
        while due := self._take(until):
            try:
                announced = await self._inbox.announced(tuple(each.message_id for each in due))
            except MilepostError:
                self._stored.extendleft(reversed(due))
                raise
            for stream, count in Counter(each.stream for each in due if each.message_id not in announced).items():
                self._count(stream, count)

    def _take(self, until: float) -> list[_Stored]:
        """Return the first messages that were stored by then, up to a limit."""
        due: list[_Stored] = []
        while self._stored and self._stored[0].stored_at <= until and len(due) < MAX_AT_ONCE:
            due.append(self._stored.popleft())
        return due
