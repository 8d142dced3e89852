"""Response headers: how much of each rate limit budget is used up, how long to wait, and the server's time.

Meta, "Rate limits": three headers hold JSON in a string, on errors too. Old forms and unknown keys occur, and a key can
occur twice in one object. What cannot be parsed is ignored: a header never spoils a response.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from msgspec import Struct

from milepost.core.model import Scope
from milepost.core.ports import Usage

KINDS = ("call_count", "total_time", "total_cputime")
# Meta, "Business use case rate limits": the `type` of the entries that the code of an error is about.
TYPES = {
    80000: "ads_insights",
    80001: "pages",
    80002: "instagram",
    80003: "custom_audience",
    80004: "ads_management",
    80005: "leadgen",
    80006: "messenger",
}
MAX_WAIT_SECONDS = 86400.0
MAX_NUMBER = 100_000.0  # percent or minutes
NUMBER = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*%?\s*", re.ASCII)
SECONDS = re.compile(r"\s*\d{1,9}\s*", re.ASCII)

Members = tuple[tuple[str, object], ...]  # a JSON object, with each key as often as it occurs


class Entry(Struct, frozen=True):
    """An entry of X-Business-Use-Case-Usage: a budget of the page, Instagram account or business `owner_id`."""

    owner_id: str
    members: Members

    @property
    def type(self) -> object:
        """The use case, such as pages, messenger or instagram."""
        return dict(self.members).get("type")

    @property
    def regain_minutes(self) -> float:
        """Minutes until calls are possible again; 0 if not given."""
        given = (_number(value) for name, value in self.members if name == "estimated_time_to_regain_access")
        return max((minutes for minutes in given if minutes), default=0.0)


def usages(headers: Mapping[str, str], own_ids: frozenset[str]) -> tuple[Usage, ...]:
    """Return the used share of each budget, the fullest of several. `own_ids` are the page's and its account's."""
    page = list(_members(_read(headers.get("X-Page-Usage"))))
    for entry in _concerning(_entries(headers), own_ids):
        page += entry.members
    app = _members(_read(headers.get("X-App-Usage")))
    return (*_fullest(Scope.APP, app), *_fullest(Scope.PAGE, page))


def wait_seconds(headers: Mapping[str, str], code: int | None, own_ids: frozenset[str]) -> float | None:
    """Return how long the server asks to wait after an error with this code; None if it does not say."""
    entries = _concerning(_entries(headers), own_ids)
    named = [entry for entry in entries if code in TYPES and entry.type == TYPES[code]]
    minutes = max((entry.regain_minutes for entry in named or entries), default=0.0)
    return min(max(retry_after_seconds(headers), minutes * 60), MAX_WAIT_SECONDS) or None


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """Parse Retry-After: seconds, or an instant by the server's own clock (RFC 9110, section 10.2.3); 0 if invalid."""
    retry_after = headers.get("Retry-After", "")
    if SECONDS.fullmatch(retry_after):
        return float(retry_after)
    until, now = http_date(retry_after), http_date(headers.get("Date"))
    return max((until - now).total_seconds(), 0.0) if until and now else 0.0


def asked_by_server(date: str | None, took_seconds: float) -> datetime | None:
    """Return the time of the request by the server's clock, from its Date header; None if that is missing or invalid.

    The duration of the request is subtracted and fractions are dropped, so that it errs on the early side.
    """
    answered_at = http_date(date)
    try:
        return (answered_at - timedelta(seconds=took_seconds)).replace(microsecond=0) if answered_at else None
    except OverflowError:
        return None


def http_date(text: str | None) -> datetime | None:
    """Parse an instant such as `Sun, 01 Feb 2026 08:00:00 GMT` (RFC 9110, section 5.6.7); None if it is invalid."""
    if text is None:
        return None
    try:
        instant = parsedate_to_datetime(text)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _concerning(entries: list[Entry], own_ids: frozenset[str]) -> list[Entry]:
    """Return our own entries; without any, the ids may be a business's, and all of them may concern us."""
    return [entry for entry in entries if entry.owner_id in own_ids] or entries


def _entries(headers: Mapping[str, str]) -> list[Entry]:
    """Return all entries of X-Business-Use-Case-Usage; an id has one or several, and may occur twice."""
    return [
        Entry(owner_id, element)
        for owner_id, value in _members(_read(headers.get("X-Business-Use-Case-Usage")))
        for element in (value if isinstance(value, list) else [value])
        if isinstance(element, tuple)
    ]


def _fullest(scope: Scope, members: Iterable[tuple[str, object]]) -> Iterator[Usage]:
    percents: dict[str, float] = {}
    for kind, value in members:
        percent = _number(value)
        if kind in KINDS and percent is not None:
            percents[kind] = max(percents.get(kind, 0.0), percent)
    for kind, percent in percents.items():
        yield Usage(scope, kind, percent / 100)


def _members(value: object) -> Members:
    return value if isinstance(value, tuple) else ()


def _read(header: str | None) -> object:
    """Parse a header: objects as tuples of their members, arrays as lists. An old form is a bare `17%`."""
    if not header:
        return None
    if NUMBER.fullmatch(header):
        return (("call_count", header),)
    try:
        # Meta's documentation shows a header in single quotes.
        return json.loads(header if '"' in header else header.replace("'", '"'), object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None


def _number(value: object) -> float | None:
    """Parse a number that may be a string with a percent sign; None for anything but a number from 0 on."""
    match value:
        case str() if found := NUMBER.fullmatch(value):
            return min(float(found[1]), MAX_NUMBER)
        case int() | float() if not isinstance(value, bool) and value >= 0:  # no NaN is
            return float(min(value, MAX_NUMBER))
        case _:
            return None
