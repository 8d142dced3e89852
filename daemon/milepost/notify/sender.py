"""Sends notices: each destination in a thread of its own, in order, retried after a failure, and given up in the end.

Nobody waits for it, and no destination waits for another: Apprise blocks for as long as a service does.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from msgspec import Struct

from milepost.core.ports import Clock
from milepost.notify.destinations import Destination
from milepost.reporting.notices import NoticeText

MAX_WAITING = 100  # for each destination; the oldest are dropped
RETRY_SECONDS = (5.0, 30.0, 120.0, 600.0)  # after the first failure, the second …; then a notice is given up
MAX_SEND_SECONDS = 60.0  # then something is wrong; services have timeouts of 4 to 15 seconds
UNEXPECTED = "Apprise failed"

SENT, RETRIED, FAILED, DROPPED = RESULTS = ("sent", "retried", "failed", "dropped")

log = structlog.get_logger("milepost")


class Failing(Struct, frozen=True):
    """A destination takes nothing since then, and why."""

    name: str
    since: datetime
    reason: str


class NoticeSender:
    """Sends notices to all destinations. `count` is called with a destination's name and a result, one of RESULTS."""

    def __init__(self, clock: Clock, count: Callable[[str, str], None]) -> None:
        self._clock = clock
        self._count = count
        self._outlets: list[_Outlet] = []

    def adopt(self, destinations: Iterable[Destination]) -> None:
        """Send to these destinations from now on; what waits for a former one is dropped."""
        for outlet in self._outlets:
            outlet.drop_all()
        self._outlets = [_Outlet(each, self._clock, self._count) for each in destinations]

    def send(self, text: NoticeText) -> None:
        """Queue a notice for each destination."""
        for outlet in self._outlets:
            outlet.offer(text)

    def pump(self) -> None:
        """Collect results, and begin to send what is due. Call it every second."""
        for outlet in self._outlets:
            outlet.pump()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being sent, or is to be sent at once."""
        return not any(outlet.is_busy for outlet in self._outlets)

    def failing(self) -> Iterator[Failing]:
        """Yield the destinations that do not take notices."""
        for outlet in self._outlets:
            if (failing := outlet.failing()) is not None:
                yield failing


class _Outlet:
    """The notices for one destination."""

    def __init__(self, destination: Destination, clock: Clock, count: Callable[[str, str], None]) -> None:
        self._destination = destination
        self._clock = clock
        self._count = count
        self._waiting: deque[NoticeText] = deque()
        self._sending: asyncio.Future[str | None] | None = None
        self._began_at = 0.0
        self._next_at = 0.0
        self._attempts = 0
        self._failing: Failing | None = None

    def offer(self, text: NoticeText) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._give_up(DROPPED, f"{MAX_WAITING} others wait", 0 if self._sending is None else 1)
        self._waiting.append(text)

    def drop_all(self) -> None:
        while self._waiting:
            self._give_up(DROPPED, "the configuration has changed")

    @property
    def is_busy(self) -> bool:
        return self._sending is not None or (bool(self._waiting) and self._next_at <= self._clock.steady())

    def failing(self) -> Failing | None:
        if self._sending is not None and self._clock.steady() - self._began_at > MAX_SEND_SECONDS:
            seconds = self._clock.steady() - self._began_at
            since = self._clock.now() - timedelta(seconds=seconds)
            return self._failing or Failing(self._destination.name, since, "it does not answer")
        return self._failing

    def pump(self) -> None:
        if self._sending is not None:
            if not self._sending.done():
                return  # a thread that hangs is left alone, and is the only one
            reason, self._sending = self._sending.result(), None
            self._take_in(reason)
        if self._waiting and self._next_at <= self._clock.steady():
            self._began_at = self._clock.steady()
            self._sending = _in_thread(self._destination, self._waiting[0])

    def _take_in(self, reason: str | None) -> None:
        if not self._waiting:  # it was dropped meanwhile
            return
        name, text = self._destination.name, self._waiting[0]
        if reason is None:
            self._waiting.popleft()
            self._attempts, self._next_at, self._failing = 0, 0.0, None
            self._count(name, SENT)
            log.info("notice sent", destination=name, kind=text.kind.value, title=text.title)
            return
        since = self._clock.now() if self._failing is None else self._failing.since
        self._failing = Failing(name, since, reason)
        if self._attempts == len(RETRY_SECONDS):
            self._give_up(FAILED, reason)
            return
        seconds = RETRY_SECONDS[self._attempts]
        self._attempts, self._next_at = self._attempts + 1, self._clock.steady() + seconds
        self._count(name, RETRIED)
        log.warning("notice not sent, retrying", destination=name, reason=reason, wait_seconds=seconds)

    def _give_up(self, result: str, reason: str, index: int = 0) -> None:
        """Drop the notice at this place of the queue: the first may be the one that is being sent."""
        text = self._waiting[index]
        del self._waiting[index]
        if index == 0:
            self._attempts, self._next_at = 0, 0.0
        name = self._destination.name
        self._count(name, result)
        hint = "`milepost notify test` tries each destination"
        log.error("notice given up", destination=name, kind=text.kind.value, title=text.title, reason=reason, hint=hint)


async def try_each(destinations: Sequence[Destination], text: NoticeText) -> list[str | None]:
    """Send a notice to each destination at once; return why each did not take it, or None."""
    sending = [_in_thread(each, text) for each in destinations]
    if sending:
        await asyncio.wait(sending, timeout=MAX_SEND_SECONDS)
    return [each.result() if each.done() else f"no answer within {MAX_SEND_SECONDS:g} s" for each in sending]


def _in_thread(destination: Destination, text: NoticeText) -> "asyncio.Future[str | None]":
    """Send in a thread that keeps no process from ending, as one of a pool would."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str | None] = loop.create_future()

    def settle(reason: str | None) -> None:
        if not future.done():
            future.set_result(reason)

    def work() -> None:
        reason: str | None = UNEXPECTED
        with suppress(Exception):  # of any of a hundred services; its words may hold the URL
            reason = destination.send(text)
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle, reason)

    threading.Thread(target=work, name=f"notice to {destination.name}", daemon=True).start()
    return future
