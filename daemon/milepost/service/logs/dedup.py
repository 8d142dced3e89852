"""Troubles that repeat are counted, not repeated: nobody reads a line a stream and second.

Lines are of one kind where level, event and reason (or client) are the same. The first of a kind is told at once; of
errors, which may need a person, the first of each stream, for up to ten streams. What repeats within the window is
held, and told in its end as one line, which has what all of it has in common, and says how often it was, since when and
of which streams. Windows grow while there are repeats. A kind that was not repeated in its window is forgotten: its
next line is a first.

What is left out of the log is in the journal, entry by entry.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

from structlog import DropEvent
from structlog.typing import EventDict, WrappedLogger

FIRST_WINDOW_SECONDS = 10.0
MAX_WINDOW_SECONDS = 300.0
MAX_ERRORS_APART = 10
MAX_STREAMS = 100  # in one line; more of them take another
MAX_KINDS = 100  # at a time; what goes beyond is of one kind with its level
LOOK_SECONDS = 1.0  # between two looks at the windows

_LEVELS = frozenset({"warning", "error"})
_RECOVERIES = frozenset({"database available again", "stream recovered"})  # where one ends, it ends for many
_REASONS = ("status", "reason", "problem", "error", "found", "exception", "client")


class Deduplicator:
    """A processor of structlog, which drops repeats, and hands the lines that stand for them to `tell`.

    `clock` gives seconds that only grow. Events have a level and a timestamp. Safe to call from any thread.
    """

    def __init__(self, tell: Callable[[EventDict], None], clock: Callable[[], float]) -> None:
        self._tell = tell
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}
        # Reentrant, because a finalizer may log in the midst of it.
        self._lock = threading.RLock()

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Let the event pass, or hold it. Raises DropEvent for what is held."""
        with self._lock:
            self.tell_due()
            if event["level"] not in _LEVELS and event["event"] not in _RECOVERIES:
                return event
            key = _key(event)
            if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
                key = event["level"]
            kind = self._kinds.get(key)
            if kind is None:
                kind = self._kinds[key] = _Kind(self._clock() + FIRST_WINDOW_SECONDS)
            if kind.is_told_apart(event):
                return event
            kind.hold(event)
            if len(kind.streams) >= MAX_STREAMS:
                self._tell(kind.take())
        raise DropEvent

    def tell_due(self) -> None:
        """Tell what was held in windows that have ended."""
        with self._lock:
            now = self._clock()
            for key, kind in [each for each in self._kinds.items() if each[1].ends_at <= now]:
                if kind.repeated:
                    self._tell(kind.take())
                    kind.go_on(now)
                else:
                    del self._kinds[key]

    def tell_all(self) -> None:
        """Tell all that was held, and forget it."""
        with self._lock:
            held = [kind for kind in self._kinds.values() if kind.repeated]
            self._kinds.clear()
            for kind in held:
                self._tell(kind.take())

    @asynccontextmanager
    async def told_in_time(self) -> AsyncIterator[None]:
        """During the block, tell what was held when its window ends; in the end tell the rest."""
        looking = asyncio.create_task(self._look(), name="repeats")
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait({looking})
            self.tell_all()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.tell_due()


class _Kind:
    """The lines of one kind: who was told of apart, and what is held."""

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.repeated = 0
        self.streams: dict[object, None] = {}  # in the order in which they came
        self._window_seconds = FIRST_WINDOW_SECONDS
        self._told: set[object] = set()
        self._common: EventDict = {}
        self._since = ""

    def is_told_apart(self, event: EventDict) -> bool:
        """Whether this line is to be told: the first, or that of a stream that was told nothing so far."""
        most = MAX_ERRORS_APART if event["level"] == "error" else 1
        if len(self._told) >= most or event.get("stream") in self._told:
            return False
        self._told.add(event.get("stream"))
        return True

    def hold(self, event: EventDict) -> None:
        """Count the line, and keep of it what it has in common with the others."""
        if self.repeated:
            self._common = {key: value for key, value in self._common.items() if event.get(key) == value}
        else:
            self._common = dict(event)
            self._since = self._common.pop("timestamp")
        self.repeated += 1
        if "stream" in event:
            self.streams[event["stream"]] = None

    def take(self) -> EventDict:
        """Give the one line for all that was held."""
        event = {"event": "more of many kinds", **self._common, "repeated": self.repeated, "since": self._since}
        if self.streams and "stream" not in event:
            event["streams"] = list(self.streams)
        self.repeated, self.streams = 0, {}
        return event

    def go_on(self, now: float) -> None:
        """Begin another window, a longer one."""
        self._window_seconds = min(2 * self._window_seconds, MAX_WINDOW_SECONDS)
        self.ends_at = now + self._window_seconds


def _key(event: EventDict) -> Hashable:
    return event["level"], event["event"], *(str(event.get(name, "")) for name in _REASONS)
