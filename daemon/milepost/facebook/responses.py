"""Reads responses: a list with its paging, or a problem; and the headers.

A list continues only while there is a `next`, but its URL is never followed, because it holds the token. Older forms of
paging have no cursors; for them our cursor is the query of `next` without the parameters that every request sets itself
(captured: `until` and `__paging_token`, restfb#687). A problem is an error envelope, or a form that the Graph API never
sends.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from msgspec import Struct

from milepost.core.ports import Usage
from milepost.core.problems import MAX_MESSAGE_CHARACTERS, Problem, ProblemKind, Scope
from milepost.core.texts import visible
from milepost.facebook.leniency import elements_of, lenient, mended, parse_json, read_json
from milepost.facebook.redaction import impersonal, redact
from milepost.facebook.wire import MAX_CURSOR_CHARACTERS, Paging, has_next

MAX_LIMIT = 200  # as the settings allow: the API silently cuts larger ones
# How much more than requested is accepted: the API has not been seen to send more, and a little more does no harm.
GRACE_FACTOR = 2
GRACE_COUNT = 200
QUERY = "?"  # the prefix of a cursor that is a query; the API's cursors are base64
NOT_OF_THE_PLACE = frozenset({"access_token", "appsecret_proof", "fields", "format", "limit", "platform", "pretty"})
MAX_REDACTED_CHARACTERS = 64 * MAX_MESSAGE_CHARACTERS  # of a message, which may have millions
MAX_EXCERPT_CHARACTERS = 200
MAX_EXCERPT_BYTES = 4096
MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^<>]*>", re.IGNORECASE | re.DOTALL)
UNREADABLE = re.compile(r"[\x00\ufffd]+")  # a page in another encoding, or none


# --- lists ------------------------------------------------------------------------------------------------------------


class Listed(Struct, frozen=True):
    """A list response: its items, of any shape and not mended yet, and its paging."""

    items: list[Any]
    paging: Paging


def surplus(what: str, found: int, asked: int, http_status: int, grace: int = GRACE_COUNT) -> Problem | None:
    """Return the problem of a response with far more of something than was requested; None otherwise."""
    if found <= GRACE_FACTOR * asked + grace:
        return None
    message = f"the response has {found:,} {what}, and {asked:,} were asked for"
    return Problem(ProblemKind.OVERSIZE, message, http_status=http_status)


def read_list(body: bytes, http_status: int, asked: int = MAX_LIMIT) -> Listed | Problem:
    """Decode a response that must be a list of hardly more than `asked` items; items may have any shape."""
    try:
        value = parse_json(body)
    except ValueError:
        return problem_of(body, http_status)
    data = value.get("data") if isinstance(value, dict) and value.get("error") is None else None
    if not isinstance(data, list) and not (isinstance(data, dict) and data):  # PHP writes an empty list as []
        return problem_of(body, http_status)
    paging = value.get("paging") or {}  # PHP writes an empty object as []
    if not isinstance(paging, dict):
        return invalid_response("the response has a paging that is not an object", http_status)
    elements = elements_of(data)
    too_many = surplus("items", len(elements), asked, http_status)
    return too_many or Listed(elements, lenient(mended(paging)[0], Paging))


def next_cursor(paging: Paging | None, edge_url: str, http_status: int) -> str | Problem | None:
    """Return the cursor of the next batch; None at the end, even though `cursors.after` is present there."""
    if paging is None or not has_next(paging):
        return None
    cursor = (paging.cursors.after if paging.cursors else None) or _cursor_of(paging.next, edge_url)
    if not cursor or len(cursor) > MAX_CURSOR_CHARACTERS:
        return invalid_response("the response has a next batch but no usable cursor", http_status)
    return cursor


def _cursor_of(next_url: object, edge_url: str) -> str | None:
    """Return the cursor of a `next` URL of the requested edge, whatever API version it names."""
    if not isinstance(next_url, str):
        return None
    try:
        theirs, ours = urlsplit(next_url), urlsplit(edge_url)
    except ValueError:
        return None
    if (theirs.scheme, theirs.netloc) != (ours.scheme, ours.netloc):
        return None
    if theirs.path.split("/")[-2:] != ours.path.split("/")[-2:]:
        return None
    place = {name: text for name, text in parse_qsl(theirs.query) if name not in NOT_OF_THE_PLACE}
    return place.get("after") or (f"{QUERY}{urlencode(place)}" if place else None)


def place_of(cursor: str | None) -> dict[str, str]:
    """Return the parameters of a request that continue at a cursor."""
    if cursor is None:
        return {}
    return dict(parse_qsl(cursor.removeprefix(QUERY))) if cursor.startswith(QUERY) else {"after": cursor}


# --- problems ---------------------------------------------------------------------------------------------------------


def problem_of(body: bytes, http_status: int) -> Problem:
    """Return the problem of a response that held no usable data."""
    try:
        value = read_json(body)
    except ValueError:
        return _not_json(body, http_status)
    if isinstance(value, dict) and value.get("error") is not None:
        return problem_of_error(value["error"], http_status)
    return invalid_response("the response is JSON but neither a batch nor an error", http_status)


def problem_of_error(error: Any, http_status: int) -> Problem:  # noqa: ANN401 -- JSON of any shape
    """Return the problem that an error envelope describes. Real ones may lack fields and have numbers as strings."""
    fields = error if isinstance(error, dict) else {"message": error}
    messages = (fields.get(name) for name in ("message", "error_user_msg", "error_user_title", "type"))
    message = next((each for each in messages if isinstance(each, str) and each.strip()), "an error without a message")
    return Problem(
        ProblemKind.API,
        visible(impersonal(redact(message[:MAX_REDACTED_CHARACTERS]), MAX_MESSAGE_CHARACTERS))[:MAX_MESSAGE_CHARACTERS],
        http_status=http_status,
        code=_number(fields.get("code")),
        subcode=_number(fields.get("error_subcode")),
        is_transient=_flag(fields.get("is_transient")),
    )


def invalid_response(message: str, http_status: int) -> Problem:
    """Return the problem of a response that cannot be interpreted. The message may quote only redacted text."""
    return Problem(ProblemKind.INVALID_RESPONSE, message[:MAX_MESSAGE_CHARACTERS], http_status=http_status)


def _not_json(body: bytes, http_status: int) -> Problem:
    if not body.strip():
        return invalid_response("the response is empty", http_status)
    if body.lstrip()[:1] in (b"{", b"["):
        return invalid_response("the response is JSON cut short, malformed or nested too deeply", http_status)
    if body.lstrip()[:1] != b"<":
        return invalid_response("the response is not JSON", http_status)  # quoting it might quote a conversation
    text = html.unescape(MARKUP.sub(" ", body[:MAX_EXCERPT_BYTES].decode(errors="replace")))
    excerpt = impersonal(redact(visible(UNREADABLE.sub(" ", text))), MAX_EXCERPT_CHARACTERS)
    return invalid_response(f"the response is not JSON: {excerpt}", http_status)


def _number(value: object) -> int | None:
    match value:
        case bool():
            return None
        case int() if abs(value) < 2**63:
            return value
        case str() if value.isascii() and value.isdigit() and len(value) < 19:
            return int(value)
        case _:
            return None


def _flag(value: object) -> bool | None:
    match value:
        case bool():
            return value
        case "true" | "false":
            return value == "true"
        case _:
            return None


# --- headers ----------------------------------------------------------------------------------------------------------

# They say how much of each budget is used, how long to wait, and the server's time. Three headers hold JSON in a
# string, on errors too (Meta, "Rate limits"). Old forms and unknown keys occur, and a key can occur twice in one
# object. What cannot be parsed is ignored, so that a header never spoils a response.

USAGE_KINDS = ("call_count", "total_time", "total_cputime")
# Meta, "Business use case rate limits": by error code, the `type` of the entries that it concerns.
USE_CASES = {
    80000: "ads_insights",
    80001: "pages",
    80002: "instagram",
    80003: "custom_audience",
    80004: "ads_management",
    80005: "leadgen",
    80006: "messenger",
}
MAX_WAIT_SECONDS = 86400.0
MAX_AMOUNT = 100_000.0  # percent or minutes
AMOUNT = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*%?\s*", re.ASCII)
SECONDS = re.compile(r"\s*\d{1,9}\s*", re.ASCII)

Members = tuple[tuple[str, object], ...]  # a JSON object, with each key as often as it occurs


class _Entry(Struct, frozen=True):
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
        given = (_amount(value) for name, value in self.members if name == "estimated_time_to_regain_access")
        return max((minutes for minutes in given if minutes), default=0.0)


def usages(headers: Mapping[str, str], own_ids: frozenset[str]) -> tuple[Usage, ...]:
    """Return the used share of each budget, from its fullest entry. `own_ids` are the page's and its account's."""
    page = list(_members(_parsed(headers.get("X-Page-Usage"))))
    for entry in _concerning(_entries(headers), own_ids):
        page += entry.members
    app = _members(_parsed(headers.get("X-App-Usage")))
    return (*_fullest(Scope.APP, app), *_fullest(Scope.PAGE, page))


def wait_seconds(headers: Mapping[str, str], code: int | None, own_ids: frozenset[str]) -> float | None:
    """Return how long the server asks to wait after an error with this code; None if it does not say."""
    entries = _concerning(_entries(headers), own_ids)
    named = [entry for entry in entries if code in USE_CASES and entry.type == USE_CASES[code]]
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

    The duration of the request is subtracted and fractions are dropped, so that the time is early rather than late.
    """
    answered_at = http_date(date)
    try:
        return (answered_at - timedelta(seconds=took_seconds)).replace(microsecond=0) if answered_at else None
    except OverflowError:
        return None


@lru_cache(maxsize=16)  # the responses of one second have the same Date
def http_date(text: str | None) -> datetime | None:
    """Parse an instant such as `Sun, 01 Feb 2026 08:00:00 GMT` (RFC 9110, section 5.6.7); None if it is invalid."""
    if text is None:
        return None
    try:
        instant = parsedate_to_datetime(text)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _concerning(entries: list[_Entry], own_ids: frozenset[str]) -> list[_Entry]:
    """Return our own entries. If there are none, return all: the ids may be a business's, and concern us."""
    return [entry for entry in entries if entry.owner_id in own_ids] or entries


def _entries(headers: Mapping[str, str]) -> list[_Entry]:
    """Return all entries of X-Business-Use-Case-Usage; an id has one or several, and may occur twice."""
    return [
        _Entry(owner_id, element)
        for owner_id, value in _members(_parsed(headers.get("X-Business-Use-Case-Usage")))
        for element in (value if isinstance(value, list) else [value])
        if isinstance(element, tuple)
    ]


def _fullest(scope: Scope, members: Iterable[tuple[str, object]]) -> Iterator[Usage]:
    percents: dict[str, float] = {}
    for kind, value in members:
        percent = _amount(value)
        if kind in USAGE_KINDS and percent is not None:
            percents[kind] = max(percents.get(kind, 0.0), percent)
    for kind, percent in percents.items():
        yield Usage(scope, kind, percent / 100)


def _members(value: object) -> Members:
    return value if isinstance(value, tuple) else ()


def _parsed(header: str | None) -> object:
    """Parse a header: objects as tuples of their members, arrays as lists. An old form is a bare `17%`."""
    if not header:
        return None
    if AMOUNT.fullmatch(header):
        return (("call_count", header),)
    try:
        # Meta's documentation shows a header in single quotes.
        return json.loads(header if '"' in header else header.replace("'", '"'), object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None


def _amount(value: object) -> float | None:
    """Parse a number that may be a string with a percent sign; None unless it is a number of at least 0."""
    match value:
        case str() if found := AMOUNT.fullmatch(value):
            return min(float(found[1]), MAX_AMOUNT)
        case int() | float() if not isinstance(value, bool) and value >= 0:  # false for NaN
            return float(min(value, MAX_AMOUNT))
        case _:
            return None
