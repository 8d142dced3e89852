"""When a stream's next turn is due, as every worker sees it: from the journal alone."""

from datetime import datetime, timedelta
from hashlib import sha256

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import Reason
from milepost.core.schedule import next_turn_at
from milepost.engine.supervisor import MAX_LATENESS_SECONDS, Pace


def due_at(checkpoint: Checkpoint, now: datetime, pace: Pace, held_until: datetime | None) -> datetime | None:
    """Say when the stream is to be worked again; None where it is not, because somebody paused it.

    A run that is open is somebody's: who dies has its job given to another one. Only a run of which nothing was heard
    for longer than it can last has lost its job, too.
    """
    run = checkpoint.run
    if checkpoint.on_hold is not None:
        return None
    if run is None:
        return now if held_until is None else max(now, held_until)
    if run.ended_at is None:
        last_sign_at = checkpoint.updated_at or run.started_at
        return last_sign_at + timedelta(seconds=pace.max_run_seconds + MAX_LATENESS_SECONDS)
    if run.reason is Reason.SHUTDOWN:  # its worker has left: others go on at once
        return run.ended_at if held_until is None else max(run.ended_at, held_until)
    return next_turn_at(
        run, run.ended_at, luck_of(run.run_id), interval_seconds=pace.interval_seconds, held_until=held_until
    )


def luck_of(run_id: str) -> float:
    """Give the luck in [0, 1) that every worker draws after this run."""
    return int.from_bytes(sha256(run_id.encode()).digest()[:4]) / 2**32
