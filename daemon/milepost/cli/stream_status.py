"""Where every stream stands, as a value: what `milepost status` shows, and with `--json` writes as it is.

The names of the fields and the values of `state` are promised to scripts. New fields may be added; instants are
ISO 8601 in UTC.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.events import Mode, Phase, Reason, RunStatus
from milepost.core.schedule import next_turn_at


class State(StrEnum):
    """What a stream is at."""

    NEVER_SYNCED = "never_synced"
    SYNCING = "syncing"
    RETRYING = "retrying"  # a batch could not be read; it is tried again at `retry_at`
    COMPLETE = "complete"  # the latest sweep is
    COMPLETE_WITH_ERRORS = "complete_with_errors"  # the latest sweep is, and left dead letters
    PAUSED = "paused"  # at the limit that `reason` names; the next run goes on there
    FAILED = "failed"  # retries used up; the next run goes on there
    STOPPED = "stopped"  # somebody has to mend what `reason` names
    INTERRUPTED = "interrupted"  # the process died; the next run goes on there


class OpenSweep(Struct, frozen=True):
    """The sweep that is not complete yet, `batches` so far."""

    mode: Mode
    phase: Phase
    batches: int
    walk_started_at: datetime


class Written(Struct, frozen=True):
    """What was ever written for a stream. Of contacts and conversations each change counts again."""

    conversations_inserted: int
    conversations_updated: int
    contacts: int
    interaction_events: int


class StreamStatus(Struct, frozen=True):
    """Where a stream stands. `updated_at` is the time of its last journal entry.

    `next_run_at` is an estimate; None while a run is under way, where no Milepost is at work, and for a stream that
    the configuration does not name (`is_configured`; None where it leaves that to the simulator).
    """

    stream: str
    state: State
    is_configured: bool | None
    reason: Reason | None
    problem: str | None
    retry_at: datetime | None
    sweep: OpenSweep | None
    updated_at: datetime | None
    last_success_at: datetime | None
    last_full_sweep_at: datetime | None
    watermark: datetime | None
    written: Written
    open_dead_letters: int
    next_run_at: datetime | None


class Status(Struct, frozen=True):
    """Where all streams stand at the instant `at`. `is_at_work`: whether a Milepost holds the database."""

    at: datetime
    database: str
    is_at_work: bool
    streams: tuple[StreamStatus, ...]


class Surroundings(Struct, frozen=True):
    """What the status depends on beside the journal. `configured` is None where the simulator names the streams."""

    now: datetime
    is_at_work: bool
    configured: Sequence[str] | None
    interval_seconds: float


def statuses(checkpoints: Iterable[Checkpoint], around: Surroundings) -> tuple[StreamStatus, ...]:
    """Say where every journaled or configured stream stands: the configured ones in their order, then the others."""
    journaled = {checkpoint.stream: checkpoint for checkpoint in checkpoints}
    names = dict.fromkeys((*(around.configured or ()), *journaled))
    return tuple(_status(journaled.get(name) or Checkpoint(name), around) for name in names)


def _status(checkpoint: Checkpoint, around: Surroundings) -> StreamStatus:
    run, sweep, trouble, total = checkpoint.run, checkpoint.sweep, checkpoint.trouble, checkpoint.total
    state = _state(checkpoint, around)
    problem = trouble.problem if trouble is not None else run.problem if run is not None else None
    is_configured = None if around.configured is None else checkpoint.stream in around.configured
    return StreamStatus(
        stream=checkpoint.stream,
        state=state,
        is_configured=is_configured,
        reason=run.reason if run is not None else None,
        problem=None if problem is None else str(problem),
        retry_at=trouble.retry_at if trouble is not None and state is State.RETRYING else None,
        sweep=None
        if sweep is None
        else OpenSweep(sweep.mode, sweep.position.phase, sweep.tally.batches, sweep.walk_started_at),
        updated_at=checkpoint.updated_at,
        last_success_at=checkpoint.last_success_at,
        last_full_sweep_at=checkpoint.last_full_sweep_at,
        watermark=checkpoint.watermark,
        written=Written(total.inserted, total.updated, total.contacts, total.interaction_events),
        open_dead_letters=checkpoint.open_dead_letters,
        next_run_at=_next_run_at(run, state, around) if is_configured is not False else None,
    )


def _state(checkpoint: Checkpoint, around: Surroundings) -> State:
    run = checkpoint.run
    if run is None:
        return State.NEVER_SYNCED
    if run.status is not RunStatus.RUNNING:
        return State(run.status.value)
    if not around.is_at_work:
        return State.INTERRUPTED
    return State.SYNCING if checkpoint.trouble is None else State.RETRYING


def _next_run_at(run: Run | None, state: State, around: Surroundings) -> datetime | None:
    if not around.is_at_work or state in {State.SYNCING, State.RETRYING}:
        return None
    if run is None:
        return around.now
    return next_turn_at(run, around.now, 0.5, interval_seconds=around.interval_seconds)
