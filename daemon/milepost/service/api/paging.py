"""Lists a page at a time: how many there may be on it, and where the next begins."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from msgspec import Meta

Item = TypeVar("Item")
Cursor = TypeVar("Cursor")

Limit = Annotated[int, Meta(ge=1, le=1000, description="how many are given at most")]
StreamKey = Annotated[
    str, Meta(pattern=r"^(messenger|instagram):[^/\s]+$", max_length=200, description="only this stream's")
]

FROM = "where the list goes on: the `next` of the page before"


def page_of(
    found: Sequence[Item], limit: int, cursor_of: Callable[[Item], Cursor]
) -> tuple[tuple[Item, ...], Cursor | None]:
    """Cut a page off, and say where the next one begins. `found` has one item more than the page where there is one."""
    page = tuple(found[:limit])
    return page, cursor_of(page[-1]) if len(found) > limit else None
