"""A journal entry as one line: in words for people, or as the JSON object that `tail --json` and `export` write."""

from datetime import UTC, datetime
from typing import assert_never

import msgspec
from msgspec import Struct

from milepost.cli.phrases import counted, in_words, lasting, on_one_line
from milepost.core.chain import instant_text
from milepost.core.events import (
    BatchFailed,
    BatchStored,
    DeadLetterOpened,
    Event,
    FetchFailed,
    Phase,
    RunEnded,
    RunStarted,
    StoreReturned,
    SweepCompleted,
    SweepStarted,
    Tally,
)
from milepost.stores.archive import Placed

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


def as_json(placed: Placed) -> bytes:
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


def as_text(placed: Placed) -> str:
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
        case BatchStored(position=position, tally=tally):
            at_head = position.phase is Phase.CATCH_UP and position.cursor is None
            return f"{_brought(tally)}{'; the catch-up scan begins' if at_head else ''}"
        case FetchFailed(attempt=attempt, problem=problem, retry_at=retry_at):
            return f"attempt {attempt} failed: {problem}; tried again at {_second(retry_at)}"
        case BatchFailed(stage=stage, attempts=attempts, problem=problem):
            return f"batch given up after {counted(attempts, 'attempt')} ({stage}): {problem}"
        case DeadLetterOpened(dead_letter_id=letter_id, subject=subject, reason=reason):
            return f"dead letter {letter_id} opened for {subject}: {reason}"
        case SweepCompleted(mode=mode, tally=tally):
            return f"{mode} sweep complete: {_brought(tally)}"
        case RunEnded(tally=tally):
            read = f"; {_brought(tally)}" if tally.batches else ""
            why = f": {event.problem}" if event.problem is not None else ""
            return f"run {in_words(event.status)}: {in_words(event.reason)}{why}{read}"
        case StoreReturned(away_seconds=seconds, attempts=attempts):
            return f"the database answered again after {lasting(seconds)} and {counted(attempts, 'attempt')}"
        case unknown:
            assert_never(unknown)


def _brought(tally: Tally) -> str:
    """Say what batches brought, and nothing of what they did not."""
    counts = (
        (tally.inserted, f"{tally.inserted:,} inserted"),
        (tally.updated, f"{tally.updated:,} updated"),
        (tally.unchanged, f"{tally.unchanged:,} unchanged"),
        (tally.dead_lettered, f"{tally.dead_lettered:,} dead-lettered"),
        (tally.contacts, f"{counted(tally.contacts, 'contact')} written"),
        (tally.interaction_events, f"{counted(tally.interaction_events, 'event')} written"),
        (tally.without_contact, f"{tally.without_contact:,} without a contact"),
        (tally.order_violations, f"{tally.order_violations:,} out of order"),
    )
    return ", ".join((counted(tally.batches, "batch", "batches"), *(words for number, words in counts if number)))


def _second(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
