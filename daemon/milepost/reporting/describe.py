"""What an entry of the journal says to people: a sentence in plain English, which names no person.

What an entry holds may be told, but the reason that somebody gave for a discard may not: nobody knows what it says of
whom.
"""

from datetime import UTC, datetime
from typing import assert_never

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
    FetchFailed,
    Mode,
    RateLimited,
    Reason,
    RedriveFailed,
    Resolution,
    RunEnded,
    RunStarted,
    RunStatus,
    Stage,
    StoreReturned,
    StreamEvent,
    StreamPaused,
    StreamRemoved,
    StreamResumed,
    SweepCompleted,
    SweepStarted,
    SyncRequested,
    Tally,
    TokenChecked,
)
from milepost.core.model import Stream
from milepost.core.plan import Size
from milepost.reporting.advice import advice_on
from milepost.reporting.humanize import ahead, counted, lasting, on_one_line
from milepost.reporting.status import limit_in_words, size_in_words, token_in_words

SWEEPS = {Mode.FULL: "Full sweep", Mode.INCREMENTAL: "Sweep"}
ENDINGS = {
    Reason.TIME_LIMIT: "The run has reached its time limit: the next one goes on there",
    Reason.BATCH_LIMIT: "The run has reached its batch limit: the next one goes on there",
    Reason.SHUTDOWN: "Paused for a shutdown: the next start goes on there",
    Reason.REQUEST: "Paused, as somebody asked for it: it goes on there when the stream is resumed",
    Reason.REMOVED: "Paused, as its page is configured no more: it goes on there when the page is back",
    Reason.RATE_LIMIT: "Paused for a rate limit: it goes on there when the limit is over",
    Reason.RETRIES_EXHAUSTED: "Paused, as all attempts have failed: the next run tries again",
    Reason.AUTHORIZATION: "Stopped: the token or a permission has to be mended",
    Reason.CONFIGURATION: "Stopped: the configuration has to be mended",
    Reason.PROCESS_DIED: "The run before was interrupted: it goes on from the last stored batch",
    Reason.BROKE_OFF: "The run broke off: it goes on from the last stored batch",
}
OPENINGS = {
    Stage.FETCH: "A conversation could not be read",
    Stage.STORE: "A row could not be stored",
    Stage.EVENTS: "Messages of a conversation could not be stored",
}
CLOSINGS = {
    Resolution.REDRIVEN: "A dead letter was tried again, and is settled",
    Resolution.RECOVERED: "A sweep has read what could not be read before: its dead letter is settled",
    Resolution.DISCARDED: "A dead letter was discarded",
    Resolution.FORGOTTEN: "A dead letter was erased, with the person that it was about",
}


def happened(entry: Entry, run: Run | None) -> str:  # noqa: PLR0911  (one line for each kind of event)
    """Say what happened. `run` is how the entry's run stands after it; None where it belongs to none."""
    match entry.event:
        case RunStarted():
            return "Run started"
        case SweepStarted(mode=mode, walk_until=until):
            back = "all conversations are read" if until is None else f"back to {_clock(until, entry.recorded_at)}"
            return f"{SWEEPS[mode]} started: {back}"
        case BatchStored(tally=tally):
            return _stored(tally, run)
        case FetchFailed() | BatchFailed() | RateLimited() | BatchShrunk() | CursorLost() as event:
            return _refused(event, run, entry.recorded_at)
        case DeadLetterOpened() | RedriveFailed() | DeadLetterClosed() as event:
            return _befell(event, entry.recorded_at)
        case SweepCompleted() | RunEnded() as event:
            return _ended(event, run, entry)
        case StoreReturned(away_seconds=seconds, attempts=attempts):
            return f"The database answers again, after {lasting(seconds)} and {counted(attempts, 'attempt')}"
        case StreamPaused() | StreamResumed() | SyncRequested() | TokenChecked() | StreamRemoved() as event:
            return _asked(event)
        case unknown:
            assert_never(unknown)


def _stored(tally: Tally, run: Run | None) -> str:
    last = run.tally.batches if run is not None else 0
    first = last - tally.batches + 1
    subject = f"Batches {first:,} to {last:,}" if 0 < first < last else _batch(last)
    return f"{subject} stored: {brought(tally)}" if tally.has_changes else f"{subject}: nothing new"


def _refused(
    event: FetchFailed | BatchFailed | RateLimited | BatchShrunk | CursorLost, run: Run | None, now: datetime
) -> str:
    subject, problem = _batch(run.tally.batches + 1 if run is not None else 0), on_one_line(event.problem)
    match event:
        case FetchFailed(attempt=attempt, retry_at=retry_at):
            again = f"attempt {attempt:,}; tried again {ahead(retry_at, now)}"
            return f"{subject} could not be read ({again}): {problem}"
        case BatchFailed(attempts=attempts):
            return f"{subject} given up for this run after {counted(attempts, 'attempt')}: {problem}"
        case RateLimited(scope=scope, until=until):
            return f"Met {limit_in_words(scope)}: waiting until {_clock(until, now)}"
        case BatchShrunk(limit=limit, detail=detail):
            return f"{subject} is asked for again, {size_in_words(Size(limit, detail))}: {problem}"
        case CursorLost():
            return f"The place in the inbox was refused, and the walk begins again at the head: {problem}"


def _befell(event: DeadLetterOpened | RedriveFailed | DeadLetterClosed, now: datetime) -> str:
    match event:
        case DeadLetterOpened(stage=stage, reason=reason):
            return f"{OPENINGS[stage]}, and is kept as a dead letter: {on_one_line(reason)}"
        case RedriveFailed(attempts=attempts, reason=reason, redrive_at=redrive_at):
            again = "not tried again by itself" if redrive_at is None else f"tried again {ahead(redrive_at, now)}"
            return f"A dead letter could not be settled (attempt {attempts:,}; {again}): {on_one_line(reason)}"
        case DeadLetterClosed(resolution=resolution):
            return CLOSINGS[resolution]


def _ended(event: SweepCompleted | RunEnded, run: Run | None, entry: Entry) -> str:
    match event:
        case SweepCompleted(mode=mode):
            tally = run.tally if run is not None else NO_TALLY
            how = "complete, with dead letters" if has_errors(run) else "complete"
            return f"{SWEEPS[mode]} {how}: {counted(tally.batches, 'batch', 'batches')}, {brought(tally)}"
        case RunEnded(reason=reason, status=status, problem=problem):
            if problem is None:
                return ENDINGS[reason]
            words = f"{ENDINGS[reason]}: {on_one_line(problem)}"
            if status is not RunStatus.STOPPED:
                return words
            return f"{words}. What to do: {advice_on(problem, Stream.parse(entry.stream))}"


def _asked(event: StreamEvent) -> str:
    match event:
        case StreamPaused(by=by):
            return f"Paused until somebody resumes it (asked for by {on_one_line(by)})"
        case StreamResumed(by=by):
            return f"Resumed (asked for by {on_one_line(by)})"
        case SyncRequested(by=by, full=full):
            return f"{'A full sweep' if full else 'A sync'} begins (asked for by {on_one_line(by)})"
        case TokenChecked(health=health):
            words = token_in_words(health)
            return f"{words[0].upper()}{words[1:]}"
        case StreamRemoved(by=by):
            return f"Removed with all its rows (asked for by {on_one_line(by)})"


def has_errors(run: Run | None) -> bool:
    """Whether a run completed its sweep with dead letters on the way."""
    return run is not None and run.status is RunStatus.COMPLETE_WITH_ERRORS


def brought(tally: Tally) -> str:
    """Say what batches brought, and nothing of what they did not."""
    counts = (
        (tally.inserted, f"{tally.inserted:,} new"),
        (tally.updated, f"{tally.updated:,} updated"),
        (tally.unchanged, f"{tally.unchanged:,} unchanged"),
        (tally.deleted, f"{tally.deleted:,} deleted"),
        (tally.dead_lettered, counted(tally.dead_lettered, "dead letter")),
    )
    return ", ".join(words for number, words in counts if number) or "nothing"


def _batch(number: int) -> str:
    return f"Batch {number:,}" if number > 0 else "A batch"


def _clock(instant: datetime, now: datetime) -> str:
    """Tell an instant to the second, with the date where it is not today's."""
    utc = instant.astimezone(UTC)
    return f"{utc:%H:%M:%S} UTC" if utc.date() == now.astimezone(UTC).date() else f"{utc:%Y-%m-%d %H:%M:%S} UTC"
