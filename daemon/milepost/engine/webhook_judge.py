"""Finds messages that a sweep stored although a webhook should have announced them."""

from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from msgspec import Struct

from milepost.core.errors import MilepostError
from milepost.core.model import Stream
from milepost.core.ports import Clock
from milepost.core.webhooks import WebhookInbox
from milepost.engine.feed import Notice, Recorded
from milepost.engine.interrupt import Stop

GRACE_SECONDS = 60.0  # in which a webhook may still come after its message was stored
LOOK_SECONDS = 10.0
MAX_WAITING = 50_000  # the oldest are not judged, where a page's first copy brings more
MAX_AT_ONCE = 1_000

log = structlog.get_logger("milepost")


class _Stored(Struct, frozen=True):
    """A message that was stored, and when, by the steady clock."""

    stream: Stream
    message_id: str
    stored_at: float


class WebhookJudge:
    """Judges the messages that were written since it began. `count` is called with a stream and how many it missed."""

    def __init__(self, inbox: WebhookInbox, clock: Clock, count: Callable[[Stream, int], None]) -> None:
        self._inbox = inbox
        self._clock = clock
        self._count = count
        self._since: datetime | None = None
        self._stored: deque[_Stored] = deque(maxlen=MAX_WAITING)

    def begin(self) -> None:
        """Judge what is written from a minute from now on: the listener is open, and Meta has to notice."""
        self._since = self._clock.now() + timedelta(seconds=GRACE_SECONDS)

    def read(self, notice: Notice) -> None:
        """Note the messages of a commit."""
        if not isinstance(notice, Recorded) or self._since is None:
            return
        stream, now = notice.checkpoint.stream, self._clock.steady()
        written = (message_id for message_id, written_at in notice.recent if written_at >= self._since)
        self._stored.extend(_Stored(stream, message_id, now) for message_id in written)

    async def run(self, stop: Stop) -> None:
        """Judge until a stop is requested."""
        while not stop.is_requested:
            async with stop.interruptible():
                await self._clock.sleep_until(self._clock.now() + timedelta(seconds=LOOK_SECONDS))
            try:
                await self.judge()
            except MilepostError as error:  # said by others; the next look judges
                log.debug("webhooks not judged", reason=error.message)

    async def judge(self) -> None:
        """Count the messages that no webhook has announced in time."""
        until = self._clock.steady() - GRACE_SECONDS
        while due := self._take(until):
            try:
                told = await self._inbox.told(tuple(each.message_id for each in due))
            except MilepostError:
                self._stored.extendleft(reversed(due))
                raise
            for stream, count in Counter(each.stream for each in due if each.message_id not in told).items():
                self._count(stream, count)

    def _take(self, until: float) -> list[_Stored]:
        """Return messages that were stored by then, the first of them."""
        due: list[_Stored] = []
        while self._stored and self._stored[0].stored_at <= until and len(due) < MAX_AT_ONCE:
            due.append(self._stored.popleft())
        return due
