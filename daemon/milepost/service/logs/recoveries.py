"""The end of an error in the log: a stream that failed, or was stopped, reads again."""

from datetime import datetime

import structlog

from milepost.core.events import BatchStored, Entry, RunEnded, RunStatus, SweepCompleted
from milepost.engine.feed import Notice, Recorded


class Recoveries:
    """A reader that tells once of each stream whose last run had ended in an error, when it gets somewhere again."""

    def __init__(self) -> None:
        self._failed_at: dict[str, datetime] = {}  # the first time since it got somewhere

    def read(self, notice: Notice) -> None:
        """Log it where a signal tells of a recovery."""
        if isinstance(notice, Recorded):
            for entry in notice.entries:
                self._read(entry)

    def _read(self, entry: Entry) -> None:
        match entry.event:
            case RunEnded(status=RunStatus.FAILED | RunStatus.STOPPED):
                self._failed_at.setdefault(entry.stream, entry.recorded_at)
            case BatchStored() | SweepCompleted() if entry.stream in self._failed_at:
                seconds = (entry.recorded_at - self._failed_at.pop(entry.stream)).total_seconds()
                log = structlog.get_logger("milepost", stream=entry.stream, run=entry.run_id)
                log.info("reads again", after_seconds=round(max(0.0, seconds), 1))
            case _:
                pass
