"""The pauses of all streams, so that none calls into a limit that another has met."""

from collections.abc import Callable
from datetime import datetime

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.model import Stream
from milepost.core.ports import Clock, Usage
from milepost.core.problems import Problem
from milepost.core.rate_limits import by_page, has_begun, held_until, next_rate_limit
from milepost.core.remedies import Remedy, rule_for
from milepost.engine.clock import Anchor
from milepost.engine.feed import Feed, UsageReported


class RateLimits:
    """What the checkpoints say of pauses, and what was heard so lately that no checkpoint says it yet.

    A limit holds from the answer on that tells of it: its entry is committed a moment later, and a call of another
    stream, or one that is looked ahead for, could slip into that moment.

    A pause lasts as long as it was to last when it was met, however the wall clock is set meanwhile. One of the future
    was met by another process while the clock was ahead: it counts as over.

    `floor_seconds` is the least wait after a limit that names no time.
    """

    def __init__(self, clock: Clock, feed: Feed, *, floor_seconds: float) -> None:
        self.floor_seconds = floor_seconds
        self._clock = clock
        self._feed = feed
        self._recorded: dict[Stream, RateLimit] = {}
        self._heard: dict[Stream, RateLimit] = {}
        self._anchor = Anchor(clock)

    def learn(self, checkpoint: Checkpoint) -> None:
        """Take over where a stream stands."""
        self._move_along()
        stream, rate_limit = Stream.parse(checkpoint.stream), checkpoint.rate_limit
        if rate_limit is None:
            self._recorded.pop(stream, None)
            return
        if not has_begun(rate_limit, self._clock.now(), floor_seconds=self.floor_seconds):
            known = self._recorded.get(stream)
            if (
                known is not None and replace(rate_limit, until=known.until) != known
            ):  # else it is that one, moved along
                del self._recorded[stream]
            return
        self._recorded[stream] = rate_limit
        heard = self._heard.get(stream)
        if heard is not None and heard.until <= rate_limit.until:  # it is that one, or is covered by it
            del self._heard[stream]

    def held_until(self, stream: Stream) -> datetime | None:
        """Say until when `stream` may not call; None, or an instant that has passed, where it may."""
        self._move_along()
        return held_until(stream, self._recorded | self._heard)

    def holds(self) -> Callable[[Stream], datetime | None]:
        """Give `held_until` as it is now, for asking about many streams."""
        self._move_along()
        near = by_page(self._recorded | self._heard)
        return lambda stream: held_until(stream, near(stream))

    def hear(self, stream: Stream, problem: Problem) -> None:
        """Hear of a refusal right when it comes."""
        rule = rule_for(problem, has_cursor=False)
        if rule.remedy is Remedy.WAIT:
            self._move_along()
            before, now = self._recorded.get(stream), self._clock.now()
            self._heard[stream] = next_rate_limit(before, problem, rule, now, floor_seconds=self.floor_seconds)

    def gate(self, stream: Stream) -> "StreamGate":
        """Give the gate that the stream's source asks before each call."""
        return StreamGate(self, self._clock, self._feed, stream)

    def _move_along(self) -> None:
        """Move all pauses as far as the wall clock was set since this was last called."""
        moved = self._anchor.take_moved()
        if moved:
            for rate_limits in (self._recorded, self._heard):
                rate_limits.update(
                    {
                        stream: replace(rate_limit, until=rate_limit.until + moved)
                        for stream, rate_limit in rate_limits.items()
                    }
                )


class StreamGate:
    """A Gate (see core/ports.py): one stream's view of the pauses."""

    def __init__(self, rate_limits: RateLimits, clock: Clock, feed: Feed, stream: Stream) -> None:
        self._rate_limits = rate_limits
        self._clock = clock
        self._feed = feed
        self._stream = stream

    def is_closed(self) -> bool:
        """Whether a pause forbids a call now."""
        until = self._rate_limits.held_until(self._stream)
        return until is not None and until > self._clock.now()

    def refused(self, problem: Problem) -> None:
        """Hear of a refusal."""
        self._rate_limits.hear(self._stream, problem)

    def used(self, usages: tuple[Usage, ...]) -> None:
        """Hear what an answer's headers say of the budgets."""
        if usages:
            self._feed.publish(UsageReported(self._stream.key, usages))
