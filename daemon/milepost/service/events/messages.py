"""The `data` of a server-sent event, made from a journal entry or a live notice, and encoded once for all readers.

What a message says about its run is folded from the run's entries. So the message is the same, byte for byte, whether
it is sent live or read again years later, and from whichever seq the reading starts.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from milepost.core import events
from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.events import NO_TALLY, Entry, Event, Reason, RunStatus, Stage, Tally
from milepost.core.evolve import evolve
from milepost.core.model import Stream
from milepost.core.position import MessagesFailed, MessagesMissed, MessagesOwed, MessagesRead
from milepost.core.webhooks import FactsApplied
from milepost.engine.feed import StoreRetried, UnchangedRead
from milepost.reporting.describe import describe
from milepost.reporting.humanize import ahead, has_errors
from milepost.reporting.summary import Totals
from milepost.stores.reader import JournalReader, StoredEntry

# The names that front ends rely on. `success_rate` and `duration_seconds` were added later, as numbers.
RENAMED = {
    "dead_lettered": "deadLettered",
    "failed_batches": "failedBatches",
    "success_text": "successRate",
    "duration_text": "duration",
}


class Status(StrEnum):
    """What a front end switches on: which toast to show, how to move the progress bar."""

    STARTED = "started"
    PROGRESS = "progress"
    RETRYING = "retrying"  # the source failed and is tried again
    DB_RETRYING = "db_retrying"  # the database failed and is tried again
    BATCH_FAILED = "batch_failed"  # a batch, or something in it, could not be read
    BATCH_DB_FAILED = "batch_db_failed"  # something in a batch could not be stored
    RATE_LIMITED = "rate_limited"
    TIMEOUT_WARNING = "timeout_warning"  # the run reached its time limit; the next one continues there
    BATCH_LIMIT_WARNING = "batch_limit_warning"  # the same, for the batches of a run
    PAUSED = "paused"
    STOPPED = "stopped"  # somebody has to fix a token, a permission or a setting
    COMPLETE = "complete"
    COMPLETE_WITH_ERRORS = "complete_with_errors"  # with dead letters on the way


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=RENAMED):
    """An event as JSON, without the fields that do not apply.

    `type` is the tag of the journal entry; an event without one is live only and not in the journal. `inserted`,
    `updated`, `skipped` (lost to a dead letter, as `dead_lettered`) and `unchanged` are the counts of a batch or, at
    the end of a run, of the run. `batches` (failed ones included), `failed_batches`, the success rate (in per cent) and
    the duration are those of the run so far; rate and duration come as text, such as "98%" and "12s", and as a number.
    In a digest, an event is the last of `times` similar events of `streams` streams.
    """

    status: Status
    message: str
    stream: str
    at: datetime
    type: str | None = None
    run: str | None = None
    batch: int | None = None
    inserted: int | None = None
    updated: int | None = None
    skipped: int | None = None
    unchanged: int | None = None
    dead_lettered: int | None = None
    batches: int | None = None
    failed_batches: int | None = None
    success_text: str | None = None
    success_rate: float | None = None
    duration_text: str | None = None
    duration_seconds: float | None = None
    until: datetime | None = None
    times: int | None = None
    streams: int | None = None


# The statuses of runs that end before their sweep and need no person; all others are `paused`.
_LIMITS = {
    Reason.TIME_LIMIT: Status.TIMEOUT_WARNING,
    Reason.BATCH_LIMIT: Status.BATCH_LIMIT_WARNING,
    Reason.RATE_LIMIT: Status.RATE_LIMITED,
}


def message_of(entry: Entry, run: Run | None) -> Message:
    """Return the message of an entry. `run` is the run as of the entry; None if the entry belongs to no open run."""
    return Message(
        status=_status(entry.event, run),
        message=describe(entry, run).sentence,
        stream=entry.stream.key,
        at=entry.recorded_at,
        type=entry.type,
        run=entry.run_id,
        until=_until(entry.event),
        **_figures(entry.event, run),
        **_so_far(run, entry),
    )


def live_message(notice: UnchangedRead | StoreRetried, now: datetime) -> Message:
    """Return the message of a notice that has no entry: readers get it live or never."""
    match notice:
        case UnchangedRead(checkpoint=checkpoint, tally=tally):
            run, batch = checkpoint.run, checkpoint.unrecorded.batches
            if run is not None and run.ended_at is None:
                batch += run.tally.batches
            words = f"Batch {batch:,}: nothing new"
            return Message(
                status=Status.PROGRESS,
                message=words,
                stream=checkpoint.stream.key,
                at=now,
                batch=batch,
                **_counts(tally),
            )
        case StoreRetried(stream=stream, wait_seconds=wait_seconds):
            until = now + timedelta(seconds=wait_seconds)
            words = f"The database is unavailable, next attempt {ahead(until, now)}"
            return Message(status=Status.DB_RETRYING, message=words, stream=stream.key, at=now, until=until)


def _status(event: Event, run: Run | None) -> Status:  # noqa: C901, PLR0911  (one line for each status)
    match event:
        case events.RunStarted():
            return Status.STARTED
        case (
            events.SweepStarted()
            | events.BatchStored()
            | MessagesOwed()
            | MessagesRead()
            | MessagesMissed()
            | FactsApplied()
            | events.StoreReturned()
            | events.FieldsLeftOut()
            | events.DeadLetterClosed()
            | events.StreamResumed()
            | events.SyncRequested()
            | events.TokenChecked()
            | events.OwnIdChecked()
            | events.StreamRemoved()
        ):
            return Status.PROGRESS
        case events.StreamPaused():
            return Status.PAUSED
        case events.FetchFailed() | events.BatchShrunk() | events.CursorLost() | events.RedriveFailed():
            return Status.RETRYING
        case MessagesFailed():
            return Status.RETRYING
        case events.RateLimited():
            return Status.RATE_LIMITED
        case events.BatchFailed():
            return Status.BATCH_FAILED
        case events.DeadLetterOpened(stage=stage):
            return Status.BATCH_FAILED if stage is Stage.FETCH else Status.BATCH_DB_FAILED
        case events.SweepCompleted():
            return Status.COMPLETE_WITH_ERRORS if has_errors(run) else Status.COMPLETE
        case events.RunEnded(status=status, reason=reason):
            return Status.STOPPED if status is RunStatus.STOPPED else _LIMITS.get(reason, Status.PAUSED)
        case unknown:
            assert_never(unknown)


def _until(event: Event) -> datetime | None:
    """Return the end of the wait that an event begins; None if it begins none."""
    match event:
        case (
            events.FetchFailed(retry_at=until)
            | events.RateLimited(until=until)
            | events.RedriveFailed(redrive_at=until)
        ):
            return until
        case _:
            return None


def _figures(event: Event, run: Run | None) -> dict[str, Any]:
    """Return the number and the counts of the event's batch or, for the end of a run, the counts of the run."""
    match event:
        case events.BatchStored(tally=tally):
            return _counts(tally) | ({"batch": run.tally.batches} if run is not None else {})
        case events.FetchFailed() | events.BatchFailed() | events.BatchShrunk() | events.DeadLetterOpened() if (
            run is not None
        ):
            return {"batch": run.tally.batches + 1}
        case events.RedriveFailed(tally=tally) | events.DeadLetterClosed(tally=tally) if tally != NO_TALLY:
            return _counts(tally)
        case events.SweepCompleted() | events.RunEnded() if run is not None:
            return _counts(run.tally)
        case _:
            return {}


def _counts(tally: Tally) -> dict[str, Any]:
    return {
        "inserted": tally.inserted,
        "updated": tally.updated,
        "skipped": tally.dead_lettered,
        "unchanged": tally.unchanged,
        "dead_lettered": tally.dead_lettered,
    }


def _so_far(run: Run | None, entry: Entry) -> dict[str, Any]:
    if run is None:
        return {}
    rate = Totals(run.tally, run.retries, run.failed_batches).success_rate
    figures: dict[str, Any] = {
        "batches": run.tally.batches + run.failed_batches,
        "failed_batches": run.failed_batches,
    }
    if rate is not None:
        # Rounded down, so that "100%" means that nothing failed.
        figures |= {"success_rate": round(100 * rate, 1), "success_text": f"{int(100 * rate)}%"}
    if run.status is RunStatus.INTERRUPTED:  # when it ended is unknown
        return figures
    seconds = round(max(0.0, (entry.recorded_at - run.started_at).total_seconds()), 1)
    return figures | {"duration_seconds": seconds, "duration_text": f"{seconds:.0f}s"}


# --- on the wire ------------------------------------------------------------------------------------------------------

_encode = msgspec.json.Encoder().encode


class EncodedEvent(Struct, frozen=True):
    """An event as it is sent: its seq (0 if it is live only), what it is filtered and grouped by, and the bytes."""

    seq: int
    stream: str
    status: Status
    wire: bytes
    type: str = ""


def encoded(message: Message, seq: int = 0) -> EncodedEvent:
    """Encode a message as a server-sent event (WHATWG HTML, "Server-sent events"); JSON holds no line break."""
    event_id = b"id: %d\n" % seq if seq else b""
    wire = b"%bdata: %b\n\n" % (event_id, _encode(message))
    return EncodedEvent(seq, message.stream, message.status, wire, message.type or "")


class EntryEncoder:
    """Encodes consecutive entries of some streams. If it starts inside a run, it reads the run's earlier entries."""

    def __init__(self, journal_reader: JournalReader) -> None:
        self._journal_reader = journal_reader
        self._checkpoints: dict[Stream, Checkpoint] = {}  # folded from the open or latest run only

    async def encode(self, stored: Sequence[StoredEntry]) -> list[EncodedEvent]:
        """Encode entries that follow those encoded before."""
        unknown = {each.entry.stream: each.entry.version for each in reversed(stored)}
        unknown = {stream: version for stream, version in unknown.items() if stream not in self._checkpoints}
        if unknown:
            self._checkpoints |= await self._journal_reader.within_runs(unknown)
        return [encoded(message_of(each.entry, self._run_after(each.entry)), each.seq) for each in stored]

    def _run_after(self, entry: Entry) -> Run | None:
        """Fold an entry, and return the run as of the entry; None if no run was open."""
        before = self._checkpoints[entry.stream].run
        after = self._checkpoints[entry.stream] = evolve(self._checkpoints[entry.stream], entry)
        run = after.run
        if run is None or run.run_id != entry.run_id:
            return None
        if isinstance(entry.event, events.SweepCompleted):
            # An entry that is older than the field says it of its own run only, whose beginning is always known here.
            has_left_errors = entry.event.has_errors or run.tally.dead_lettered
            return replace(run, status=RunStatus.COMPLETE_WITH_ERRORS if has_left_errors else RunStatus.COMPLETE)
        was_over = before is not None and before.run_id == entry.run_id and before.ended_at is not None
        return None if was_over else run


# --- digests ----------------------------------------------------------------------------------------------------------

MAX_EVENTS = 12  # of a digest, before those of all streams become one; there are some thirty statuses with types


def digest_of(found: Sequence[EncodedEvent]) -> bytes:
    """Return a digest of consecutive events as it is sent; its last event is the newest.

    Nobody can follow a thousand events a second, and to a browser they are megabytes a minute. Of the events of a
    stream with the same status and type, the last one stands for all; if even those are many, the last one of all
    streams does. So the size of a digest does not depend on how much happens. Each event says how many it stands for,
    so that nothing is left out silently.
    """
    groups = _grouped(found, lambda event: (event.stream, event.status, event.type))
    if len(groups) > MAX_EVENTS:
        groups = _grouped(found, lambda event: (event.status, event.type))
    groups.sort(key=lambda group: group[-1].seq)
    return b"".join(map(_in_one, groups))


def _grouped(
    found: Sequence[EncodedEvent], key_of: Callable[[EncodedEvent], tuple[str, ...]]
) -> list[list[EncodedEvent]]:
    groups: dict[tuple[str, ...], list[EncodedEvent]] = {}
    for event in found:
        groups.setdefault(key_of(event), []).append(event)
    return list(groups.values())


def _in_one(group: Sequence[EncodedEvent]) -> bytes:
    """Return the encoded last event of a group, with the number of events that it stands for."""
    wire, streams = group[-1].wire, len({event.stream for event in group})
    if len(group) > 1:
        wire = wire.replace(b"data: {", b'data: {"times":%d,"streams":%d,' % (len(group), streams), 1)
    return wire
