"""How far back in the inbox a walk has got, told by the `updated_time` of its conversations."""

from collections.abc import Iterable
from datetime import datetime, timedelta


def reaches_back(updated_times: Iterable[datetime], until: datetime | None) -> bool:
    """Whether a batch is wholly older than `until`, which is where a walk to that instant may end.

    One old row is not enough: the order of the edge is seen everywhere and promised nowhere. An empty batch says
    nothing.
    """
    if until is None:
        return False
    seen = False
    for updated_time in updated_times:
        if updated_time >= until:
            return False
        seen = True
    return seen


def older_in_a_row(updated_times: Iterable[datetime], until: datetime | None, before: int) -> int:
    """Count the last conversations, those of the batches `before` included, that are older than `until` in a row."""
    older = before
    for updated_time in updated_times:
        older = older + 1 if until is not None and updated_time < until else 0
    return older


def overlap_before(instant: datetime, overlap_seconds: float) -> datetime:
    """The instant from which rows are read again, to make up for clocks and order that are not exact."""
    return instant - timedelta(seconds=overlap_seconds)
