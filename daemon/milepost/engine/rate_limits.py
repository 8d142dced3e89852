"""Decides when streams may call: by the rate limits that any of them has met, and by each page's shares of calls."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from msgspec.structs import replace

from milepost.core.background import Demand
from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.model import Platform, Stream
from milepost.core.ports import Clock, Usage
from milepost.core.problems import Problem, Remedy, Scope, rule_for
from milepost.core.retry import by_page, has_begun, held_until, next_rate_limit
from milepost.engine.clock import Anchor
from milepost.engine.feed import Feed, UsageReported

USAGE_SECONDS = 3600.0


class RateLimits:
    """The rate limits in the checkpoints, and those too recent to be in a checkpoint.

    A limit holds from the response that reports it. Its entry is committed a moment later, and in that moment a call of
    another stream, or a prefetch, could slip in.

    A limit lasts as long as it said when it was met, even if the wall clock is adjusted meanwhile. A limit that was met
    in the future is another process's, whose clock was ahead: it counts as over.

    `floor_seconds` is the shortest wait after a limit that names no time.
    """

    def __init__(self, clock: Clock, feed: Feed, *, floor_seconds: float) -> None:
        self.floor_seconds = floor_seconds
        self._clock = clock
        self._feed = feed
        self._recorded: dict[Stream, RateLimit] = {}
        self._met: dict[Stream, RateLimit] = {}
        self._anchor = Anchor(clock)
        self._usages: dict[tuple[Scope, Stream | None], tuple[float, Usage]] = {}  # by budget, with the time of report

    def observe(self, checkpoint: Checkpoint) -> None:
        """Take over the rate limit in a stream's checkpoint; if there is none, drop the stream's earlier one."""
        stream, rate_limit = checkpoint.stream, checkpoint.rate_limit
        if rate_limit is None:
            self._recorded.pop(stream, None)
            return
        self._shift()
        known = self._recorded.get(stream)
        if known is not None and replace(rate_limit, until=known.until) == known:
            rate_limit = known  # the same, and possibly shifted
        elif not has_begun(rate_limit, self._clock.now(), floor_seconds=self.floor_seconds):
            self._recorded.pop(stream, None)
            return
        self._recorded[stream] = rate_limit
        met = self._met.get(stream)
        if met is not None and met.until <= rate_limit.until:  # it is the same, or shorter
            del self._met[stream]

    def held_until(self, stream: Stream) -> datetime | None:
        """Return until when `stream` may not call; None or an instant in the past if it may."""
        if not (self._recorded or self._met):
            return None
        self._shift()
        return held_until(stream, self._recorded | self._met)

    def holds(self) -> Callable[[Stream], datetime | None]:
        """Return a function like `held_until` as of now, to look up many streams."""
        self._shift()
        near = by_page(self._recorded | self._met)
        return lambda stream: held_until(stream, near(stream))

    def observe_refusal(self, stream: Stream, problem: Problem) -> datetime:
        """Take over the rate limit that a response reports, if any. Return the time of the response."""
        rule, now = rule_for(problem, has_cursor=False), self._clock.now()
        if rule.remedy is Remedy.WAIT:
            self._shift()
            before = self._recorded.get(stream)
            self._met[stream] = next_rate_limit(before, problem, rule, now, floor_seconds=self.floor_seconds)
        return now

    def forget(self, stream: Stream) -> None:
        """Drop the limit of a stream's latest refusal, which was about the requested content and not a real limit."""
        self._met.pop(stream, None)

    def observe_usage(self, stream: Stream, usages: tuple[Usage, ...]) -> None:
        """Take over the usage of budgets that a response reports."""
        for scope in {usage.scope for usage in usages}:
            fullest = max((usage for usage in usages if usage.scope is scope), key=lambda usage: usage.ratio)
            self._usages[scope, None if scope is Scope.APP else stream] = (self._clock.steady(), fullest)

    def usage(self, stream: Stream) -> Usage | None:
        """Return the fullest of the page's and the app's budgets, as reported by the latest responses.

        None if none was reported within the last hour, for which the platform counts calls (Meta, "Rate limits").
        """
        streams = (Stream(platform, stream.page_id) for platform in Platform)
        keys = ((Scope.APP, None), *((Scope.PAGE, each) for each in streams))
        reports = [report for key in keys if (report := self._usages.get(key)) is not None]
        fresh = [usage for at, usage in reports if self._clock.steady() - at < USAGE_SECONDS]
        return max(fresh, key=lambda usage: usage.ratio, default=None)

    def gate(self, stream: Stream) -> "StreamGate":
        """Return the gate that the stream's source checks before each call."""
        return StreamGate(self, self._clock, self._feed, stream)

    def _shift(self) -> None:
        """Shift all limits by as much as the wall clock was adjusted since the last call."""
        moved = self._anchor.take_moved()
        if moved:
            for rate_limits in (self._recorded, self._met):
                rate_limits.update(
                    {
                        stream: replace(rate_limit, until=rate_limit.until + moved)
                        for stream, rate_limit in rate_limits.items()
                    }
                )


class StreamGate:
    """A Gate (see core/ports.py): one stream's view of the rate limits."""

    def __init__(self, rate_limits: RateLimits, clock: Clock, feed: Feed, stream: Stream) -> None:
        self._rate_limits = rate_limits
        self._clock = clock
        self._feed = feed
        self._stream = stream

    def is_closed(self) -> bool:
        """Return whether a rate limit forbids a call now."""
        until = self._rate_limits.held_until(self._stream)
        return until is not None and until > self._clock.now()

    def refused(self, problem: Problem) -> datetime:
        """Report a refusal before anything is decided about it, and return its time."""
        return self._rate_limits.observe_refusal(self._stream, problem)

    def used(self, usages: tuple[Usage, ...]) -> None:
        """Report the usage that a response's headers name."""
        if usages:
            self._rate_limits.observe_usage(self._stream, usages)
            self._feed.publish(UsageReported(self._stream, usages))


class _Page:
    def __init__(self) -> None:
        self.swept: set[Stream] = set()
        self.batches = 0
        self.messages = 0


class CallShares:
    """Counts the calls of each page, starting when the first of its current sweeps began."""

    def __init__(self) -> None:
        self._pages = defaultdict[str, _Page](_Page)
        self._held_back: set[Stream] = set()

    @contextmanager
    def sweeping(self, stream: Stream) -> Iterator[None]:
        """Mark a stream as being swept during the block: older messages of its page get at most half of the calls."""
        page = self._pages[stream.page_id]
        if not page.swept:
            page.batches = page.messages = 0
        page.swept.add(stream)
        try:
            yield
        finally:
            page.swept.discard(stream)

    def count_batches(self, stream: Stream, count: int) -> None:
        """Count requests for a list."""
        self._pages[stream.page_id].batches += count

    def count_messages(self, stream: Stream) -> None:
        """Count a request for older messages."""
        self._pages[stream.page_id].messages += 1

    def demand(self, stream: Stream, usage: Usage | None) -> Demand:
        """Return the other demand for the calls of the stream's page; `usage` is the fullest of its budgets."""
        page = self._pages[stream.page_id]
        return Demand(usage, page.batches, page.messages, is_swept=bool(page.swept - {stream}))

    def note_held_back(self, stream: Stream, *, is_held_back: bool) -> bool:
        """Note whether older messages of a stream wait because of its budgets; return whether that has changed."""
        if is_held_back is (stream in self._held_back):
            return False
        self._held_back ^= {stream}
        return True
