"""The journal as log lines: one for each committed entry, in plain words, with what to do where somebody is needed.

What runs by itself is told at debug and info; what is worth knowing and mends itself, at warning, once where it begins;
what needs a person, at error. `batch` is the number of the batch in its run.
"""

import logging
from datetime import datetime, timedelta
from typing import Any, assert_never

import structlog
from msgspec import to_builtins
from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from milepost.core.checkpoint import Run
from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Entry,
    FetchFailed,
    RateLimited,
    Reason,
    RedriveFailed,
    RunEnded,
    RunStarted,
    RunStatus,
    StoreReturned,
    StreamEvent,
    StreamPaused,
    StreamRemoved,
    StreamResumed,
    SweepCompleted,
    SweepStarted,
    SyncRequested,
    TokenChecked,
)
from milepost.core.model import Stream
from milepost.core.plan import Size
from milepost.core.problems import Problem
from milepost.engine.feed import Notice, Recorded, StoreRetried, UnchangedRead, UsageReported
from milepost.reporting.advice import advice_on
from milepost.reporting.status import size_in_words, token_in_words

# Where there is a problem, the advice on it is told instead.
HINTS = {
    Reason.TIME_LIMIT: "the next run goes on there",
    Reason.BATCH_LIMIT: "the next run goes on there",
    Reason.SHUTDOWN: "the next start goes on there",
    Reason.PROCESS_DIED: "it goes on from the last committed batch",
    Reason.BROKE_OFF: "it goes on from the last committed batch; an earlier line says what happened",
    Reason.RATE_LIMIT: "it goes on there when the limit is over",
    Reason.RETRIES_EXHAUSTED: "the next run tries again",
    Reason.AUTHORIZATION: "the token or a permission has to be mended",
    Reason.REQUEST: "it goes on there when somebody resumes the stream",
    Reason.REMOVED: "its page was taken out of the configuration; it goes on there when the page is back",
    Reason.CONFIGURATION: "the configuration has to be mended",
}


def read(notice: Notice) -> None:
    """Log what a signal tells. A batch that was passed over has no entry, and so no line."""
    match notice:
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
        case UnchangedRead() | UsageReported():
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
        case BatchStored() as stored:
            _log_batch(log, batch, stored)
        case FetchFailed() | BatchFailed() | RateLimited() | BatchShrunk() | CursorLost() as retry:
            _log_trouble(log.bind(batch=batch + 1), retry, entry)
        case DeadLetterOpened() | RedriveFailed() | DeadLetterClosed() as event:
            _log_letter(log, batch, event)
        case SweepCompleted(mode=mode):
            log.info("sweep completed", mode=mode.value, **_summary(run))
        case RunEnded() as ended:
            _log_end(log, ended, entry, run)
        case StoreReturned(away_seconds=away_seconds, attempts=attempts):
            log.info("store returned", away_seconds=round(away_seconds, 1), attempts=attempts)
        case StreamPaused() | StreamResumed() | SyncRequested() | TokenChecked() | StreamRemoved() as event:
            _log_asked(log, event)
        case unknown:
            assert_never(unknown)


def _log_asked(log: FilteringBoundLogger, event: StreamEvent) -> None:
    match event:
        case StreamPaused(by=by):
            log.warning("stream paused", by=by, hint="it is not worked until somebody resumes it")
        case StreamResumed(by=by):
            log.info("stream resumed", by=by)
        case SyncRequested(by=by, full=full):
            log.info("sync asked for", by=by, full=full)
        case TokenChecked(health=health):
            log.log(logging.INFO if health.is_valid else logging.WARNING, "token checked", found=token_in_words(health))
        case StreamRemoved(by=by):
            log.warning("stream removed", by=by, hint="its rows are gone; if it is worked again, it begins anew")


def _log_batch(log: FilteringBoundLogger, batch: int, stored: BatchStored) -> None:
    fields = to_builtins(replace(stored.tally, batches=0))  # the counts that are not 0
    if stored.position.reached_at is not None:
        fields["reached"] = stored.position.reached_at.isoformat()
    if stored.tally.has_changes:
        log.info("batch stored", batch=batch, **fields)
    else:
        log.debug("batch unchanged", batch=batch, **fields)


def _log_trouble(
    log: FilteringBoundLogger, retry: FetchFailed | BatchFailed | RateLimited | BatchShrunk | CursorLost, entry: Entry
) -> None:
    """Log a refusal by what is done about it; `batch` is the one that was refused."""
    problem = str(retry.problem)
    match retry:
        case FetchFailed(attempt=attempt, retry_at=retry_at):
            wait_seconds = _seconds(retry_at - entry.recorded_at)
            log.warning("batch not read", attempt=attempt, wait_seconds=wait_seconds, problem=problem)
        case BatchFailed(stage=stage, attempts=attempts):
            log.warning("batch given up", stage=stage.value, attempts=attempts, problem=problem)
        case RateLimited(scope=scope, attempts=attempts, since=since, until=until):
            log.warning(
                "rate limited",
                scope=scope.value,
                attempts=attempts,
                since=since.isoformat(),
                until=until.isoformat(),
                wait_seconds=_seconds(until - entry.recorded_at),
                problem=problem,
                hint=_advice(retry.problem, entry),
            )
        case BatchShrunk(limit=limit, detail=detail):
            log.info("asks for less", asked_for=size_in_words(Size(limit, detail)), problem=problem)
        case CursorLost():
            log.warning("cursor refused", problem=problem, hint="the walk begins again at the head of the inbox")


def _log_letter(
    log: FilteringBoundLogger, batch: int, event: DeadLetterOpened | RedriveFailed | DeadLetterClosed
) -> None:
    match event:
        case DeadLetterOpened(dead_letter_id=dead_letter_id, stage=stage, subject=subject, reason=reason):
            log.warning(
                "dead letter opened",
                batch=batch,
                dead_letter=dead_letter_id,
                stage=stage.value,
                subject=subject,
                reason=reason,
                hint=f"its payload is kept; {_again(dead_letter_id, event.redrive_at)}",
            )
        case RedriveFailed(dead_letter_id=dead_letter_id, attempts=attempts, reason=reason):
            hint = _again(dead_letter_id, event.redrive_at)
            log.warning("redrive failed", dead_letter=dead_letter_id, attempts=attempts, reason=reason, hint=hint)
        case DeadLetterClosed(dead_letter_id=dead_letter_id, resolution=resolution, tally=tally):
            # Without the reason that a person gave: nobody knows what it says of whom.
            log.info(
                "dead letter closed", dead_letter=dead_letter_id, resolution=resolution.value, **to_builtins(tally)
            )


def _again(dead_letter_id: str, redrive_at: datetime | None) -> str:
    if redrive_at is not None:
        return f"it is tried again by itself at {redrive_at.isoformat()}"
    return f"it is not tried again by itself: see `milepost dead-letters show {dead_letter_id}`"


def _log_end(log: FilteringBoundLogger, ended: RunEnded, entry: Entry, run: Run | None) -> None:
    fields = {"reason": ended.reason.value, **_summary(run)}
    hint = HINTS[ended.reason]
    if ended.problem is not None:
        fields["problem"] = str(ended.problem)
        hint = _advice(ended.problem, entry)
    words = f"run {ended.status.value}"
    log.log(_level(ended), words, **fields, hint=hint)


def _advice(problem: Problem, entry: Entry) -> str:
    return advice_on(problem, Stream.parse(entry.stream))


def _seconds(duration: timedelta) -> float:
    return round(max(0.0, duration.total_seconds()), 1)  # the clock may have been set back meanwhile


def _level(ended: RunEnded) -> int:
    if ended.status in {RunStatus.FAILED, RunStatus.STOPPED}:
        return logging.ERROR
    if ended.reason in {Reason.PROCESS_DIED, Reason.BROKE_OFF}:
        return logging.WARNING
    return logging.INFO


def _summary(run: Run | None) -> dict[str, Any]:
    """Say what a run came to: the counts that are not 0, and how long it took."""
    if run is None or run.ended_at is None:
        return {}
    return {"status": run.status.value, "seconds": _seconds(run.ended_at - run.started_at), **to_builtins(run.tally)}
