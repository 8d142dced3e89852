"""What a log line says: journal entries become events, secrets are redacted, and events become text."""

import json
import math
import re
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import PurePath
from typing import Any, NamedTuple, TextIO, TypeAlias, assert_never
from urllib.parse import quote, quote_plus

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from milepost.core import events
from milepost.core.checkpoint import Run
from milepost.core.events import Entry, RunStatus
from milepost.core.model import Stream
from milepost.engine.feed import Notice, Recorded, SlotWaited, StoreRetried, UnchangedRead, UsageReported
from milepost.reporting.describe import describe

# --- the journal ------------------------------------------------------------------------------------------------------


class JournalLog:
    """A reader of the feed that writes log lines. An unchanged batch has no entry, and so no line."""

    def __init__(self) -> None:
        self._failing_since: dict[Stream, datetime] = {}  # streams whose last run ended in an error

    def read(self, notice: Notice) -> None:
        """Log a notice."""
        match notice:
            case Recorded(entries=entries, checkpoint=checkpoint):
                for entry in entries:
                    _log_entry(entry, checkpoint.run)
                    self._log_recovery(entry)
            case StoreRetried() as retried:
                log: FilteringBoundLogger = structlog.get_logger("milepost")
                log.warning(
                    "database unavailable, retrying",
                    stream=retried.stream.key,
                    attempts=retried.attempts,
                    away_seconds=round(retried.away_seconds, 1),
                    wait_seconds=round(retried.wait_seconds, 1),
                    reason=retried.reason,
                )
            case UnchangedRead() | UsageReported() | SlotWaited():
                pass
            case unknown:
                assert_never(unknown)

    def _log_recovery(self, entry: Entry) -> None:
        """Log once that a stream makes progress again after a run that failed or was stopped."""
        match entry.event:
            case events.RunEnded(status=RunStatus.FAILED | RunStatus.STOPPED):
                self._failing_since.setdefault(entry.stream, entry.recorded_at)
            case events.BatchStored() | events.SweepCompleted() if entry.stream in self._failing_since:
                seconds = (entry.recorded_at - self._failing_since.pop(entry.stream)).total_seconds()
                log = structlog.get_logger("milepost", stream=entry.stream.key, run=entry.run_id)
                log.info("stream recovered", after_seconds=round(max(0.0, seconds), 1))
            case _:
                pass


def _log_entry(entry: Entry, run: Run | None) -> None:
    """Log an entry; `run` is the state of its run after the whole commit."""
    description = describe(entry, run)
    log: FilteringBoundLogger = structlog.get_logger("milepost", stream=entry.stream.key, run=entry.run_id)
    fields = _batch(entry.event, run) | description.fields
    if description.hint is not None:
        fields["hint"] = description.hint
    log.log(description.level, description.title, **fields)


def _batch(event: events.Event, run: Run | None) -> dict[str, int]:
    """Return the number of the event's batch in its run."""
    stored = run.tally.batches if run is not None else 0
    match event:
        case events.BatchStored() | events.DeadLetterOpened():  # committed together
            return {"batch": stored}
        case (
            events.FetchFailed()
            | events.BatchFailed()
            | events.RateLimited()
            | events.BatchShrunk()
            | events.CursorLost()
        ):
            return {"batch": stored + 1}
        case _:
            return {}


# --- redaction --------------------------------------------------------------------------------------------------------

# Whatever leaves the process becomes a plain, bounded value without secrets.

Plain: TypeAlias = "str | int | float | bool | list[Plain] | dict[str, Plain] | None"
"""What JSON can hold, without NaN, lone surrogates and integers that other readers would round."""

BLOT = "[secret]"
_MARK = "\ufdd0"  # a noncharacter (Unicode, 23.7), because a secret may be a part of BLOT
MIN_SECRET_LENGTH = 6  # a shorter one is part of many words, and redacting those would reveal it
MAX_TEXT_LENGTH = 16_384
MAX_ITEMS = 100
MAX_DEPTH = 6
_LEADING = ("timestamp", "level", "event", "repeated", "stream", "streams", "run", "batch")

# What yarl, and so aiohttp, leaves unquoted in a query besides what urllib leaves.
_UNQUOTED_IN_QUERIES = "/?:@!$'()*,"

_SECRET_KEYS = frozenset(
    {"access_token", "appsecret_proof", "app_secret", "client_secret", "input_token", "fb_exchange_token"}
)
_NUMBERS = {int, float}
_SCALARS = {str, bool, type(None), *_NUMBERS}
_SECRET_FIELDS = _SECRET_KEYS | {"token", "password", "authorization"}

# An unknown secret is recognised by what stands before it. A bare `access_token: …` is left alone: that is how prose
# about a key of config.yaml looks.
_ANNOUNCED = re.compile(
    rf"""(
        (?:{"|".join(sorted(_SECRET_KEYS))}) (?: (?:=|%3D) \\*["']? | \\*["']\s*:\s*\\*["'] )
      | \bAuthorization \\*["']? \s*[:=,]\s* b?\\*["']? (?:Bearer|Basic|OAuth|Token) \s+
      | \bBearer \s+ (?=[^\s"']{{16}})
      | [?&](?:oh|signature)=              # the signatures of fbcdn.net and lookaside.fbsbx.com
    ) [^\s&"'<>\\]+""",
    re.IGNORECASE | re.VERBOSE,
)
# In lower case: each match has one of these. Most texts have none, and the search for them takes a tenth of the time.
_ANNOUNCING = (*sorted(_SECRET_KEYS), "authorization", "bearer", "oh=", "signature=")
_PASSWORD_IN_URL = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)")
# How the Graph API's tokens begin; /me/accounts returns some that are in no configuration.
_GRAPH_TOKEN = re.compile(r"\b(?:EAA|IGAA|IGQV)[A-Za-z0-9_-]{24,}")


class Redactor:
    """Knows the secrets, and removes them from texts and values.

    It is the only object that holds all secrets, so its repr shows none. It never forgets a secret: log lines may still
    quote a token that a reload has replaced.
    """

    __slots__ = ("_known", "_spellings")

    def __init__(self, secrets: Iterable[str]) -> None:
        self._known: set[str] = set()
        self._spellings: tuple[str, ...] = ()
        for secret in secrets:
            self.learn(secret)

    def learn(self, secret: str) -> None:
        """Redact a secret from now on, also as URLs, JSON or a repr spell it.

        A secret with fewer than six characters is ignored. A known one costs nothing: each discovery and each reload
        brings all of them again.
        """
        secret = secret.strip()
        if len(secret) < MIN_SECRET_LENGTH or secret in self._known:
            return
        self._known.add(secret)
        spellings = {
            secret,
            quote(secret, safe=""),
            quote(secret, safe=_UNQUOTED_IN_QUERIES),
            quote_plus(secret),
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            repr(secret)[1:-1],
        }
        # Longest first: if one secret contains another, nothing of the longer one may be left.
        self._spellings = tuple(
            sorted(spellings.union(self._spellings), key=lambda spelling: (-len(spelling), spelling))
        )

    def redact(self, text: str) -> str:
        """Return the text with `[secret]` for every known secret, and for those recognised by the text before them."""
        for spelling in self._spellings:
            text = text.replace(spelling, _MARK)
        text = text.replace(_MARK, BLOT)
        if _may_announce(text):
            text = _ANNOUNCED.sub(rf"\g<1>{BLOT}", text)
        text = _PASSWORD_IN_URL.sub(rf"\g<1>{BLOT}", text)
        return _GRAPH_TOKEN.sub(BLOT, text)

    def clean(self, value: object, *, depth: int = 0) -> Plain:
        """Return any value as plain data without secrets, even if its repr raises.

        Texts, collections and nesting are cut only after the redaction: half a secret would not be recognised.
        """
        match value:
            case None | bool():
                return value
            case int():
                return int(value) if abs(value) < 2**63 else self._clean_text(hex(value))
            case float():
                return float(value) if math.isfinite(value) else str(float(value))
            case dict() if depth < MAX_DEPTH:
                return self.clean_fields(value, depth=depth + 1)
            case list() | tuple() | set() | frozenset() if depth < MAX_DEPTH:
                items = [self.clean(item, depth=depth + 1) for item in islice(value, MAX_ITEMS)]
                items = sorted(items, key=repr) if isinstance(value, set | frozenset) else items
                return [*items, f"… {len(value) - MAX_ITEMS} more"] if len(value) > MAX_ITEMS else items
            case _:
                return self._clean_text(_text(value))

    def clean_fields(self, fields: Mapping[Any, object], *, depth: int = 1) -> dict[str, Plain]:
        """Return the fields as plain data without secrets; a field with the name of a secret is redacted."""
        if self._are_clean(fields):
            return dict(fields)
        cleaned: dict[str, Plain] = {}
        for key, value in islice(fields.items(), MAX_ITEMS):
            name = self._clean_text(_text(key))
            hidden = name.lower() in _SECRET_FIELDS and isinstance(value, str | bytes) and value
            cleaned[name] = BLOT if hidden else self.clean(value, depth=depth)
        if len(fields) > MAX_ITEMS:
            cleaned["…"] = f"{len(fields) - MAX_ITEMS} more"
        return cleaned

    def _are_clean(self, fields: Mapping[Any, Any]) -> bool:
        """Return whether there is nothing to clean, as in nearly every line. All texts are searched together."""
        kinds = set(map(type, fields.values()))
        if len(fields) > MAX_ITEMS or not kinds <= _SCALARS or set(map(type, fields)) != {str}:
            return False
        if not all(abs(each) < 2**53 for each in fields.values() if type(each) in _NUMBERS):
            return False
        text = "\n".join([*fields, *[each for each in fields.values() if type(each) is str]])
        is_short = text.isascii() and len(text) <= MAX_TEXT_LENGTH
        return is_short and _SECRET_FIELDS.isdisjoint(map(str.lower, fields)) and self.redact(text) == text

    def _clean_text(self, text: str) -> str:
        text = self.redact(text).encode("utf-8", "backslashreplace").decode()  # no encoder takes lone surrogates
        if len(text) <= MAX_TEXT_LENGTH:
            return text
        half = MAX_TEXT_LENGTH // 2  # the end of a traceback matters as much as its beginning
        return f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"


def _may_announce(text: str) -> bool:
    """Return whether a secret may stand in a text, by what stands before it."""
    lower = text.lower()
    # Beyond ASCII, letters without a lower case match as well: re takes the long s for an s.
    return not text.isascii() or any(word in lower for word in _ANNOUNCING)


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case bytes() | bytearray() | memoryview():
            return bytes(value).decode("utf-8", "backslashreplace")
        case BaseException():
            return "".join(traceback.format_exception_only(value)).strip()
        case datetime():
            return value.isoformat()
        case PurePath():
            return str(value)
        case _:
            shown = reprlib.Repr()  # its repr_instance also handles a repr that raises
            shown.maxother = sys.maxsize
            return shown.repr_instance(value, 1)


def redacted(_: WrappedLogger, __: str, event: EventDict, *, redactor: Redactor) -> dict[str, Plain]:
    """Return an event without secrets, the fields that most events have first."""
    cleaned = redactor.clean_fields(event)
    return {key: cleaned[key] for key in _LEADING if key in cleaned} | cleaned


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
    name = _printable(_as_text(event.pop("event")))
    pairs = " ".join(f"{paint('36', key)}={value}" for key, value in _pairs(event))
    head = f"{paint('2', time)} {paint(level.colour, f'{level.word:5}')} {paint('1', f'{name:14}' if pairs else name)}"
    return f"{head} {pairs}".rstrip() + _below(exception)


def journal_fields(_: WrappedLogger, __: str, event: EventDict) -> dict[str, str | list[str]]:
    """Render an event as the fields of a journald entry (systemd.journal-fields(7))."""
    del event["timestamp"]  # journald has its own
    fields: dict[str, str | list[str]] = {
        "PRIORITY": str(_LEVELS[event.pop("level")].priority),
        "SYSLOG_IDENTIFIER": "milepost",
        **{field: _as_text(event.pop(key)) for key, field in CALLSITE.items() if key in event},
    }
    fields |= {_field_name(key): _as_text(value) for key, value in event.items() if value is not None}
    names = event.get("streams")
    if isinstance(names, list):  # so that a search for MILEPOST_STREAM finds each of them
        del fields[_field_name("streams")]
        fields[_field_name("stream")] = names
    exception = event.pop("exception", None)
    name = _printable(_as_text(event.pop("event")))
    fields["MESSAGE"] = " ".join([name, *(f"{key}={value}" for key, value in _pairs(event))]) + _below(exception)
    return fields


def _field_name(key: str) -> str:
    return f"MILEPOST_{re.sub('[^A-Z0-9_]', '_', key.upper())}"[:_MAX_FIELD_NAME_LENGTH]


def _pairs(event: EventDict) -> Iterator[tuple[str, str]]:
    for key, value in event.items():
        text = _first_names(value) if key == "streams" and isinstance(value, list) else _as_text(value)
        is_plain = text.isprintable() and _PLAIN.fullmatch(text)
        yield _printable(key), text if is_plain else repr(text)  # repr escapes whatever is not printable


def _as_text(value: Plain) -> str:
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
