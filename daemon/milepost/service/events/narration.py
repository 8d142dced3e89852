"""What readers of the event stream are told: a pure function of an entry and the run that it belongs to."""

from datetime import datetime, timedelta
from typing import Any, assert_never

from milepost.core.checkpoint import Run
from milepost.core.events import (
    NO_TALLY,
    BatchFailed,
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Entry,
    Event,
    FetchFailed,
    RateLimited,
    Reason,
    RedriveFailed,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    StoreReturned,
    StreamPaused,
    StreamRemoved,
    StreamResumed,
    SweepCompleted,
    SweepStarted,
    SyncRequested,
    Tally,
    TokenChecked,
)
from milepost.engine.feed import StoreRetried, UnchangedRead
from milepost.reporting.describe import happened, has_errors
from milepost.reporting.humanize import ahead
from milepost.reporting.summary import Totals
from milepost.service.events.messages import Message, Status

# Of the runs that end before their sweep does, and need nobody; all that are not listed are paused.
ENDINGS = {
    Reason.TIME_LIMIT: Status.TIMEOUT_WARNING,
    Reason.BATCH_LIMIT: Status.BATCH_LIMIT_WARNING,
    Reason.RATE_LIMIT: Status.RATE_LIMITED,
}


def narrate(entry: Entry, run: Run | None) -> Message:
    """Tell of an entry. `run` is how its run stands after it; None where there is none, or it was over."""
    return Message(
        status=_status(entry.event, run),
        message=happened(entry, run),
        stream=entry.stream,
        at=entry.recorded_at,
        type=entry.type,
        run=entry.run_id,
        until=_until(entry.event),
        **_figures(entry.event, run),
        **_so_far(run, entry),
    )


def narrate_live(notice: UnchangedRead | StoreRetried, now: datetime) -> Message:
    """Tell of what has no entry: it is heard live, or never."""
    match notice:
        case UnchangedRead(checkpoint=checkpoint, tally=tally):
            run, batch = checkpoint.run, checkpoint.unrecorded.batches
            if run is not None and run.ended_at is None:
                batch += run.tally.batches
            words = f"Batch {batch:,}: nothing new"
            return Message(
                status=Status.PROGRESS, message=words, stream=checkpoint.stream, at=now, batch=batch, **_counts(tally)
            )
        case StoreRetried(stream=stream, wait_seconds=wait_seconds):
            until = now + timedelta(seconds=wait_seconds)
            words = f"The database does not answer; tried again {ahead(until, now)}"
            return Message(status=Status.DB_RETRYING, message=words, stream=stream, at=now, until=until)


def _status(event: Event, run: Run | None) -> Status:  # noqa: PLR0911  (one line for each status)
    match event:
        case RunStarted():
            return Status.STARTED
        case (
            SweepStarted()
            | BatchStored()
            | StoreReturned()
            | DeadLetterClosed()
            | StreamResumed()
            | SyncRequested()
            | TokenChecked()
            | StreamRemoved()
        ):
            return Status.PROGRESS
        case StreamPaused():
            return Status.PAUSED
        case FetchFailed() | BatchShrunk() | CursorLost() | RedriveFailed():
            return Status.RETRYING
        case RateLimited():
            return Status.RATE_LIMITED
        case BatchFailed():
            return Status.BATCH_FAILED
        case DeadLetterOpened(stage=stage):
            return Status.BATCH_FAILED if stage is Stage.FETCH else Status.BATCH_DB_FAILED
        case SweepCompleted():
            return Status.COMPLETE_WITH_ERRORS if has_errors(run) else Status.COMPLETE
        case RunEnded(status=status, reason=reason):
            return Status.STOPPED if status is RunStatus.STOPPED else ENDINGS.get(reason, Status.PAUSED)
        case unknown:
            assert_never(unknown)


def _until(event: Event) -> datetime | None:
    """Say when a wait ends that the event begins."""
    match event:
        case FetchFailed(retry_at=until) | RateLimited(until=until) | RedriveFailed(redrive_at=until):
            return until
        case _:
            return None


def _figures(event: Event, run: Run | None) -> dict[str, Any]:
    """Count what the event itself is about: which batch, and what became of its conversations, or of the run's."""
    match event:
        case BatchStored(tally=tally):
            return _counts(tally) | ({"batch": run.tally.batches} if run is not None else {})
        case FetchFailed() | BatchFailed() | BatchShrunk() | DeadLetterOpened() if run is not None:
            return {"batch": run.tally.batches + 1}
        case RedriveFailed(tally=tally) | DeadLetterClosed(tally=tally) if tally != NO_TALLY:
            return _counts(tally)
        case SweepCompleted() | RunEnded() if run is not None:
            return _counts(run.tally)
        case _:
            return {}


def _counts(tally: Tally) -> dict[str, Any]:
    return {
        "inserted": tally.inserted,
        "updated": tally.updated,
        "skipped": tally.unchanged,
        "dead_lettered": tally.dead_lettered,
    }


def _so_far(run: Run | None, entry: Entry) -> dict[str, Any]:
    """Say what the run came to up to this entry."""
    if run is None:
        return {}
    totals = Totals(run.tally, run.retries, run.failed_batches)
    figures = {
        "batches": run.tally.batches,
        "failed_batches": run.failed_batches,
        "success_rate": round(100 * totals.success_rate, 1),
    }
    if run.status is RunStatus.INTERRUPTED:  # nobody saw when that one ended
        return figures
    return figures | {"duration": round(max(0.0, (entry.recorded_at - run.started_at).total_seconds()), 1)}
