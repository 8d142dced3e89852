"""The states of all streams, as the feed tells of them: together, because the limit that one meets holds up others."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from milepost.core.checkpoint import Checkpoint, RateLimit
from milepost.core.model import Stream
from milepost.core.rate_limits import by_page
from milepost.reporting.status import State, held_up, limit_on


class StreamStates:
    """What each stream is at. A limit counts as over once an entry of any stream is younger than its end."""

    def __init__(self) -> None:
        self._states: dict[Stream, State] = {}
        self._rate_limits: dict[Stream, RateLimit] = {}
        self._near = by_page(self._rate_limits)
        self._as_of: datetime | None = None

    def learn(self, checkpoint: Checkpoint, state: State) -> Iterator[tuple[str, State]]:
        """Take over where a stream stands, and give the states that this may have changed, by their streams' keys."""
        stream = Stream.parse(checkpoint.stream)
        self._states[stream] = state
        if checkpoint.updated_at is not None:
            self._as_of = max(checkpoint.updated_at, self._as_of or checkpoint.updated_at)
        if self._rate_limits.get(stream) == checkpoint.rate_limit:
            return self._told([stream])
        if checkpoint.rate_limit is None:
            del self._rate_limits[stream]
        else:
            self._rate_limits[stream] = checkpoint.rate_limit
        self._near = by_page(self._rate_limits)
        return self._told(self._states)

    def forget(self, key: str) -> None:
        """Tell of a stream no more. A limit that it has met goes on."""
        self._states.pop(Stream.parse(key), None)

    def _told(self, streams: Iterable[Stream]) -> Iterator[tuple[str, State]]:
        for stream in streams:
            state = self._states[stream]
            is_held = self._as_of is not None and limit_on(stream, self._near(stream), self._as_of) is not None
            yield stream.key, held_up(state) if is_held else state
