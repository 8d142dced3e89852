"""What lasts: rate limits, which end by themselves, and broken pages and holds, which are ended by hand."""

import asyncio
import math
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from milepost.simulator import seeded
from milepost.simulator.refusals import LIMITS, Refusal
from milepost.simulator.usage import Usage

_TOLD_GRACE_SECONDS = 0.1
_FULL_PERCENT = 112

# For 368 clients wait an hour whatever it says. The rest are siblings of 80001 and 80006.
_DRAWN_PAGE_LIMITS = (17, 32, 341, 613, 80001, 80006, 429)


class Told(StrEnum):
    """Where a rate limit says how long it lasts."""

    USAGE = "usage"
    """In `X-Business-Use-Case-Usage`, in whole minutes, among entries that are meant for others."""
    RETRY_AFTER = "retry_after"
    """In `Retry-After`, in whole seconds."""
    NOTHING = "nothing"
    """Nowhere."""


class Limit(msgspec.Struct, eq=False, kw_only=True):
    """A rate limit: of one page, or of the whole app where it names none. It ends at `until` by the world's clock."""

    code: int
    until: datetime
    page_id: str | None
    told: Told
    told_at_seconds: float | None = None
    """When it was first answered with, by a monotonic clock."""

    def is_known(self, now_seconds: float) -> bool:
        """Whether a client that calls now has been told of it: a call that crossed the answer has not."""
        return self.told_at_seconds is not None and now_seconds > self.told_at_seconds + _TOLD_GRACE_SECONDS

    def tell(self, now_seconds: float) -> None:
        """Note that a client is told of it now, by a monotonic clock."""
        if self.told_at_seconds is None:
            self.told_at_seconds = now_seconds

    def usage(self, at: datetime) -> Usage:
        """The usage headers that go with a refusal."""
        if self.told is not Told.USAGE:
            return Usage(_FULL_PERCENT)
        return Usage(_FULL_PERCENT, math.ceil((self.until - at).total_seconds() / 60), others=True)

    def retry_after_seconds(self, at: datetime) -> int | None:
        """What `Retry-After` says, if the limit says it there."""
        return math.ceil((self.until - at).total_seconds()) if self.told is Told.RETRY_AFTER else None


def drawn_limit(page_id: str | None, at: datetime, seconds: float, drawn: int) -> Limit:
    """Make a limit of which luck says the kind; one for the whole app where it was no page that called.

    One that is shorter than a minute does not say so in minutes.
    """
    codes = (4, *_DRAWN_PAGE_LIMITS) if page_id is not None else (4,)
    code = seeded.pick(codes, drawn)
    told = seeded.pick(tuple(Told)[0 if seconds >= 60 else 1 :], drawn >> 8)
    until = at + timedelta(seconds=seconds)
    return Limit(code=code, until=until, page_id=None if code == 4 else page_id, told=told)


class Conditions:
    """The limits that are on and the pages that are broken."""

    def __init__(self) -> None:
        self.broken: dict[str, Refusal] = {}
        """By page, what it answers everything with."""
        self._limits: list[Limit] = []

    def begin(self, limit: Limit) -> None:
        """Let a limit begin.

        Raises:
            ValueError: there is no limit of this code, or not of this scope.
        """
        if limit.code not in LIMITS:
            raise ValueError(f"no limit has the code {limit.code}; there are {', '.join(map(str, LIMITS))}")
        if (limit.code == 4) is (limit.page_id is not None):
            raise ValueError("code 4 is for the whole app, without a page; every other limit is a page's")
        self._limits.append(limit)

    def lift(self, page_id: str | None) -> None:
        """End the limits of a page, or of the app."""
        self._limits = [limit for limit in self._limits if limit.page_id != page_id]

    def limit_on(self, page_id: str | None, at: datetime) -> Limit | None:
        """The limit that a call meets: of those that concern it, the one that ends last."""
        return max(self._limits_on(page_id, at), key=lambda limit: limit.until, default=None)

    def ignored_by(self, page_id: str | None, at: datetime, now_seconds: float, prolong_seconds: float) -> bool:
        """Whether a client that calls now has been told not to; every limit that it ignores lasts so much longer."""
        ignored = [limit for limit in self._limits_on(page_id, at) if limit.is_known(now_seconds)]
        for limit in ignored:
            limit.until += timedelta(seconds=prolong_seconds)
        return bool(ignored)

    def _limits_on(self, page_id: str | None, at: datetime) -> list[Limit]:
        self._limits = [limit for limit in self._limits if at < limit.until]
        return [limit for limit in self._limits if limit.page_id in (None, page_id)]


class Hold:
    """Keeps requests waiting, so that the world stands still while something else happens."""

    def __init__(self) -> None:
        self._after = math.inf
        self._released = asyncio.Event()
        self.waiting = 0
        """How many requests wait now."""

    def begin(self, after: int) -> None:
        """Hold every request whose number in its stream is beyond `after`."""
        self._after = after
        self._released.set()  # those that wait look again: fewer may be held now
        self._released.clear()

    def end(self) -> None:
        """Let go of all that wait, and hold nothing any more."""
        self._after = math.inf
        self._released.set()

    async def passed(self, number: int) -> None:
        """Wait for as long as the request of this number is held."""
        while number > self._after:
            self.waiting += 1
            try:
                await self._released.wait()
            finally:
                self.waiting -= 1
