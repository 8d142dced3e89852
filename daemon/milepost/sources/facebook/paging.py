"""How lists go on: only where there is a `next`, and by its cursor alone, for the URL has the access token in it."""

from urllib.parse import parse_qs, urlsplit

from milepost.sources.facebook.wire import Paging

MAX_CURSOR_CHARACTERS = 4096  # captured ones have about 200; more would not fit into a URL


class NoCursor(ValueError):
    """A list goes on and does not say where."""


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
