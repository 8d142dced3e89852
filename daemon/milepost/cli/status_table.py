"""The status of all streams for people: where each stands, what it waits for and what to do, what it has brought."""

from datetime import datetime

from milepost.core.events import Phase, Reason
from milepost.reporting.humanize import ago, ahead, counted, in_columns, in_words, on_one_line, waiting
from milepost.reporting.status import State
from milepost.reporting.views import OpenSweep, Status, StreamStatus

STANDING = ("stream", "state", "open sweep", "place saved", "last success", "next run")
WRITTEN = ("stream", "conversations", "updates", "contacts", "events", "open dead letters")


def rendered(status: Status) -> str:
    """Write the status down."""
    if not status.streams:
        return "No stream has been worked yet: `milepost sync` or `milepost run` begins."
    head, *rows = in_columns([STANDING, *(_standing(stream, status) for stream in status.streams)])
    lines = [head]
    for stream, row in zip(status.streams, rows, strict=True):
        lines += row, *(f"  {line}" for line in _waiting(stream, status.at))
    written = in_columns([WRITTEN, *map(_written, status.streams)], right=frozenset(range(1, len(WRITTEN))))
    return "\n".join([*lines, "", *written])


def _standing(stream: StreamStatus, status: Status) -> tuple[str, ...]:
    return (
        stream.stream,
        _state(stream, status.at),
        _sweep(stream.sweep),
        ago(stream.updated_at, status.at),
        ago(stream.last_success_at, status.at),
        _next_run(stream, status),
    )


def _written(stream: StreamStatus) -> tuple[str, ...]:
    written = stream.written
    counts = (
        written.conversations_inserted,
        written.conversations_updated,
        written.contacts,
        written.interaction_events,
        stream.open_dead_letters,
    )
    return (stream.stream, *(f"{count:,}" for count in counts))


def _state(stream: StreamStatus, now: datetime) -> str:
    words = in_words(stream.state)
    match stream.state:
        case State.SYNCING if stream.sweep is not None:
            return f"{words}, at batch {stream.sweep.batches + 1:,}"
        case State.RETRYING if stream.retry_at is not None:
            return f"{words} {ahead(stream.retry_at, now)}"
        case State.PAUSED | State.STOPPED if stream.reason is not None:
            return f"{words}: {in_words(stream.reason)}"
        case State.INTERRUPTED if stream.reason is not Reason.BROKE_OFF:
            return f"{words}: process died"
        case _:
            return words


def _sweep(sweep: OpenSweep | None) -> str:
    if sweep is None:
        return "-"
    phase = " catch-up" if sweep.phase is Phase.CATCH_UP else ""
    return f"{sweep.mode}{phase}, {counted(sweep.batches, 'batch', 'batches')}"


def _next_run(stream: StreamStatus, status: Status) -> str:
    if stream.is_configured is False:
        return "not configured"
    if not status.is_at_work:
        return "when the daemon runs"
    if stream.next_run_at is None:
        return "under way"
    return ahead(stream.next_run_at, status.at)


def _waiting(stream: StreamStatus, now: datetime) -> list[str]:
    """Say what a stream waits for, why, and what to do; nothing where it waits for nothing but its turn."""
    lines = []
    if stream.waits_for is not None:
        lines.append(waiting(stream.waits_for, stream.since, stream.until, now))
    if stream.problem is not None:
        lines.append(f"because of this: {on_one_line(stream.problem)}")
    if stream.advice is not None:
        lines.append(f"→ {stream.advice}")
    if stream.remark is not None:
        lines.append(on_one_line(stream.remark))
    return lines
