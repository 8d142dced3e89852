"""Stored instants in the future: the clock was ahead when they were written, or is behind now.

Nothing waits for them. Each is handled where it is compared: the watermark and the last full sweep in core/plan.py, a
rate limit in core/rate_limits.py, the end of a run where the next one is scheduled.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from milepost.core.checkpoint import Checkpoint

TOLERATED_SECONDS = 60.0  # by which the clocks of several machines may differ without harm


def is_ahead(instant: datetime | None, now: datetime) -> bool:
    """Return whether an instant that should be past is in the future by more than clocks usually differ."""
    return instant is not None and instant > now + timedelta(seconds=TOLERATED_SECONDS)


def furthest_ahead(checkpoints: Iterable[Checkpoint], now: datetime) -> dict[str, datetime]:
    """Return descriptions of what is stored with an instant in the future, each with the latest such instant."""
    found: dict[str, datetime] = {}
    for checkpoint in checkpoints:
        for what, instant in _of_the_past(checkpoint):
            if instant is not None and is_ahead(instant, now):
                found[what] = max(instant, found.get(what, instant))
    return found


def _of_the_past(checkpoint: Checkpoint) -> Iterator[tuple[str, datetime | None]]:
    """Yield the instants of a checkpoint that were not in the future when they were stored."""
    yield "a journal entry", checkpoint.updated_at
    yield "the watermark of a sweep", checkpoint.watermark
    yield "a full sweep", checkpoint.last_full_sweep_at
    if checkpoint.run is not None:
        yield "the start of a run", checkpoint.run.started_at
        yield "the end of a run", checkpoint.run.ended_at
    if checkpoint.sweep is not None:
        yield "the start of a sweep", checkpoint.sweep.walk_started_at
    if checkpoint.rate_limit is not None:
        yield "a rate limit", checkpoint.rate_limit.since
