"""Redaction: turns whatever leaves the process into plain, bounded values without secrets."""

import json
import math
import re
import reprlib
import sys
import traceback
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from pathlib import PurePath
from typing import Any, TypeAlias
from urllib.parse import quote, quote_plus

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
