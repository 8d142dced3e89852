"""Sending notices: in order, again after a failure, each destination by itself, and never for ever."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from structlog.testing import capture_logs

from kit.virtual_time import LeapingClock
from milepost.core.notices import NoticeKind
from milepost.engine.interrupt import Stop
from milepost.reporting.notices import NoticeText
from milepost.service.notices import MAX_SEND_SECONDS, MAX_WAITING, RETRY_SECONDS, NoticeSender, try_each


def text(number: int = 1) -> NoticeText:
    return NoticeText(NoticeKind.STOPPED, f"notice {number}", "body")


class Service:
    """A destination that takes notices, refuses them for a `reason`, raises `error`, or hangs until `go_on` is set."""

    def __init__(self, name: str = "json://one", reason: str | None = None, error: Exception | None = None) -> None:
        self.name = name
        self.reason = reason
        self.error = error
        self.go_on = threading.Event()
        self.go_on.set()
        self.taken: list[str] = []
        self.attempts = 0

    def send(self, text: NoticeText) -> str | None:
        self.go_on.wait(60)
        self.attempts += 1
        if self.error is not None:
            raise self.error
        if self.reason is None:
            self.taken.append(text.title)
        return self.reason


class Sending:
    """A sender and its clock, which moves when a test says so."""

    def __init__(self, *services: Service) -> None:
        self.clock = LeapingClock(Stop())
        self.counts = Counter[tuple[str, str]]()
        self.sender = NoticeSender(self.clock, lambda name, result: self.counts.update([(name, result)]))
        self.adopt(*services)

    def adopt(self, *services: Service) -> None:
        self.sender.adopt({each.name: each for each in services})

    def pass_time(self, seconds: float) -> None:
        self.clock.time += timedelta(seconds=seconds)
        self.sender.pump()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Pump until threads have brought it about, while the clock stands still."""
        async with asyncio.timeout(60):
            while not condition():
                self.sender.pump()
                await asyncio.sleep(0.001)


async def test_notices_arrive_in_order_and_are_counted() -> None:
    service = Service()
    sending = Sending(service)
    for number in range(3):
        sending.sender.send(text(number))
    await sending.until(lambda: sending.counts["json://one", "sent"] == 3)
    assert service.taken == ["notice 0", "notice 1", "notice 2"]
    assert sending.sender.is_idle


async def test_a_notice_that_is_not_taken_is_sent_again_with_growing_waits_and_then_given_up() -> None:
    service = Service(reason="the service answered HTTP 500")
    sending = Sending(service)
    with capture_logs() as logs:
        sending.sender.send(text(1))
        for number, seconds in enumerate(RETRY_SECONDS, start=1):
            await sending.until(partial(lambda so_far: sending.counts["json://one", "retried"] == so_far, number))
            sending.pass_time(seconds - 1)
            assert sending.sender.is_idle, "not before its time"
            sending.pass_time(1)
        await sending.until(lambda: sending.counts["json://one", "failed"] == 1)
    assert sending.counts["json://one", "retried"] == len(RETRY_SECONDS)
    assert [each["event"] for each in logs] == ["notice not sent, retrying"] * len(RETRY_SECONDS) + ["notice given up"]
    (failing,) = sending.sender.failing()
    assert failing.reason == "the service answered HTTP 500"
    service.reason = None
    sending.sender.send(text(2))
    await sending.until(lambda: service.taken == ["notice 2"])
    await sending.until(lambda: not list(sending.sender.failing()))


async def test_a_service_that_hangs_holds_up_no_other_and_is_reported() -> None:
    hanging, other = Service("json://hangs"), Service("json://other")
    hanging.go_on.clear()
    sending = Sending(hanging, other)
    try:
        sending.sender.send(text(1))
        await sending.until(lambda: other.taken == ["notice 1"])
        sending.pass_time(MAX_SEND_SECONDS + 1)
        assert [(each.name, each.reason) for each in sending.sender.failing()] == [
            ("json://hangs", "it does not answer")
        ]
    finally:
        hanging.go_on.set()
    await sending.until(lambda: hanging.taken == ["notice 1"])


async def test_what_a_service_raises_is_not_logged_as_it_may_hold_the_url() -> None:
    service = Service(error=ValueError("json://user:secret@host"))
    sending = Sending(service)
    with capture_logs() as logs:
        sending.sender.send(text())
        await sending.until(lambda: sending.counts["json://one", "retried"] == 1)
    assert "secret" not in repr(logs)


async def test_the_oldest_of_too_many_are_dropped_and_counted() -> None:
    service = Service()
    service.go_on.clear()
    sending = Sending(service)
    for number in range(MAX_WAITING + 5):
        sending.sender.send(text(number))
    assert sending.counts["json://one", "dropped"] == 5
    service.go_on.set()
    await sending.until(lambda: len(service.taken) == MAX_WAITING)
    assert service.taken[0] == "notice 5"


async def test_a_notice_that_is_being_sent_is_not_dropped_for_others() -> None:
    service = Service()
    service.go_on.clear()
    sending = Sending(service)
    with capture_logs() as logs:
        sending.sender.send(text(0))
        sending.sender.pump()
        for number in range(1, MAX_WAITING + 1):
            sending.sender.send(text(number))
        service.go_on.set()
        await sending.until(lambda: sending.sender.is_idle)
    assert [each["title"] for each in logs if each["event"] == "notice given up"] == ["notice 1"]
    assert [each["title"] for each in logs if each["event"] == "notice sent"] == service.taken


async def test_what_waits_for_a_destination_that_is_removed_is_dropped_and_counted() -> None:
    service, new = Service(reason="no"), Service("json://new")
    sending = Sending(service)
    sending.sender.send(text(1))
    await sending.until(lambda: sending.counts["json://one", "retried"] == 1)
    sending.adopt(new)
    assert sending.counts["json://one", "dropped"] == 1
    sending.sender.send(text(2))
    await sending.until(lambda: new.taken == ["notice 2"])


async def test_what_waits_for_a_destination_that_stays_is_kept() -> None:
    service, new = Service(reason="no"), Service("json://new")
    sending = Sending(service)
    sending.sender.send(text(1))
    await sending.until(lambda: sending.counts["json://one", "retried"] == 1)
    service.reason = None
    sending.adopt(new, service)
    sending.pass_time(RETRY_SECONDS[0])
    await sending.until(lambda: service.taken == ["notice 1"])
    assert new.taken == []


async def test_a_trial_tells_of_each_destination() -> None:
    services = [Service(), Service(reason="no"), Service(error=ValueError("?"))]
    assert await try_each(services, text()) == [None, "no", "Apprise failed"]
    assert await try_each([], text()) == []
