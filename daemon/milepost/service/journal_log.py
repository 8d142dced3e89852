"""The journal as log lines: one for each committed entry, in plain words, with what to do where somebody is needed.

What runs by itself is told at debug and info; what is worth knowing and mends itself, at warning; what needs a person,
at error. `batch` is the number of the batch in its run.
"""

import logging
from typing import Any, assert_never

import structlog
from msgspec import to_builtins
from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from milepost.core.checkpoint import Run
from milepost.core.events import (
    BatchFailed,
    BatchStored,
    DeadLetterOpened,
    Entry,
    FetchFailed,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    StoreReturned,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.engine.feed import Passed, Recorded, Signal, StoreRetried

HINTS = {
    Reason.TIME_LIMIT: "the next run goes on there",
    Reason.BATCH_LIMIT: "the next run goes on there",
    Reason.SHUTDOWN: "the next start goes on there",
    Reason.PROCESS_DIED: "it goes on from the last committed batch",
    Reason.BROKE_OFF: "it goes on from the last committed batch; an earlier line says what happened",
    Reason.RATE_LIMIT: "the next run goes on there; calling on now would prolong the limit",
    Reason.RETRIES_EXHAUSTED: "the next run tries again; if it keeps failing, check the network and source.base_url",
    Reason.AUTHORIZATION: "give the page an access_token that is valid and has the permissions, then restart",
    Reason.CONFIGURATION: "correct source or the page in config.yaml, then restart",
}


def read(signal: Signal) -> None:
    """Log what a signal tells. A batch that was passed over has no entry, and so no line."""
    match signal:
        case Recorded(entries=entries, checkpoint=checkpoint):
            for entry in entries:
                _log_entry(entry, checkpoint.run)
        case StoreRetried() as retried:
            log: FilteringBoundLogger = structlog.get_logger("milepost")
            log.warning(
                "store away",
                stream=retried.stream,
                attempts=retried.attempts,
                away_seconds=round(retried.away_seconds, 1),
                wait_seconds=round(retried.wait_seconds, 1),
                reason=retried.reason,
            )
        case Passed():
            pass
        case unknown:
            assert_never(unknown)


def _log_entry(entry: Entry, run: Run | None) -> None:
    """Log an entry; `run` is how the run stands after it and the entries committed with it."""
    log: FilteringBoundLogger = structlog.get_logger("milepost", stream=entry.stream, run=entry.run_id)
    batch = run.tally.batches if run is not None else 0
    match entry.event:
        case RunStarted():
            log.debug("run started")
        case SweepStarted(mode=mode, walk_until=walk_until):
            log.info("sweep started", mode=mode.value, back_to=walk_until.isoformat() if walk_until else "the oldest")
        case BatchStored(tally=tally):
            _log_batch(log, batch, tally)
        case FetchFailed() | BatchFailed() as failure:
            _log_failure(log, batch + 1, failure, entry)
        case DeadLetterOpened() as opened:
            _log_dead_letter(log, batch, opened)
        case SweepCompleted(mode=mode):
            log.info("sweep completed", mode=mode.value, **_summary(run))
        case RunEnded() as ended:
            _log_end(log, ended, run)
        case StoreReturned(away_seconds=away_seconds, attempts=attempts):
            log.info("store returned", away_seconds=round(away_seconds, 1), attempts=attempts)
        case unknown:
            assert_never(unknown)


def _log_batch(log: FilteringBoundLogger, batch: int, tally: Tally) -> None:
    counts = to_builtins(replace(tally, batches=0))  # those that are not 0
    if tally.has_changes:
        log.info("batch stored", batch=batch, **counts)
    else:
        log.debug("batch unchanged", batch=batch, **counts)


def _log_failure(log: FilteringBoundLogger, batch: int, failure: FetchFailed | BatchFailed, entry: Entry) -> None:
    match failure:
        case FetchFailed(attempt=attempt, problem=problem, retry_at=retry_at):
            wait_seconds = round((retry_at - entry.recorded_at).total_seconds(), 1)
            log.warning("batch not read", batch=batch, attempt=attempt, wait_seconds=wait_seconds, problem=str(problem))
        case BatchFailed(stage=stage, attempts=attempts, problem=problem):
            log.warning("batch given up", batch=batch, stage=stage.value, attempts=attempts, problem=str(problem))


def _log_dead_letter(log: FilteringBoundLogger, batch: int, opened: DeadLetterOpened) -> None:
    log.warning(
        "dead letter opened",
        batch=batch,
        dead_letter=opened.dead_letter_id,
        stage=opened.stage.value,
        subject=opened.subject,
        reason=opened.reason,
        hint="its payload is kept",
    )


def _log_end(log: FilteringBoundLogger, ended: RunEnded, run: Run | None) -> None:
    fields = {"reason": ended.reason.value, **_summary(run)}
    if ended.problem is not None:
        fields["problem"] = str(ended.problem)
    words = f"run {ended.status.value}"
    log.log(_level(ended), words, **fields, hint=HINTS[ended.reason])


def _level(ended: RunEnded) -> int:
    if ended.status in {RunStatus.FAILED, RunStatus.STOPPED}:
        return logging.ERROR
    if ended.reason in {Reason.RATE_LIMIT, Reason.PROCESS_DIED, Reason.BROKE_OFF}:
        return logging.WARNING
    return logging.INFO


def _summary(run: Run | None) -> dict[str, Any]:
    """Say what a run came to: the counts that are not 0, and how long it took."""
    if run is None or run.ended_at is None:
        return {}
    seconds = round((run.ended_at - run.started_at).total_seconds(), 1)
    return {"status": run.status.value, "seconds": seconds, **to_builtins(run.tally)}
