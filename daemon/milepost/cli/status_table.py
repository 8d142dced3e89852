"""The status of all streams for people: where each stands, what it has brought, and what to do about trouble."""

from datetime import datetime

from milepost.cli.phrases import ago, ahead, counted, in_columns, in_words, on_one_line
from milepost.cli.stream_status import OpenSweep, State, Status, StreamStatus
from milepost.core.events import Phase, Reason

STANDING = ("stream", "state", "open sweep", "place saved", "last success", "next run")
WRITTEN = ("stream", "conversations", "updates", "contacts", "events", "open dead letters")


def rendered(status: Status) -> str:
    """Write the status down."""
    if not status.streams:
        return "No stream has been worked yet: `milepost sync` or `milepost run` begins."
    standing = in_columns([STANDING, *(_standing(stream, status) for stream in status.streams)])
    written = in_columns([WRITTEN, *map(_written, status.streams)], right=frozenset(range(1, len(WRITTEN))))
    told = [line for stream in status.streams for line in _trouble(stream)]
    return "\n".join([*standing, "", *written, *([""] if told else []), *told])


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
        case State.PAUSED if stream.reason is not None:
            return f"{words}: {in_words(stream.reason)}"
        case State.INTERRUPTED:
            return f"{words}: process died"
        case State.STOPPED:
            return f"{words}: {'token' if stream.reason is Reason.AUTHORIZATION else 'configuration'}"
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
    if stream.state in {State.SYNCING, State.RETRYING}:
        return "under way"
    if stream.next_run_at is None:
        return "when the daemon runs"
    return ahead(stream.next_run_at, status.at)


def _trouble(stream: StreamStatus) -> list[str]:
    """Say what is wrong with a stream and what to do; nothing where nothing is."""
    remedy = _remedy(stream)
    if remedy is None:
        return []
    why = f"{stream.stream}: {in_words(stream.state)}"
    return [why if stream.problem is None else f"{why}: {on_one_line(stream.problem)}", f"  → {remedy}"]


def _remedy(stream: StreamStatus) -> str | None:
    remedies = {
        State.COMPLETE_WITH_ERRORS: "what could not be read is kept as dead letters",
        State.RETRYING: "the place is saved, and the batch is tried again",
        State.FAILED: "the place is saved, and the next run tries again",
    }
    match stream.state, stream.reason:
        case State.STOPPED, Reason.AUTHORIZATION:
            return "give the page a new access_token, try it with `milepost config check --online`, and restart"
        case State.STOPPED, _:
            return "correct source or pages, try it with `milepost config check --online`, and restart"
        case State.PAUSED, Reason.RATE_LIMIT:
            return "the place is saved, and the next run goes on there"
        case state, _:
            return remedies.get(state)
