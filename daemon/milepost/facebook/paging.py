"""Paging of lists: only while there is a `next`, and by its cursor alone, because the URL holds the token."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

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


def next_cursor(paging: Paging | None, edge_url: str, http_status: int) -> str | Problem | None:
    """Return the cursor of the next batch; None at the end, where there is a `cursors.after`, too."""
    if paging is None or not has_next(paging):
        return None
    cursor = (paging.cursors.after if paging.cursors else None) or _cursor_of(paging.next, edge_url)
    if not cursor or len(cursor) > MAX_CURSOR_CHARACTERS:
        return invalid_response("the response has a next batch but no usable cursor", http_status)
    return cursor


def older(paging: Paging | None) -> tuple[bool, str | None]:
    """Return whether there are messages after nested ones, and the cursor to them if there is a usable one."""
    if paging is None or paging.next is None:
        return False, None
    cursor = paging.cursors.after if paging.cursors else None
    return True, cursor if cursor and len(cursor) <= MAX_CURSOR_CHARACTERS else None


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
    return parse_qs(theirs.query).get("after", [None])[0]
