"""What a stream is doing, in one word for operators."""

from enum import StrEnum
from typing import assert_never

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import RunStatus


class StreamState(StrEnum):
    """What a stream is doing, or how its latest run left it."""

    IDLE = "idle"  # waits for its next turn, with nothing left to read
    SYNCING = "syncing"
    RETRYING = "retrying"  # the source or the store failed; the same work is tried again
    PAUSED = "paused"  # at a limit, for a shutdown or after a crash; the next run goes on there
    FAILED = "failed"  # retries used up; the next run tries again
    STOPPED = "stopped"  # needs a person


def state_at_work(checkpoint: Checkpoint) -> StreamState:
    """Say it of a stream whose checkpoint has just been recorded."""
    if checkpoint.run is None:
        return StreamState.IDLE
    match checkpoint.run.status:
        case RunStatus.RUNNING:
            return StreamState.SYNCING if checkpoint.trouble is None else StreamState.RETRYING
        case RunStatus.COMPLETE | RunStatus.COMPLETE_WITH_ERRORS:
            return StreamState.IDLE
        case RunStatus.PAUSED | RunStatus.INTERRUPTED:
            return StreamState.PAUSED
        case RunStatus.FAILED:
            return StreamState.FAILED
        case RunStatus.STOPPED:
            return StreamState.STOPPED
        case unknown:
            assert_never(unknown)


def state_at_rest(checkpoint: Checkpoint) -> StreamState:
    """Say it of a stream that nobody works: a run that is open was left so by a process that died."""
    is_open = checkpoint.run is not None and checkpoint.run.status is RunStatus.RUNNING
    return StreamState.PAUSED if is_open else state_at_work(checkpoint)
