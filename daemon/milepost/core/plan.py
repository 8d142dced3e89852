"""What to do next: a pure function of where the stream stands, the time, and the limits of the run."""

from datetime import datetime, timedelta

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, Sweep, overlap_before
from milepost.core.events import Mode, Phase, Reason
from milepost.core.ports import Request


class Policy(Struct, frozen=True):
    """The settings that decisions depend on. A `full_sweep_interval_seconds` of 0 is never."""

    batch_size: int = 50
    messages_per_conversation: int = 20
    watermark_overlap_seconds: float = 600.0
    full_sweep_interval_seconds: float = 7 * 86400.0
    attempts: int = 3
    base_delay_seconds: float = 2.0
    max_delay_seconds: float = 32.0


class Slice(Struct, frozen=True):
    """One run's share of the work. A stop that is asked for moves `deadline_at` to now and sets `is_stopping`."""

    run_id: str
    started_at: datetime
    deadline_at: datetime
    max_batches: int
    wants_full: bool = False
    is_stopping: bool = False


class Fetch(Struct, frozen=True):
    """Read the batch at the sweep's position."""

    request: Request


class Wait(Struct, frozen=True):
    """Do nothing until then."""

    until: datetime


class Finish(Struct, frozen=True):
    """End the run with its place saved."""

    reason: Reason


Action = Fetch | Wait | Finish


def plan(checkpoint: Checkpoint, now: datetime, work: Slice, policy: Policy) -> Action:
    """Say what the run does next."""
    if work.is_stopping:
        return Finish(Reason.SHUTDOWN)
    if batches_read(checkpoint, work) >= work.max_batches:
        return Finish(Reason.BATCH_LIMIT)
    if now >= work.deadline_at:
        return Finish(Reason.TIME_LIMIT)
    if checkpoint.trouble is not None and checkpoint.trouble.retry_at > now:
        if checkpoint.trouble.retry_at >= work.deadline_at:
            return Finish(Reason.TIME_LIMIT)
        return Wait(checkpoint.trouble.retry_at)
    return Fetch(_request(checkpoint, now, work, policy))


def batches_read(checkpoint: Checkpoint, work: Slice) -> int:
    """Count the batches that this run has read, recorded or passed over."""
    run = checkpoint.run
    recorded = run.tally.batches if run is not None and run.run_id == work.run_id else 0
    return recorded + checkpoint.unrecorded.batches


def is_over(checkpoint: Checkpoint, work: Slice) -> bool:
    """Whether the run has ended, completed or not."""
    run = checkpoint.run
    return run is not None and run.run_id == work.run_id and run.ended_at is not None


def open_sweep(checkpoint: Checkpoint, work: Slice) -> Sweep | None:
    """Give the sweep to go on with: none where none is open, or where a full one is wanted and the open one is not."""
    sweep = checkpoint.sweep
    if sweep is not None and work.wants_full and sweep.mode is not Mode.FULL:
        return None
    return sweep


def next_mode(checkpoint: Checkpoint, now: datetime, work: Slice, policy: Policy) -> Mode:
    """Say which kind of sweep begins when a new one does."""
    if work.wants_full or checkpoint.watermark is None or checkpoint.last_full_sweep_at is None:
        return Mode.FULL
    if policy.full_sweep_interval_seconds:
        is_due_at = checkpoint.last_full_sweep_at + timedelta(seconds=policy.full_sweep_interval_seconds)
        if now >= is_due_at:
            return Mode.FULL
    return Mode.INCREMENTAL


def walk_limit(checkpoint: Checkpoint, mode: Mode, policy: Policy) -> datetime | None:
    """Say how far back a new sweep's walk has to go; None is the end of the inbox."""
    if mode is Mode.FULL or checkpoint.watermark is None:
        return None
    return overlap_before(checkpoint.watermark, policy.watermark_overlap_seconds)


def _request(checkpoint: Checkpoint, now: datetime, work: Slice, policy: Policy) -> Request:
    sweep = open_sweep(checkpoint, work)
    if sweep is None:
        cursor = None
        until = walk_limit(checkpoint, next_mode(checkpoint, now, work, policy), policy)
    else:
        cursor = sweep.position.cursor
        until = sweep.walk_until if sweep.position.phase is Phase.WALK else sweep.catch_up_until
    is_last = batches_read(checkpoint, work) + 1 >= work.max_batches
    return Request(cursor, policy.batch_size, policy.messages_per_conversation, until, is_last)
