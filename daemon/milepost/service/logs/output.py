"""Logs: one event a line, for people, for machines or for systemd's journal, and never with a secret.

Every event, from structlog's loggers and the standard library's, goes through one list of processors to one output:

    bound context, level, time, traceback, lost lines → Deduplicator → Redactor → renderer → LineOutput | JournaldOutput

A line that cannot be written is counted and dropped: logging neither delays nor breaks the work.
"""

import asyncio
import logging
import os
import select
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Literal, TextIO

import structlog
from logging_journald import JournaldTransport  # type: ignore[import-untyped]  # annotated, but ships no py.typed
from structlog import DropEvent
from structlog.processors import CallsiteParameter, CallsiteParameterAdder
from structlog.typing import EventDict, Processor, WrappedLogger

from milepost.engine.interrupt import running
from milepost.service.logs.lines import (
    CALLSITE,
    Redactor,
    console_line,
    journal_fields,
    json_line,
    painter,
    redacted,
)

Format = Literal["auto", "console", "json"]

MAX_WAIT_SECONDS = 0.1


def configure(
    format: Format,  # noqa: A002  # the name of the setting
    level: str,
    redactor: Redactor,
    *,
    stream: TextIO,
    environment: Mapping[str, str],
) -> "Deduplicator":
    """Send all logs of the process and its uncaught errors to the stream; return the deduplicator of repeated lines.

    Args:
        format: `auto` means journald's own protocol if the stream leads to the journal, otherwise `console`.
        level: the lowest level that is logged: `debug`, `info`, `warning`, `error` or `critical`.
        redactor: keeps the secrets that it knows, or learns later, out of every line.
        stream: stderr. If it has a file descriptor, lines are written to that directly, past the buffer.
        environment: that of the process; `JOURNAL_STREAM` (systemd.exec(5)), `NO_COLOR` and `TERM` are read.
    """
    lines = LineOutput(stream)
    outlet: LineOutput | JournaldOutput = lines
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    gather: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        stamp,
        structlog.processors.format_exc_info,
        partial(_count_losses, lines),
    ]
    render: Processor = json_line
    if format == "auto" and _leads_to_journal(stream, environment):
        outlet = JournaldOutput(lines)
        gather.append(CallsiteParameterAdder([CallsiteParameter(name) for name in CALLSITE], [__name__]))
        render = journal_fields
    elif format != "json":
        render = partial(console_line, paint=painter(stream, environment))
    clean: Processor = partial(redacted, redactor=redactor)
    summaries = structlog.wrap_logger(outlet, [stamp, clean, render], wrapper_class=structlog.BoundLogger)
    deduplicator = Deduplicator(lambda event: summaries.log(**event), time.monotonic)
    structlog.configure(
        processors=[*gather, deduplicator, clean, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: outlet,
    )
    logging.basicConfig(handlers=[StandardRecords()], level=level.upper(), force=True)
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # at debug it logs every row: people's names and texts
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # the store raises an error for whatever it warns about
    logging.captureWarnings(True)
    _log_uncaught_errors()
    return deduplicator


@contextmanager
def logged(
    format: Format,  # noqa: A002  # as the setting is called
    level: str,
    redactor: Redactor,
    *,
    stream: TextIO,
    environment: Mapping[str, str],
) -> Iterator[None]:
    """Configure logging for the block, and write the repeats that are still held at its end."""
    deduplicator = configure(format, level, redactor, stream=stream, environment=environment)
    try:
        yield
    finally:
        deduplicator.flush()


def set_level(level: str) -> None:
    """Change the lowest level that is logged; `level` is as for `configure`."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(number))
    logging.getLogger().setLevel(number)


class StandardRecords(logging.Handler):
    """Passes the records of the standard library's loggers (aiohttp, asyncio, aiosqlite, warnings) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record with the name of its logger."""
        fields: dict[str, object] = {"logger": record.name, "exc_info": record.exc_info}
        try:
            message = record.getMessage().rstrip()
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            # The arguments do not fit, or one has a broken repr: log them as they are.
            message = record.msg
            fields["args"] = record.args
        known_level = max(logging.DEBUG, min(logging.CRITICAL, record.levelno // 10 * 10))
        structlog.get_logger().log(known_level, message, **fields)


class LineOutput:
    """Writes whole lines to a stream, never waits long for it, and never raises.

    Attributes:
        lost: the number of lines that could not be written since the last one that was.
    """

    def __init__(self, stream: TextIO) -> None:
        self.lost = 0
        self._stream = stream
        self._torn = False
        # Reentrant, because a finalizer may log ("Task exception was never retrieved") in the midst of a write.
        self._lock = threading.RLock()

    def write(self, line: str) -> None:
        """Write the line, or count it as lost: a closed stream, a reader that is gone or asleep, a full disk."""
        with self._lock:
            try:
                self._put(f"{line}\n")
            except (OSError, ValueError):
                self.lost += 1
            else:
                self.lost = 0

    log = debug = info = warning = error = critical = write

    def _put(self, text: str) -> None:
        descriptor = _descriptor(self._stream)
        if descriptor is None:
            self._stream.write(text)
            self._stream.flush()
            return
        # The stream's own buffer would keep a line that it cannot write, and so fail for every later line too.
        text = f"\n{text}" if self._torn else text
        rest = memoryview(text.encode(self._stream.encoding or "utf-8", "backslashreplace"))
        while rest:
            # A pipe that is ready accepts PIPE_BUF bytes without blocking (pipe(7)).
            if not _ready(descriptor, 0 if self.lost else MAX_WAIT_SECONDS):
                raise BlockingIOError
            rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
            self._torn = bool(rest)


class JournaldOutput:
    """Sends events to journald with their fields; while it is unavailable, writes lines that begin with `<N>`.

    journald reads the priority of a line from that prefix (sd-daemon(3)).
    """

    def __init__(self, fallback: LineOutput) -> None:
        # Addressing each datagram, as libsystemd does, survives a restart of journald.
        self._transport = JournaldTransport(connected=False)
        self._transport.socket.setblocking(False)
        self._fallback = fallback

    def __del__(self) -> None:
        self._transport.socket.close()

    def send(self, **fields: str | list[str]) -> None:
        """Send the fields as one entry, a field with several values several times (systemd.journal-fields(7))."""
        try:
            self._transport.send(_values(fields))
        except OSError:
            prefix = f"<{fields['PRIORITY']}>"
            self._fallback.write("\n".join(f"{prefix}{line}" for line in str(fields["MESSAGE"]).splitlines()))
        else:
            self._fallback.lost = 0

    log = debug = info = warning = error = critical = send


def _count_losses(lines: LineOutput, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if lines.lost:
        event["log_lines_lost"] = lines.lost
    return event


def _values(fields: Mapping[str, str | list[str]]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        yield from ((name, each) for each in (value if isinstance(value, list) else [value]))


def _leads_to_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # not a file, or closed
        return None


def _ready(descriptor: int, wait_seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(wait_seconds * 1000))


def _log_uncaught_errors() -> None:
    """Replace the interpreter's own reports, which would print an error's text with whatever secrets it holds."""
    log = structlog.get_logger()

    def crashed(kind: type[BaseException], error: BaseException, trace: object) -> None:
        if issubclass(kind, KeyboardInterrupt):
            log.critical("interrupted")
        else:
            log.critical("crashed", exc_info=error)

    sys.excepthook = crashed
    threading.excepthook = lambda args: log.critical("thread crashed", exc_info=args.exc_value or True)
    sys.unraisablehook = lambda args: log.error("error in a finalizer", exc_info=args.exc_value or True)


# --- repeats ----------------------------------------------------------------------------------------------------------

# Repeated warnings, errors and some routine lines are counted instead: nobody reads a line per stream and second.
#
# Lines are of one kind if they have the same level, event, reason and subject. The first line of a kind is logged at
# once. Errors may need a person, so the first error of each stream is logged, for up to ten streams. Repeats are held
# until the window ends, and then logged as one summary: what all the lines have in common, how many there were, since
# when, and for which streams. Windows grow while there are repeats. A kind without repeats in its window is forgotten,
# so that its next line counts as the first. What the log leaves out is in the journal, entry by entry.

FIRST_WINDOW_SECONDS = 10.0
MAX_WINDOW_SECONDS = 300.0
MAX_ERRORS_APART = 10
MAX_STREAMS = 100  # in one summary; more streams get another
MAX_KINDS = 100  # at a time; beyond that, all lines of a level are one kind
POLL_SECONDS = 1.0  # between checks of the windows

_REPEATED_LEVELS = frozenset({"warning", "error"})
# What ends for one stream ends for many, and each unreadable thread takes its sweep some ten smaller batches.
_REPEATED_EVENTS = frozenset({"database available again", "stream recovered", "batch size reduced"})
_REASONS = ("status", "reason", "problem", "error", "found", "exception")
_SUBJECTS = ("client", "destination", "keys", "view")  # there are few of each; streams are collected


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
            if event["level"] not in _REPEATED_LEVELS and event["event"] not in _REPEATED_EVENTS:
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
        try:
            async with running("log summaries", self._poll()):
                yield
        finally:
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
    return event["level"], event["event"], *(str(event.get(name, "")) for name in _REASONS + _SUBJECTS)
