"""Repeated warnings and errors are counted instead of logged: nobody reads a line per stream and second.

Lines are of one kind if they have the same level, event and reason (or client). The first line of a kind is logged at
once. Errors may need a person, so the first error of each stream is logged, for up to ten streams. Repeats are held
until the window ends, and then logged as one summary: what all the lines have in common, how many there were, since
when, and for which streams. Windows grow while there are repeats. A kind without repeats in its window is forgotten, so
that its next line counts as the first.

What the log leaves out is in the journal, entry by entry.
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
MAX_STREAMS = 100  # in one summary; more streams get another
MAX_KINDS = 100  # at a time; beyond that, all lines of a level are one kind
POLL_SECONDS = 1.0  # between checks of the windows

_LEVELS = frozenset({"warning", "error"})
_RECOVERIES = frozenset({"database available again", "stream recovered"})  # what ends for one stream ends for many
_REASONS = ("status", "reason", "problem", "error", "found", "exception", "client")


class Deduplicator:
    """A structlog processor that drops repeats, and passes their summaries to `emit`.

    `clock` returns monotonic seconds. Events have a level and a timestamp. Safe to call from any thread.
    """

    def __init__(self, emit: Callable[[EventDict], None], clock: Callable[[], float]) -> None:
        self._emit = emit
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}
        # Reentrant, because a finalizer may log while it is held.
        self._lock = threading.RLock()

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Let the event pass, or hold it and raise DropEvent."""
        with self._lock:
            self.flush_due()
            if event["level"] not in _LEVELS and event["event"] not in _RECOVERIES:
                return event
            key = _key(event)
            if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
                key = event["level"]
            kind = self._kinds.get(key)
            if kind is None:
                kind = self._kinds[key] = _Kind(self._clock() + FIRST_WINDOW_SECONDS)
            if kind.passes(event):
                return event
            kind.hold(event)
            if len(kind.streams) >= MAX_STREAMS:
                self._emit(kind.take())
        raise DropEvent

    def flush_due(self) -> None:
        """Emit the summaries of windows that have ended."""
        with self._lock:
            now = self._clock()
            for key, kind in [each for each in self._kinds.items() if each[1].ends_at <= now]:
                if kind.repeated:
                    self._emit(kind.take())
                    kind.extend(now)
                else:
                    del self._kinds[key]

    def flush(self) -> None:
        """Emit the summaries of all held lines, and forget them."""
        with self._lock:
            held = [kind for kind in self._kinds.values() if kind.repeated]
            self._kinds.clear()
            for kind in held:
                self._emit(kind.take())

    @asynccontextmanager
    async def flushing(self) -> AsyncIterator[None]:
        """Emit each summary when its window ends, and the rest at the end of the block."""
        task = asyncio.create_task(self._poll(), name="log summaries")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            self.flush()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self.flush_due()


class _Kind:
    """The lines of one kind: the streams that were logged, and the lines that are held."""

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.repeated = 0
        self.streams: dict[object, None] = {}  # in the order in which they came
        self._window_seconds = FIRST_WINDOW_SECONDS
        self._logged: set[object] = set()
        self._common: EventDict = {}
        self._since = ""

    def passes(self, event: EventDict) -> bool:
        """Return whether this line is logged: it is the first, or an error and the first of its stream."""
        most = MAX_ERRORS_APART if event["level"] == "error" else 1
        if len(self._logged) >= most or event.get("stream") in self._logged:
            return False
        self._logged.add(event.get("stream"))
        return True

    def hold(self, event: EventDict) -> None:
        """Count the line, and keep the fields that it has in common with the others."""
        if self.repeated:
            self._common = {key: value for key, value in self._common.items() if event.get(key) == value}
        else:
            self._common = dict(event)
            self._since = self._common.pop("timestamp")
        self.repeated += 1
        if "stream" in event:
            self.streams[event["stream"]] = None

    def take(self) -> EventDict:
        """Return the summary of the held lines, and forget them."""
        event = {"event": "more of many kinds", **self._common, "repeated": self.repeated, "since": self._since}
        if self.streams and "stream" not in event:
            event["streams"] = list(self.streams)
        self.repeated, self.streams = 0, {}
        return event

    def extend(self, now: float) -> None:
        """Start another, longer window."""
        self._window_seconds = min(2 * self._window_seconds, MAX_WINDOW_SECONDS)
        self.ends_at = now + self._window_seconds


def _key(event: EventDict) -> Hashable:
    return event["level"], event["event"], *(str(event.get(name, "")) for name in _REASONS)
