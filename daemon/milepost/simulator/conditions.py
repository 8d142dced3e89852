"""Lasting conditions: the pace, rate limits and their usage headers, broken pages and holds."""

import asyncio
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from milepost.simulator import seeded
from milepost.simulator.refusals import LIMITS, Refusal

_GRACE_SECONDS = 0.1
_FULL_PERCENT = 112
_SOMEBODY_ELSE = "100000000000000009"
_UNKNOWN_KEYS = {"ads_api_access_tier": "development_access", "reset_time_duration": None}

# Without 368, after which clients wait an hour in any case, and without the siblings of 80001 and 80006.
_DRAWN_PAGE_LIMITS = (17, 32, 341, 613, 80001, 80006, 429)


class Usage(msgspec.Struct, frozen=True):
    """How much is used, in percent, and the minutes until the page may call again.

    With `others`, the relevant entry is among irrelevant ones: one of another kind with a shorter time, and one of
    another page with a longer time.
    """

    percent: float
    regain_minutes: int = 0
    others: bool = False

    def headers(self, page_id: str, platform: str, odd_draw: int | None) -> Mapping[str, str]:
        """Return the three usage headers, JSON in strings; with an `odd_draw` one of them is odd."""
        entries = [self._entry(platform, self.regain_minutes)]
        business = {page_id: entries}
        if self.others:
            entries.insert(0, self._entry("ads_insights", self.regain_minutes // 2))
            business = {_SOMEBODY_ELSE: [self._entry(platform, self.regain_minutes + 90)], **business}
        app = {**self._spent, "call_count": int(self.percent / 2)}
        headers = {"X-App-Usage": app, "X-Page-Usage": self._spent, "X-Business-Use-Case-Usage": business}
        written = {name: msgspec.json.encode(value).decode() for name, value in headers.items()}
        return written if odd_draw is None else {**written, **self._odd(page_id, platform, odd_draw)}

    def _odd(self, page_id: str, platform: str, odd_draw: int) -> Mapping[str, str]:
        """Return a bare percentage, empty headers, single quotes, unknown keys, or a duplicate key."""
        idle, entry = (
            msgspec.json.encode(each).decode()
            for each in (self._entry("pages", 0), self._entry(platform, self.regain_minutes))
        )
        forms: tuple[Mapping[str, str], ...] = (
            {"X-App-Usage": f"{int(self.percent / 2)}%"},
            {"X-App-Usage": "", "X-Page-Usage": "", "X-Business-Use-Case-Usage": ""},
            {"X-Page-Usage": str(self._spent)},
            {"X-Page-Usage": msgspec.json.encode({**self._spent, **_UNKNOWN_KEYS}).decode()},
            {"X-Business-Use-Case-Usage": f'{{"{page_id}":[{idle}],"{page_id}":[{entry}]}}'},
        )
        return forms[odd_draw % len(forms)]

    @property
    def _spent(self) -> Mapping[str, int]:
        percent = int(self.percent)
        return {"call_count": percent, "total_cputime": percent // 2, "total_time": percent * 2 // 3}

    def _entry(self, kind: str, regain_minutes: int) -> Mapping[str, object]:
        return {"type": kind, **self._spent, "estimated_time_to_regain_access": regain_minutes}


class WaitHint(StrEnum):
    """Where a rate limit says how long it lasts."""

    USAGE = "usage"
    """In `X-Business-Use-Case-Usage`, in whole minutes, among entries that are meant for others."""
    RETRY_AFTER = "retry_after"
    """In `Retry-After`, in whole seconds."""
    NOTHING = "nothing"
    """Nowhere."""


class Limit(msgspec.Struct, eq=False, kw_only=True):
    """A rate limit of one page, or of the whole app without a page. It ends at `until` by the world's clock."""

    code: int
    until: datetime
    page_id: str | None
    hint: WaitHint
    announced_at_seconds: float | None = None
    """When a client was first refused for it, by a monotonic clock."""

    def is_known(self, now_seconds: float) -> bool:
        """Return whether a client that calls now knows of it; it does not if the call crossed the refusal."""
        return self.announced_at_seconds is not None and now_seconds > self.announced_at_seconds + _GRACE_SECONDS

    def announce(self, now_seconds: float) -> None:
        """Record that a client is refused because of it now, by a monotonic clock."""
        if self.announced_at_seconds is None:
            self.announced_at_seconds = now_seconds

    def usage(self, at: datetime) -> Usage:
        """Return the usage of a refusal's headers."""
        if self.hint is not WaitHint.USAGE:
            return Usage(_FULL_PERCENT)
        return Usage(_FULL_PERCENT, math.ceil((self.until - at).total_seconds() / 60), others=True)

    def retry_after_seconds(self, at: datetime) -> int | None:
        """Return the value of `Retry-After`, if the limit uses it."""
        return math.ceil((self.until - at).total_seconds()) if self.hint is WaitHint.RETRY_AFTER else None


def drawn_limit(page_id: str | None, at: datetime, seconds: float, drawn: int) -> Limit:
    """Return a limit of a random kind; it is the whole app's if the caller is not a page.

    A limit shorter than a minute does not give its duration in minutes.
    """
    codes = (4, *_DRAWN_PAGE_LIMITS) if page_id is not None else (4,)
    code = seeded.pick(codes, drawn)
    hint = seeded.pick(tuple(WaitHint)[0 if seconds >= 60 else 1 :], drawn >> 8)
    until = at + timedelta(seconds=seconds)
    return Limit(code=code, until=until, page_id=None if code == 4 else page_id, hint=hint)


class Conditions:
    """The active limits and the broken pages."""

    def __init__(self) -> None:
        self.broken: dict[str, Refusal] = {}
        """By page, the error of every request."""
        self._limits: list[Limit] = []

    def begin(self, limit: Limit) -> None:
        """Begin a limit.

        Raises:
            ValueError: no limit has this code, or not with this scope.
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
        """Return the limit that a call meets: of those that apply, the one that ends last."""
        return max(self._limits_on(page_id, at), key=lambda limit: limit.until, default=None)

    def ignored_by(self, page_id: str | None, at: datetime, now_seconds: float, prolong_seconds: float) -> bool:
        """Return whether a client that calls now ignores a limit that it knows of; each such limit is prolonged."""
        ignored = [limit for limit in self._limits_on(page_id, at) if limit.is_known(now_seconds)]
        for limit in ignored:
            limit.until += timedelta(seconds=prolong_seconds)
        return bool(ignored)

    def _limits_on(self, page_id: str | None, at: datetime) -> list[Limit]:
        self._limits = [limit for limit in self._limits if at < limit.until]
        return [limit for limit in self._limits if limit.page_id in (None, page_id)]


class Pace:
    """The allowed pace of each page: a number of calls a second on average, with bursts of one second's worth plus one.

    The extra one allows for jitter: without it, a client that keeps exactly to the pace would be refused now and then.
    """

    def __init__(self, max_calls_per_second: float) -> None:
        self._max_calls_per_second = max_calls_per_second
        self._left: dict[str, tuple[float, float]] = {}

    def allows(self, page_id: str, now_seconds: float) -> bool:
        """Return whether a page may be called at this instant of a monotonic clock, and count the call if so."""
        most = self._max_calls_per_second
        if most <= 0:
            return True
        left, since_seconds = self._left.get(page_id, (most + 1, now_seconds))
        left = min(most + 1, left + (now_seconds - since_seconds) * most)
        allowed = left >= 1
        self._left[page_id] = (left - 1 if allowed else left, now_seconds)
        return allowed


class Hold:
    """Keeps requests waiting, so that nothing moves while a test does something else."""

    def __init__(self) -> None:
        self._after = math.inf
        self._released = asyncio.Event()
        self.waiting = 0
        """The number of requests that wait."""

    def begin(self, after: int) -> None:
        """Hold every request whose number in its stream is beyond `after`."""
        self._after = after
        self._released.set()  # waiting requests check again: fewer may be held now
        self._released.clear()

    def end(self) -> None:
        """Release all waiting requests, and hold no more."""
        self._after = math.inf
        self._released.set()

    async def passed(self, number: int) -> None:
        """Wait while the request of this number is held."""
        while number > self._after:
            self.waiting += 1
            try:
                await self._released.wait()
            finally:
                self.waiting -= 1
