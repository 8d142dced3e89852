"""Paging of lists: only while there is a `next`, and never by its URL, which holds the token.

Older forms of paging have no cursors: there a cursor of ours is the query of `next`, less what every request names
itself (captured: `until` and `__paging_token`, restfb#687).
"""

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from msgspec import Struct

from milepost.core.problems import Problem, ProblemKind
from milepost.facebook.leniency import elements_of, lenient, mended, parse_json
from milepost.facebook.problems import invalid_response, problem_of
from milepost.facebook.wire import Paging

MAX_CURSOR_CHARACTERS = 4096  # captured ones have about 200; more would not fit into a URL


MAX_LIMIT = 200  # as the settings allow: the API silently cuts larger ones
# What may come beyond what was asked for: the API has not been seen to give more, and a little more does no harm.
GRACE_FACTOR = 2
GRACE_COUNT = 200
QUERY = "?"  # begins a cursor that is a query; those of the API are base64
NOT_OF_THE_PLACE = frozenset({"access_token", "appsecret_proof", "fields", "format", "limit", "platform", "pretty"})


class NoCursor(ValueError):
    """A list has a next batch, but no usable cursor to it."""


class Listed(Struct, frozen=True):
    """A response that is a list: its items of any shape, not mended yet, and its paging."""

    items: list[Any]
    paging: Paging


def surplus(what: str, found: int, asked: int, http_status: int, grace: int = GRACE_COUNT) -> Problem | None:
    """Return the problem of a response with far more of something than was asked for; None otherwise."""
    if found <= GRACE_FACTOR * asked + grace:
        return None
    message = f"the response has {found:,} {what}, and {asked:,} were asked for"
    return Problem(ProblemKind.OVERSIZE, message, http_status=http_status)


def read_list(body: bytes, http_status: int, asked: int = MAX_LIMIT) -> Listed | Problem:
    """Decode a response that must be a list, whose items may be of any shape, of at most `asked` items and some."""
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


def has_next(paging: Paging | None) -> bool:
    """Return whether a list goes on. An empty text is no URL; following the cursor beside it begins at the head."""
    return paging is not None and paging.next not in (None, "")


def next_cursor(paging: Paging | None, edge_url: str) -> str | None:
    """Return the cursor of the next batch; None at the end, where there is a `cursors.after`, too.

    Raises NoCursor if there is a next batch but no usable cursor.
    """
    if paging is None or not has_next(paging):
        return None
    cursor = (paging.cursors.after if paging.cursors else None) or _cursor_of(paging.next, edge_url)
    if not cursor or len(cursor) > MAX_CURSOR_CHARACTERS:
        raise NoCursor("the response has a next batch but no usable cursor")
    return cursor


def place_of(cursor: str | None) -> dict[str, str]:
    """Return the parameters of a request that continue at a cursor."""
    if cursor is None:
        return {}
    return dict(parse_qsl(cursor.removeprefix(QUERY))) if cursor.startswith(QUERY) else {"after": cursor}


def older_cursor(paging: Paging | None) -> str | None:
    """Return the cursor of the messages after nested ones; None without a usable one."""
    cursor = paging.cursors.after if paging is not None and paging.cursors else None
    return cursor if cursor and len(cursor) <= MAX_CURSOR_CHARACTERS else None


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
