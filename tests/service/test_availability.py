"""Whether the database is available: what ends an outage, and who finds out."""

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from kit.builders import NOON, STREAM, at, run_started
from kit.notices import recorded, store_retried
from kit.virtual_time import LeapingClock
from milepost.core.errors import StoreAway
from milepost.core.model import Stream
from milepost.engine.interrupt import Stop
from milepost.reporting.status import StoreOutage
from milepost.service import availability
from milepost.service.availability import GIVEN_UP_SECONDS, MEASURE_SECONDS, StoreSize, StoreWatch


class Watched:
    """A watch over a database that answers, or not."""

    def __init__(self, *, has_stream: bool = True) -> None:
        self.clock = LeapingClock(Stop())
        self.error: StoreAway | None = None
        self.woken: list[Stream] = []
        self._has_stream = has_stream
        self.watch = StoreWatch(self._answers, self._wake, self.clock)

    async def _answers(self) -> None:
        if self.error is not None:
            raise self.error

    def _wake(self, stream: Stream) -> bool:
        self.woken.append(stream)
        return self._has_stream

    async def ask(self, error: StoreAway | None = None) -> StoreOutage | None:
        self.error = error
        await self.watch.ask()
        return self.watch.outage


GONE = StoreAway("the server has gone", hint="it is retried")


async def test_a_database_that_does_not_answer_is_away_until_it_does() -> None:
    watched = Watched()
    assert await watched.ask() is None
    with capture_logs() as logged:
        assert await watched.ask(GONE) == StoreOutage(NOON, "the server has gone (it is retried)")
        watched.clock.time = at(60)
        outage = await watched.ask(GONE)
        assert outage is not None
        assert outage.since == NOON
        assert await watched.ask() is None
    assert [line["event"] for line in logged] == ["database unavailable, retrying", "database available again"]


async def test_a_commit_ends_an_outage_that_a_ping_has_met_and_the_log_says_so() -> None:
    watched = Watched()
    with capture_logs() as logged:
        await watched.ask(GONE)
        watched.watch.read(recorded(run_started()))
    assert watched.watch.outage is None
    assert [line["event"] for line in logged] == ["database unavailable, retrying", "database available again"]


async def test_a_commit_that_fails_is_an_outage_that_only_a_commit_ends() -> None:
    watched = Watched()
    watched.watch.read(store_retried())
    watched.clock.time = at(4)
    outage = await watched.ask()
    assert outage == StoreOutage(at(-12.34), "the disk is full")
    watched.watch.read(recorded(run_started()))
    assert await watched.ask() is None


async def test_the_first_failure_dates_an_outage_and_the_latest_explains_it() -> None:
    watched = Watched()
    await watched.ask(GONE)
    watched.clock.time = at(60)
    watched.watch.read(store_retried(reason="the disk is full"))
    assert watched.watch.outage == StoreOutage(NOON, "the disk is full")


async def test_a_run_that_gave_up_is_repeated_once_the_database_answers() -> None:
    watched = Watched()
    watched.watch.read(store_retried())  # and tries again after four seconds
    watched.clock.time = at(GIVEN_UP_SECONDS)
    await watched.ask()
    assert watched.woken == []
    watched.clock.time = at(GIVEN_UP_SECONDS + 5)
    await watched.ask(GONE)
    assert watched.woken == []
    await watched.ask()
    await watched.ask()
    assert watched.woken == [STREAM], "it has time to commit"
    assert watched.watch.outage is not None


async def test_an_outage_that_nobody_can_find_the_end_of_is_over_when_the_database_answers() -> None:
    watched = Watched(has_stream=False)
    watched.watch.read(store_retried())
    watched.clock.time = at(60)
    assert await watched.ask() is None


async def test_a_frozen_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(availability, "MAX_ANSWER_SECONDS", 0.01)
    watch = StoreWatch(never, lambda _: True, LeapingClock(Stop()))
    await watch.ask()
    assert watch.outage is not None
    assert watch.outage.reason == "it did not answer within 0.01 s"


async def test_it_is_measured_every_minute_and_unknown_while_the_database_is_away() -> None:
    clock = LeapingClock(stop := Stop())
    answers: list[int | StoreAway] = [1, 2, StoreAway("gone"), 3]
    seen: list[int | None] = []

    async def measure() -> int:
        seen.append(size.bytes)
        answer = answers.pop(0)
        if isinstance(answer, StoreAway):
            raise answer
        return answer

    size = StoreSize(measure)
    clock.ends_at = clock.time + timedelta(seconds=3.5 * MEASURE_SECONDS)
    await size.run(clock, stop)
    assert [*seen, size.bytes] == [None, 1, 2, None, 3]
