"""Watches the database, whether it is available and how large it is, and answers the probes of orchestrators.

It is pinged every few seconds, and runs report their commits. Its size is measured from time to time, so that no scrape
has to wait for that.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta

import structlog
from aiohttp import web
from msgspec import Struct

from milepost.core.errors import MilepostError
from milepost.core.model import Stream
from milepost.core.ports import Clock
from milepost.engine.feed import Notice, Recorded, StoreRetried
from milepost.engine.interrupt import Stop
from milepost.reporting.health import Issue, IssueKind
from milepost.reporting.status import StoreOutage

ASK_SECONDS = 5.0
MAX_ANSWER_SECONDS = 10.0  # a database that is only busy takes less
GIVEN_UP_SECONDS = 30.0  # a run that has not retried for so long has ended without a commit
ADVICE = "Milepost retries, and continues from the last committed batch when the database is back"

log = structlog.get_logger("milepost")


class _LastRetry(Struct, frozen=True):
    """The stream whose commit failed last, and the time by which its run must have retried, by the steady clock."""

    stream: Stream
    by: float


class StoreWatch:
    """Whether the database is available, from its answers to pings and from the commits of the runs.

    On a full disk, the small write of a ping may still fit where a batch does not. So an outage that a run has met ends
    only with a commit.

    Args:
        ping: finds out whether the database answers and takes writes; raises MilepostError if not.
        wake: runs a stream at once, and returns whether the stream exists. A run that gave up is repeated this way, or
            the end of the outage would go unnoticed until the stream's next run.
        clock: dates the outages.
    """

    def __init__(self, ping: Callable[[], Awaitable[None]], wake: Callable[[Stream], bool], clock: Clock) -> None:
        self._ping = SharedPing(ping)
        self._wake = wake
        self._clock = clock
        self._unanswered: StoreOutage | None = None
        self._unwritten: StoreOutage | None = None
        self._last_retry: _LastRetry | None = None

    def read(self, notice: Notice) -> None:
        """Take in a notice of a commit, failed or successful, of any worker."""
        match notice:
            case StoreRetried(stream=stream, away_seconds=away_seconds, wait_seconds=wait_seconds, reason=reason):
                began = self._clock.now() - timedelta(seconds=away_seconds)
                since = began if self._unwritten is None else self._unwritten.since
                self._unwritten = StoreOutage(since, reason)
                self._last_retry = _LastRetry(stream, self._clock.steady() + wait_seconds + GIVEN_UP_SECONDS)
            case Recorded():
                if self._unwritten is None and self._unanswered is not None:  # or else the journal says so
                    log.info("database available again", part="health")
                self._unanswered = self._unwritten = self._last_retry = None
            case _:
                return

    async def run(self, stop: Stop) -> None:
        """Ask the database every few seconds, until a stop is requested."""
        while not stop.is_requested:
            await self.ask()
            await stop.sleep(self._clock, ASK_SECONDS)

    async def ask(self) -> None:
        """Ask the database once."""
        try:
            await self._ping.demand(MAX_ANSWER_SECONDS)
        except TimeoutError:
            self._lose(f"it did not answer within {MAX_ANSWER_SECONDS:g} s")
        except MilepostError as error:
            self._lose(str(error))
        else:
            self._found()

    @property
    def outage(self) -> StoreOutage | None:
        """The outage, if the database is unavailable; what a run met says more than what a ping met."""
        unwritten, unanswered = self._unwritten, self._unanswered
        if unwritten is None or unanswered is None:
            return unwritten or unanswered
        return StoreOutage(min(unwritten.since, unanswered.since), unwritten.reason)

    def issues(self) -> Iterator[Issue]:
        """Yield that the database is unavailable, if it is."""
        if (outage := self.outage) is not None:
            yield Issue(IssueKind.STORE_AWAY, "the database is unavailable", outage.since, outage.reason, ADVICE)

    def _lose(self, reason: str) -> None:
        if self.outage is None:  # otherwise it is in the log already
            log.warning("database unavailable, retrying", part="health", reason=reason)
        since: datetime = self._clock.now() if self._unanswered is None else self._unanswered.since
        self._unanswered = StoreOutage(since, reason)

    def _found(self) -> None:
        if self._unanswered is not None:
            self._unanswered = None
            if self.outage is None:
                log.info("database available again", part="health")
        retry = self._last_retry
        if retry is None or self._clock.steady() < retry.by:
            return
        self._last_retry = _LastRetry(retry.stream, self._clock.steady() + GIVEN_UP_SECONDS)
        if not self._wake(retry.stream):  # the stream is gone, and can no longer notice the end
            self._unwritten = self._last_retry = None


MEASURE_SECONDS = 60.0


class StoreSize:
    """The size of the database, as last measured. `bytes` is None while it is unknown."""

    def __init__(self, measure: Callable[[], Awaitable[int]]) -> None:
        self._measure = measure
        self.bytes: int | None = None

    async def run(self, clock: Clock, stop: Stop) -> None:
        """Measure until a stop is requested."""
        async with stop.interruptible():
            while True:
                await self.measure()
                await clock.sleep_until(clock.now() + timedelta(seconds=MEASURE_SECONDS))

    async def measure(self) -> None:
        """Measure once."""
        try:
            self.bytes = await self._measure()
        except MilepostError:  # it is away, which the store watch reports
            self.bytes = None


# --- probes -----------------------------------------------------------------------------------------------------------

MAX_STORE_SECONDS = 2.0  # probes of orchestrators seldom wait longer


def probes(
    ping_store: Callable[[], Awaitable[None]], stalled: Callable[[], str | None]
) -> Sequence[web.AbstractRouteDef]:
    """Return the routes /healthz, which answers as long as the process lives, and /readyz.

    Args:
        ping_store: checks that the store answers and accepts writes; raises MilepostError if not.
        stalled: returns why nothing has made progress for too long; None if all is well.
    """
    store = SharedPing(ping_store)

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(_: web.Request) -> web.Response:
        try:
            await store.demand(MAX_STORE_SECONDS)
        except TimeoutError as error:
            text = f"the database did not answer within {MAX_STORE_SECONDS:g} s"
            raise web.HTTPServiceUnavailable(text=text) from error
        except MilepostError as error:
            raise web.HTTPServiceUnavailable(text=error.message) from error
        if (reason := stalled()) is not None:
            raise web.HTTPServiceUnavailable(text=reason)
        return web.Response(text="ready\n")

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


class SharedPing:
    """One ping at a time, whose result all callers share: otherwise pings would pile up on a database that hangs."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._pinging: asyncio.Future[None] | None = None

    async def demand(self, max_seconds: float) -> None:
        """Raise what the ping raises, or TimeoutError if it takes longer; the ping itself is not cancelled.

        Cancelling it could hang as well.
        """
        pinging = self._pinging
        if pinging is None or pinging.done():
            pinging = self._pinging = asyncio.ensure_future(self._ping())
            pinging.add_done_callback(lambda done: done.cancelled() or done.exception())  # marks it as retrieved
        await asyncio.wait([pinging], timeout=max_seconds)
        if not pinging.done():
            raise TimeoutError
        pinging.result()
