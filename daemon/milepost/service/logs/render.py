"""Log events as text: a line of JSON, a line for people, or the fields of a journald entry."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TextIO

from structlog.typing import EventDict, WrappedLogger

from milepost.service.logs.redaction import Plain

MAX_NAMES = 5  # of streams, in a line for people
CALLSITE = {"pathname": "CODE_FILE", "lineno": "CODE_LINE", "func_name": "CODE_FUNC"}
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
    if isinstance(names, list):  # so that MILEPOST_STREAM finds each of them
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
        plain = text.isprintable() and text and not set(text) & set(" ='\"\\")
        yield _printable(key), text if plain else repr(text)  # repr escapes all that is not printable


def _text(value: Plain) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _first_names(names: list[str]) -> str:
    rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{' '.join(names[:MAX_NAMES])}{rest}"


def _printable(text: str) -> str:
    """Escape line ends, controls, ANSI sequences and bidirectional overrides, which could forge what a reader sees."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _below(exception: str | None) -> str:
    """Return a traceback as indented lines below its event, so that none of them can pass for an event."""
    return "".join(f"\n    {_printable(line)}" for line in exception.splitlines()) if exception else ""


def painter(stream: TextIO, environment: Mapping[str, str]) -> Painter:
    """Return a function that colours text, where the stream is a terminal that wants colours."""
    if not stream.closed and stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb":
        return lambda colour, text: f"\x1b[{colour}m{text}\x1b[0m"
    return lambda _, text: text
