"""When a stream's next turn is due."""

from datetime import datetime, timedelta

from milepost.core.checkpoint import Run
from milepost.core.events import Reason, RunStatus

JITTER = 0.1  # of the interval, either way: streams that began together drift apart
MAX_PARK_SECONDS = 900.0  # after a failure, however long the interval: an outage lasts about an hour
AUTHORIZATION_PROBE_SECONDS = 1800.0
CONFIGURATION_PROBE_SECONDS = 3600.0  # one such error was an incident of days at the provider's


def next_turn_at(
    run: Run | None, now: datetime, luck: float, *, interval_seconds: float, held_until: datetime | None = None
) -> datetime:
    """Say when the stream is worked again after `run`, for a `luck` in [0, 1), and not inside a pause.

    A run that got somewhere before it reached its time or batch limit goes on at once, behind the others that wait for
    a turn. A stream that needs a person is probed slowly, one that failed is parked for minutes. Every other one comes
    back an interval after its run started; one that started in the future, by a clock that was ahead, started now.
    """
    due_at = _due_at(run, now, luck, interval_seconds)
    return due_at if held_until is None else max(due_at, held_until)


def _due_at(run: Run | None, now: datetime, luck: float, interval_seconds: float) -> datetime:
    if run is not None and run.tally.batches and run.reason in {Reason.TIME_LIMIT, Reason.BATCH_LIMIT}:
        return now
    if run is not None and run.reason is Reason.RATE_LIMIT:
        return now  # or as soon as the pause is over
    started_at = min(run.started_at, now) if run is not None else now
    seconds = _seconds_after(run, interval_seconds) * (1 + JITTER * (2 * luck - 1))
    return max(now, started_at + timedelta(seconds=seconds))


def _seconds_after(run: Run | None, interval_seconds: float) -> float:
    match run:
        case Run(status=RunStatus.STOPPED, reason=Reason.AUTHORIZATION):
            return max(interval_seconds, AUTHORIZATION_PROBE_SECONDS)
        case Run(status=RunStatus.STOPPED):
            return max(interval_seconds, CONFIGURATION_PROBE_SECONDS)
        case Run(status=RunStatus.FAILED | RunStatus.INTERRUPTED):
            return min(interval_seconds, MAX_PARK_SECONDS)
        case _:
            return interval_seconds
