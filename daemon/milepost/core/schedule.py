"""When a stream's next turn is due."""

from datetime import datetime, timedelta

from milepost.core.checkpoint import Run
from milepost.core.events import Reason

JITTER = 0.1  # of the interval, either way: streams that began together drift apart


def next_turn_at(run: Run | None, now: datetime, luck: float, *, interval_seconds: float) -> datetime:
    """Say when the stream is worked again after `run`, for a `luck` in [0, 1).

    A run that got somewhere before it reached its time or batch limit goes on at once, behind the others that wait for
    a turn. Every other one comes back an interval after it started.
    """
    if run is not None and run.tally.batches and run.reason in {Reason.TIME_LIMIT, Reason.BATCH_LIMIT}:
        return now
    started_at = run.started_at if run is not None else now
    return max(now, started_at + timedelta(seconds=interval_seconds * (1 + JITTER * (2 * luck - 1))))
