"""When to try again: backoff with full jitter, waits for redrives, and when a stream is next due."""

from datetime import datetime, timedelta

from milepost.core.checkpoint import Run
from milepost.core.events import Reason, RunStatus


def backoff_seconds(attempt: int, jitter: float, *, base_delay_seconds: float, max_delay_seconds: float) -> float:
    """Return the delay after attempt number `attempt` (1, 2, …) failed, for a `jitter` in [0, 1).

    Full jitter draws from all of [0, ceiling), so that clients which failed together don't return together (Brooker,
    "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
    """
    doublings = min(attempt - 1, 63)  # 2.0**1024 overflows; no delay is that long
    return jitter * min(max_delay_seconds, base_delay_seconds * 2.0**doublings)


REDRIVE_BASE_SECONDS = 900.0
MAX_REDRIVE_SECONDS = 86_400.0
MAX_REDRIVES = 10


def latest_redrive(now: datetime) -> datetime:
    """Return the latest instant at which a redrive can be due; a later one was set by a clock that was ahead."""
    return now + timedelta(seconds=MAX_REDRIVE_SECONDS)


def redrive_seconds(failures: int) -> float | None:
    """Return the delay before a dead letter's automatic redrive after `failures` failures (1: it was just opened).

    It starts at 15 minutes and doubles up to a day; None after ten redrives, which take four days.
    """
    if failures > MAX_REDRIVES:
        return None
    return min(MAX_REDRIVE_SECONDS, REDRIVE_BASE_SECONDS * 2.0 ** (failures - 1))


JITTER = 0.1  # of the interval, either way, so that streams that started together drift apart
MAX_STEP_SECONDS = 1.0  # and no more than the jitter, or streams that started together would never drift apart
MAX_PARK_SECONDS = 900.0  # after a failure, however long the interval: an outage lasts about an hour
AUTHORIZATION_PROBE_SECONDS = 1800.0
CONFIGURATION_PROBE_SECONDS = 3600.0  # one such error was an incident at the platform that lasted for days
_ENDED_WELL = {RunStatus.COMPLETE, RunStatus.COMPLETE_WITH_ERRORS, RunStatus.PAUSED}
PROMPTED_SECONDS = 3.0  # from the start of a run to the next that a webhook prompts, however many there are


def next_run_at(
    run: Run | None,
    now: datetime,
    jitter: float,
    *,
    interval_seconds: float,
    held_until: datetime | None = None,
    is_prompted: bool = False,
) -> datetime:
    """Return when the stream's next run is due after `run`, for a `jitter` in [0, 1), and not before `held_until`.

    A run that made progress before its time or batch limit continues at once, behind the streams that wait for a slot.
    A stream that needs an operator is probed slowly; one that failed is parked for minutes. Any other is due an
    interval after its run started; a start in the future, by a clock that was ahead, counts as now. If there is news
    (`is_prompted`), the interval is a few seconds, unless the run ended in an error.
    """
    ended_well = run is None or run.status in _ENDED_WELL
    if is_prompted and ended_well:
        interval_seconds = min(interval_seconds, PROMPTED_SECONDS)
    due_at = _due_at(run, now, jitter, interval_seconds)
    return due_at if held_until is None else max(due_at, held_until)


def in_step(due_at: datetime, ended_at: datetime, interval_seconds: float) -> datetime:
    """Return when a run begins that is due then: on the second, together with others that are due about then.

    A processor that wakes up for each of them finds its caches cold, and each commit waits for the disk: together they
    take a quarter less. A run that follows at once on the one that `ended_at` does not wait for others.
    """
    step = min(MAX_STEP_SECONDS, JITTER * interval_seconds)
    if (due_at - ended_at).total_seconds() <= step:
        return due_at
    return datetime.fromtimestamp(round(due_at.timestamp() / step) * step, due_at.tzinfo)


def _due_at(run: Run | None, now: datetime, jitter: float, interval_seconds: float) -> datetime:
    if run is not None and run.tally.batches and run.reason in {Reason.TIME_LIMIT, Reason.BATCH_LIMIT}:
        return now
    if run is not None and run.reason is Reason.RATE_LIMIT:
        return now  # or as soon as the rate limit is over
    started_at = min(run.started_at, now) if run is not None else now
    seconds = _seconds_after(run, interval_seconds) * (1 + JITTER * (2 * jitter - 1))
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
