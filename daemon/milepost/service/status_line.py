"""The whole service in one line, as `systemctl status` shows it: how many streams there are, and what they are at."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.model import Stream
from milepost.core.rate_limits import by_page, held_until, holder_of
from milepost.engine.feed import Notice, Recorded, UnchangedRead
from milepost.reporting.humanize import clock, counted
from milepost.reporting.status import State, held_up, limit_in_words, rate_limits_of, state_of

# In this order: first who works, then who waits, then who needs somebody.
WORDS: Mapping[State, str] = {
    State.SYNCING: "syncing",
    State.RETRYING: "retrying",
    State.COMPLETE: "up to date",
    State.COMPLETE_WITH_ERRORS: "up to date but for dead letters",
    State.NEVER_SYNCED: "about to begin",
    State.PAUSED: "between two runs",
    State.INTERRUPTED: "about to go on",
    State.FAILED: "failed, to be tried again",
    State.STOPPED: "stopped until somebody mends the token or the configuration",
    State.ON_HOLD: "paused by somebody",
}


class StatusLine:
    """A reader of the feed that knows where every stream stands. `streams` gives those that are worked."""

    def __init__(self, streams: Callable[[], Iterable[Stream]]) -> None:
        self._streams = streams
        self._checkpoints: dict[Stream, Checkpoint] = {}

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over where a stream stood at the start."""
        self._checkpoints[Stream.parse(checkpoint.stream)] = checkpoint

    def read(self, notice: Notice) -> None:
        """Take over where a stream stands, unless it is known to stand further on: a worker hears its work twice."""
        if isinstance(notice, Recorded | UnchangedRead):
            known = self._checkpoints.get(Stream.parse(notice.checkpoint.stream))
            if known is None or notice.checkpoint.version >= known.version:
                self.load(notice.checkpoint)

    def words(self, now: datetime) -> str:
        """Say it: `3 streams: 2 syncing, 1 waits for the page's rate limit until 14:05 UTC`."""
        streams = list(self._streams())
        told = ", ".join(self._told(streams, now))
        return f"{counted(len(streams), 'stream')}: {told}" if told else "no streams to sync"

    def _told(self, streams: Iterable[Stream], now: datetime) -> Iterator[str]:
        rate_limits = rate_limits_of(self._checkpoints.values())
        near = by_page({holder: pause for holder, pause in rate_limits.items() if pause.until > now})
        states, limits, ends_at = Counter[State](), Counter[str](), dict[str, datetime]()
        for stream in streams:
            state = state_of(self._checkpoints.get(stream, Checkpoint(stream.key)), is_at_work=True)
            hold = _hold_on(stream, near(stream))
            if hold is None or held_up(state) is not State.RATE_LIMITED:
                states[state] += 1
                continue
            limit, until = hold
            limits[limit] += 1
            ends_at[limit] = max(until, ends_at.get(limit, until))
        yield from (f"{states[state]:,} {words}" for state, words in WORDS.items() if states[state])
        for limit, number in limits.items():
            yield f"{number:,} {'waits' if number == 1 else 'wait'} for {limit} until {clock(ends_at[limit], now)}"


def _hold_on(stream: Stream, rate_limits: Mapping[Stream, RateLimit]) -> tuple[str, datetime] | None:
    """Say which limit holds a stream up, and until when."""
    holder, until = holder_of(stream, rate_limits), held_until(stream, rate_limits)
    return None if holder is None or until is None else (limit_in_words(rate_limits[holder].scope), until)
