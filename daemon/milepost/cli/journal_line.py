"""A journal entry as one line: in words for people, or as the JSON object that `tail --json` and `export` write."""

from datetime import UTC, datetime
from typing import assert_never

import msgspec
from msgspec import Struct

from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    BatchStored,
    CursorLost,
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Phase,
    RateLimited,
    RedriveFailed,
    RunEnded,
    RunStarted,
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
from milepost.core.journal import instant_text
from milepost.core.plan import Size
from milepost.reporting.humanize import counted, in_words, lasting, on_one_line
from milepost.reporting.status import limit_in_words, size_in_words, token_in_words
from milepost.stores.reader import StoredEntry

_STREAM_WIDTH = len("instagram:17841400000000000")


class EntryObject(Struct, frozen=True):
    """An entry as JSON: the columns of the journal, `data` as the very text that `hash` is over."""

    seq: int
    stream: str
    version: int
    run_id: str | None
    recorded_at: str
    type: str
    data: msgspec.Raw
    hash: str


def as_json(placed: StoredEntry) -> bytes:
    """Write an entry as one line of JSON Lines."""
    entry = placed.entry
    columns = EntryObject(
        placed.seq,
        entry.stream,
        entry.version,
        entry.run_id,
        instant_text(entry.recorded_at),
        entry.type,
        msgspec.Raw(entry.data.encode()),
        entry.hash,
    )
    return msgspec.json.encode(columns) + b"\n"


def as_text(placed: StoredEntry) -> str:
    """Write an entry for people: when, where, its seq and its version in the stream, and what happened."""
    entry = placed.entry
    words = on_one_line(_happened(entry.event))
    return (
        f"{_second(entry.recorded_at)}  {entry.stream.ljust(_STREAM_WIDTH)}  #{placed.seq} v{entry.version}  {words}\n"
    )


def _happened(event: Event) -> str:  # noqa: PLR0911  (one line for each kind of event)
    match event:
        case RunStarted():
            return "run started"
        case SweepStarted(mode=mode, walk_until=walk_until):
            return f"{mode} sweep started, back to {'the end' if walk_until is None else _second(walk_until)}"
        case BatchStored():
            return _stored(event)
        case FetchFailed() | BatchFailed() | RateLimited() | BatchShrunk() | CursorLost():
            return _refused(event)
        case DeadLetterOpened() | RedriveFailed() | DeadLetterClosed():
            return f"dead letter {event.dead_letter_id} {_befell(event)}"
        case SweepCompleted(mode=mode, tally=tally):
            return f"{mode} sweep complete: {_brought(tally)}"
        case RunEnded(tally=tally):
            read = f"; {_brought(tally)}" if tally.batches else ""
            why = f": {event.problem}" if event.problem is not None else ""
            return f"run {in_words(event.status)}: {in_words(event.reason)}{why}{read}"
        case StoreReturned(away_seconds=seconds, attempts=attempts):
            return f"the database answered again after {lasting(seconds)} and {counted(attempts, 'attempt')}"
        case StreamPaused() | StreamResumed() | SyncRequested() | TokenChecked() | StreamRemoved():
            return _asked(event)
        case unknown:
            assert_never(unknown)


def _asked(event: StreamEvent) -> str:
    match event:
        case StreamPaused(by=by):
            return f"put on hold ({by})"
        case StreamResumed(by=by):
            return f"resumed ({by})"
        case SyncRequested(by=by, full=full):
            return f"{'a full sweep' if full else 'a sync'} was asked for ({by})"
        case TokenChecked(health=health):
            return token_in_words(health)
        case StreamRemoved(by=by):
            return f"removed with all its rows ({by})"


def _stored(stored: BatchStored) -> str:
    position = stored.position
    if position.phase is Phase.CATCH_UP and position.cursor is None:
        return f"{_brought(stored.tally)}; the catch-up scan begins"
    reached = "" if position.reached_at is None else f"; reached {_second(position.reached_at)}"
    return f"{_brought(stored.tally)}{reached}"


def _refused(event: FetchFailed | BatchFailed | RateLimited | BatchShrunk | CursorLost) -> str:
    match event:
        case FetchFailed(attempt=attempt, problem=problem, retry_at=retry_at):
            return f"attempt {attempt} failed: {problem}; tried again at {_second(retry_at)}"
        case BatchFailed(stage=stage, attempts=attempts, problem=problem):
            return f"batch given up after {counted(attempts, 'attempt')} ({stage}): {problem}"
        case RateLimited(scope=scope, attempts=attempts, since=since, until=until, problem=problem):
            times = "" if attempts == 1 else f" {counted(attempts, 'time')} since {_second(since)}"
            return f"met {limit_in_words(scope)}{times}: {problem}; no call until {_second(until)}"
        case BatchShrunk(limit=limit, detail=detail, problem=problem):
            return f"asks for {size_in_words(Size(limit, detail))}: {problem}"
        case CursorLost(problem=problem):
            return f"cursor refused: {problem}; begins again at the head"


def _befell(event: DeadLetterOpened | RedriveFailed | DeadLetterClosed) -> str:
    match event:
        case DeadLetterOpened(stage=stage, subject=subject, reason=reason, redrive_at=redrive_at):
            return f"opened for {subject} ({stage}): {reason}; {_again(redrive_at)}"
        case RedriveFailed(attempts=attempts, reason=reason, redrive_at=redrive_at):
            return (
                f"tried again in vain, {counted(attempts, 'time')} so far: {reason}; {_again(redrive_at)}{_by(event)}"
            )
        case DeadLetterClosed(resolution=resolution, tally=tally, reason=reason):
            told = ", ".join(_counts(tally))
            why = f" ({reason})" if reason else ""
            return f"closed: {resolution}{why}" + (f"; {told}" if told else "") + _by(event)


def _by(event: RedriveFailed | DeadLetterClosed) -> str:
    return f"; asked for by {event.by}" if event.by else ""


def _again(redrive_at: datetime | None) -> str:
    return "not tried again by itself" if redrive_at is None else f"tried again at {_second(redrive_at)}"


def _brought(tally: Tally) -> str:
    return ", ".join((counted(tally.batches, "batch", "batches"), *_counts(tally)))


def _counts(tally: Tally) -> list[str]:
    """Say what was brought, and nothing of what was not."""
    counts = (
        (tally.inserted, f"{tally.inserted:,} inserted"),
        (tally.updated, f"{tally.updated:,} updated"),
        (tally.unchanged, f"{tally.unchanged:,} unchanged"),
        (tally.deleted, f"{tally.deleted:,} deleted"),
        (tally.unreadable, f"{tally.unreadable:,} unreadable"),
        (tally.dead_lettered, f"{tally.dead_lettered:,} dead-lettered"),
        (tally.contacts, f"{counted(tally.contacts, 'contact')} written"),
        (tally.interaction_events, f"{counted(tally.interaction_events, 'event')} written"),
        (tally.without_contact, f"{tally.without_contact:,} without a contact"),
        (tally.order_violations, f"{tally.order_violations:,} out of order"),
    )
    return [words for number, words in counts if number]


def _second(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
