"""Logs: one event a line, for people, for machines or for systemd's journal, and never with a secret.

Every event, from structlog's loggers and the standard library's, goes through one list of processors to one output:

    bound context, level, time, traceback, lost lines → Deduplicator → Redactor → renderer → LineOutput | JournaldOutput

A line that cannot be written is counted and dropped: logging neither delays nor breaks the work.
"""

import json
import logging
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple, TextIO

import structlog
from logging_journald import JournaldTransport  # type: ignore[import-untyped]  # annotated, but ships no py.typed
from structlog.processors import CallsiteParameter, CallsiteParameterAdder
from structlog.typing import EventDict, Processor, WrappedLogger

from milepost.service.logs.processors import Deduplicator, Plain, Redactor

Format = Literal["auto", "console", "json"]

MAX_WAIT_SECONDS = 0.1
_LEADING = ("timestamp", "level", "event", "repeated", "stream", "streams", "run", "batch")


def configure(
    format: Format,  # noqa: A002  # the name of the setting
    level: str,
    redactor: Redactor,
    *,
    stream: TextIO,
    environment: Mapping[str, str],
) -> Deduplicator:
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
    clean: Processor = partial(_redact, redactor)
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


def _redact(redactor: Redactor, _: WrappedLogger, __: str, event: EventDict) -> dict[str, Plain]:
    cleaned = redactor.clean_fields(event)
    return {key: cleaned[key] for key in _LEADING if key in cleaned} | cleaned


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


# --- events as text ---------------------------------------------------------------------------------------------------

MAX_NAMES = 5  # of streams, in a line for people
CALLSITE = {"pathname": "CODE_FILE", "lineno": "CODE_LINE", "func_name": "CODE_FUNC"}
_PLAIN = re.compile(r"""[^ ='"\\]+""")  # needs no quotes
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_MAX_FIELD_NAME_LENGTH = 64  # journald drops a field with a longer name


class _Level(NamedTuple):
    priority: int  # of syslog(3)
    word: str
    colour: str  # an ANSI SGR code


_LEVELS: Mapping[str, _Level] = {
    "debug": _Level(7, "debug", "2"),
    "info": _Level(6, "info", "32"),
    "warning": _Level(4, "warn", "33"),
    "error": _Level(3, "error", "31"),
    "critical": _Level(2, "fatal", "1;31"),
}

Painter = Callable[[str, str], str]  # an ANSI SGR code and a text


def json_line(_: WrappedLogger, __: str, event: EventDict) -> str:
    """Render an event as JSON, in ASCII: nothing in it can break a line or drive a terminal."""
    return json.dumps(event)


def console_line(_: WrappedLogger, __: str, event: EventDict, *, paint: Painter) -> str:
    """Render an event as a line for people, with its traceback below."""
    level = _LEVELS[event.pop("level")]
    time = event.pop("timestamp")[:19].replace("T", " ")
    exception = event.pop("exception", None)
    name = _printable(_text(event.pop("event")))
    pairs = " ".join(f"{paint('36', key)}={value}" for key, value in _pairs(event))
    head = f"{paint('2', time)} {paint(level.colour, f'{level.word:5}')} {paint('1', f'{name:14}' if pairs else name)}"
    return f"{head} {pairs}".rstrip() + _below(exception)


def journal_fields(_: WrappedLogger, __: str, event: EventDict) -> dict[str, str | list[str]]:
    """Render an event as the fields of a journald entry (systemd.journal-fields(7))."""
    del event["timestamp"]  # journald has its own
    fields: dict[str, str | list[str]] = {
        "PRIORITY": str(_LEVELS[event.pop("level")].priority),
        "SYSLOG_IDENTIFIER": "milepost",
        **{field: _text(event.pop(key)) for key, field in CALLSITE.items() if key in event},
    }
    fields |= {_field_name(key): _text(value) for key, value in event.items() if value is not None}
    names = event.get("streams")
    if isinstance(names, list):  # so that a search for MILEPOST_STREAM finds each of them
        del fields[_field_name("streams")]
        fields[_field_name("stream")] = names
    exception = event.pop("exception", None)
    name = _printable(_text(event.pop("event")))
    fields["MESSAGE"] = " ".join([name, *(f"{key}={value}" for key, value in _pairs(event))]) + _below(exception)
    return fields


def _field_name(key: str) -> str:
    return f"MILEPOST_{re.sub('[^A-Z0-9_]', '_', key.upper())}"[:_MAX_FIELD_NAME_LENGTH]


def _pairs(event: EventDict) -> Iterator[tuple[str, str]]:
    for key, value in event.items():
        text = _first_names(value) if key == "streams" and isinstance(value, list) else _text(value)
        is_plain = text.isprintable() and _PLAIN.fullmatch(text)
        yield _printable(key), text if is_plain else repr(text)  # repr escapes whatever is not printable


def _text(value: Plain) -> str:
    return value if isinstance(value, str) else _COMPACT.encode(value)


def _first_names(names: list[str]) -> str:
    rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{' '.join(names[:MAX_NAMES])}{rest}"


def _printable(text: str) -> str:
    """Escape line ends, control characters, ANSI sequences and bidirectional overrides: they could forge log lines."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _below(exception: str | None) -> str:
    """Return a traceback as indented lines to put below its event, so that none of them looks like an event."""
    return "".join(f"\n    {_printable(line)}" for line in exception.splitlines()) if exception else ""


def painter(stream: TextIO, environment: Mapping[str, str]) -> Painter:
    """Return a function that colours text, or leaves it alone if the stream is not a terminal with colours."""
    if not stream.closed and stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb":
        return lambda colour, text: f"\x1b[{colour}m{text}\x1b[0m"
    return lambda _, text: text
