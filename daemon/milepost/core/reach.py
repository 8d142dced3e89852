"""How far back in the inbox a walk has got, told by the `updated_time` of its conversations."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # before any conversation


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


def walk_start(
    asked_at: datetime, updated_times: Iterable[datetime], overlap_seconds: float, watermark: datetime | None
) -> datetime:
    """Return the start of a walk as far as the clocks can be trusted: it may be too early, never too late.

    The walk's start becomes the watermark, and what arrives afterwards has to be newer. `asked_at` is only a hint: the
    clocks behind it may be ahead. What the platform says itself is not: whatever arrives after the first batch was read
    is no older than the newest conversation in it. So the walk of the next sweep, which reaches back to the overlap
    before the watermark, has to get there at least. With clocks that are right this costs nothing, because nothing lies
    between the newest conversation and now.

    A first batch without conversations says nothing about the time: the watermark stays where it was, or at EPOCH.
    """
    asked_at = max(asked_at, EPOCH)
    newest = max(updated_times, default=None)
    if newest is None:
        return min(asked_at, watermark or EPOCH)
    slack = timedelta(seconds=overlap_seconds + 1.0)  # instants of the API are whole seconds
    return newest + slack if asked_at - slack > newest else asked_at
