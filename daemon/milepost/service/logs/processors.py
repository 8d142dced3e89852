"""What every event passes before it is written: secrets are redacted, and repeats are counted instead of logged."""

import asyncio
import json
import math
import re
import reprlib
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice
from pathlib import PurePath
from typing import Any, TypeAlias
from urllib.parse import quote, quote_plus

from structlog import DropEvent
from structlog.typing import EventDict, WrappedLogger

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

# What yarl, and so aiohttp, leaves unquoted in a query besides what urllib leaves.
_UNQUOTED_IN_QUERIES = "/?:@!$'()*,"

_SECRET_KEYS = frozenset(
    {"access_token", "appsecret_proof", "app_secret", "client_secret", "input_token", "fb_exchange_token"}
)
_SCALARS = {str, int, float, bool, type(None)}
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

    __slots__ = ("_spellings",)

    def __init__(self, secrets: Iterable[str]) -> None:
        self._spellings: tuple[str, ...] = ()
        for secret in secrets:
            self.learn(secret)

    def learn(self, secret: str) -> None:
        """Redact a secret from now on, also as URLs, JSON or a repr spell it.

        A secret with fewer than six characters is ignored.
        """
        secret = secret.strip()
        if len(secret) < MIN_SECRET_LENGTH:
            return
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
        if any(isinstance(each, int | float) and not abs(each) < 2**53 for each in fields.values()):
            return False
        texts = [*fields, *(each for each in fields.values() if isinstance(each, str))]
        text = "\n".join(texts)
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


# --- repeats ----------------------------------------------------------------------------------------------------------

# Repeated warnings and errors are counted instead of logged: nobody reads a line per stream and second.
#
# Lines are of one kind if they have the same level, event and reason (or client). The first line of a kind is logged at
# once. Errors may need a person, so the first error of each stream is logged, for up to ten streams. Repeats are held
# until the window ends, and then logged as one summary: what all the lines have in common, how many there were, since
# when, and for which streams. Windows grow while there are repeats. A kind without repeats in its window is forgotten,
# so that its next line counts as the first.
#
# What the log leaves out is in the journal, entry by entry.

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
