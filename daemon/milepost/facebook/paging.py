"""Lists, and how they go on: only where there is a `next`, and by its cursor alone, for the URL has the token in it."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

from milepost.core.problems import Problem
from milepost.facebook.leniency import lenient, read_json
from milepost.facebook.problems import nonsense, problem_of
from milepost.facebook.wire import Paging

MAX_CURSOR_CHARACTERS = 4096  # captured ones have about 200; more would not fit into a URL


class NoCursor(ValueError):
    """A list goes on and does not say where."""


class Listed(Struct, frozen=True):
    """An answer that is a list: its items, whatever they are, and how it goes on."""

    items: list[Any]
    paging: Paging


def read_list(body: bytes, http_status: int, access_token: str) -> Listed | Problem:
    """Read an answer that has to be a list, whose items may be of any shape."""
    try:
        value = read_json(body)
    except ValueError:
        return problem_of(body, http_status, access_token)
    if not isinstance(value, dict) or value.get("error") is not None or not isinstance(value.get("data"), list):
        return problem_of(body, http_status, access_token)
    paging = value.get("paging") or {}  # PHP writes an empty object as []
    if not isinstance(paging, dict):
        return nonsense("the answer has a paging that is no object", http_status)
    return Listed(value["data"], lenient(paging, Paging))


def next_cursor(paging: Paging | None, edge_url: str) -> str | None:
    """Give the cursor of the next batch; None at the end, where `cursors.after` is, too.

    Raises NoCursor where the list goes on and no cursor is usable.
    """
    if paging is None or paging.next is None:
        return None
    cursor = (paging.cursors.after if paging.cursors else None) or _cursor_of(paging.next, edge_url)
    if not cursor or len(cursor) > MAX_CURSOR_CHARACTERS:
        raise NoCursor("the answer has a next batch but no usable cursor")
    return cursor


def _cursor_of(next_url: object, edge_url: str) -> str | None:
    """Take the cursor out of a `next` that leads to the edge that was asked, whatever version it names."""
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
