"""The journal as log lines: one for each committed entry, and one when a stream recovers from an error."""

from datetime import datetime
from typing import assert_never

import structlog
from structlog.typing import FilteringBoundLogger

from milepost.core import events
from milepost.core.checkpoint import Run
from milepost.core.events import Entry, RunStatus
from milepost.core.model import Stream
from milepost.engine.feed import Notice, Recorded, SlotWaited, StoreRetried, UnchangedRead, UsageReported
from milepost.reporting.describe import describe


class JournalLog:
    """A reader of the feed that writes log lines. An unchanged batch has no entry, and so no line."""

    def __init__(self) -> None:
        self._failing_since: dict[Stream, datetime] = {}  # streams whose last run ended in an error

    def read(self, notice: Notice) -> None:
        """Log a notice."""
        match notice:
            case Recorded(entries=entries, checkpoint=checkpoint):
                for entry in entries:
                    _log_entry(entry, checkpoint.run)
                    self._log_recovery(entry)
            case StoreRetried() as retried:
                log: FilteringBoundLogger = structlog.get_logger("milepost")
                log.warning(
                    "database unavailable, retrying",
                    stream=retried.stream.key,
                    attempts=retried.attempts,
                    away_seconds=round(retried.away_seconds, 1),
                    wait_seconds=round(retried.wait_seconds, 1),
                    reason=retried.reason,
                )
            case UnchangedRead() | UsageReported() | SlotWaited():
                pass
            case unknown:
                assert_never(unknown)

    def _log_recovery(self, entry: Entry) -> None:
        """Log once that a stream makes progress again after a run that failed or was stopped."""
        match entry.event:
            case events.RunEnded(status=RunStatus.FAILED | RunStatus.STOPPED):
                self._failing_since.setdefault(entry.stream, entry.recorded_at)
            case events.BatchStored() | events.SweepCompleted() if entry.stream in self._failing_since:
                seconds = (entry.recorded_at - self._failing_since.pop(entry.stream)).total_seconds()
                log = structlog.get_logger("milepost", stream=entry.stream.key, run=entry.run_id)
                log.info("stream recovered", after_seconds=round(max(0.0, seconds), 1))
            case _:
                pass


def _log_entry(entry: Entry, run: Run | None) -> None:
    """Log an entry; `run` is the state of its run after the whole commit."""
    description = describe(entry, run)
    log: FilteringBoundLogger = structlog.get_logger("milepost", stream=entry.stream.key, run=entry.run_id)
    fields = _batch(entry.event, run) | description.fields
    if description.hint is not None:
        fields["hint"] = description.hint
    log.log(description.level, description.title, **fields)


def _batch(event: events.Event, run: Run | None) -> dict[str, int]:
    """Return the number of the event's batch in its run."""
    stored = run.tally.batches if run is not None else 0
    match event:
        case events.BatchStored() | events.DeadLetterOpened():  # committed together
            return {"batch": stored}
        case (
            events.FetchFailed()
            | events.BatchFailed()
            | events.RateLimited()
            | events.BatchShrunk()
            | events.CursorLost()
        ):
            return {"batch": stored + 1}
        case _:
            return {}
