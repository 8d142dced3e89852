"""Where a stream stands: the fold of its journal entries, and nothing that is not in them.

One thing is held back on purpose. A batch that changes nothing gets no entry (a quiet sweep of a large inbox would fill
the journal with them); the run passes over it, and the next entry carries what was passed. Until then the checkpoint
in memory is ahead of the journal by `unrecorded`, and a crash costs no more than reading those batches again.
"""

from datetime import datetime

from msgspec import Struct

from milepost.core.events import (
    NO_TALLY,
    Mode,
    Position,
    Reason,
    Resolution,
    RunStatus,
    Stage,
    SweepCompleted,
    Tally,
)
from milepost.core.model import Detail, Scope, TokenHealth
from milepost.core.problems import Problem


class Sweep(Struct, frozen=True, omit_defaults=True):
    """The open sweep: how far it walks, where it goes on, what it brought. The instants are as in SweepStarted.

    `lost_cursor` was refused, and is kept until a batch shows that the sweep gets on without it; `resets` counts such
    losses in the run.
    """

    mode: Mode
    walk_started_at: datetime
    catch_up_until: datetime
    walk_until: datetime | None = None
    position: Position = Position()
    tally: Tally = NO_TALLY
    lost_cursor: str | None = None
    resets: int = 0


class RetryState(Struct, frozen=True, omit_defaults=True):
    """The batch at the sweep's position could not be read `attempts` times so far."""

    attempts: int
    problem: Problem
    retry_at: datetime


class RateLimit(Struct, frozen=True, omit_defaults=True):
    """A rate limit: no call in `scope` until `until`. It was reached `attempts` times in a row since `since`."""

    scope: Scope
    attempts: int
    since: datetime
    until: datetime
    problem: Problem


class ReducedRequest(Struct, frozen=True, omit_defaults=True):
    """Less than the whole is asked for, because of `problem`; `good` batches were read since."""

    limit: int
    detail: Detail
    problem: Problem
    good: int = 0


class FailureStreak(Struct, frozen=True, omit_defaults=True):
    """Run after run ends at the same problem, `runs` of them since `since`."""

    reason: Reason
    since: datetime
    runs: int
    problem: Problem | None = None


class OperatorPause(Struct, frozen=True, omit_defaults=True):
    """Somebody paused the stream: no call until it is resumed."""

    since: datetime
    by: str


class Run(Struct, frozen=True, omit_defaults=True):
    """The stream's latest run, open or ended."""

    run_id: str
    started_at: datetime
    status: RunStatus = RunStatus.RUNNING
    mode: Mode | None = None
    reason: Reason | None = None
    ended_at: datetime | None = None
    tally: Tally = NO_TALLY
    retries: int = 0
    failed_batches: int = 0
    problem: Problem | None = None


class DeadLetter(Struct, frozen=True, omit_defaults=True):
    """What the journal says of a dead letter; its payload is kept apart.

    `reason` is that of the latest failure, `attempts` how many redrives failed, `redrive_at` when the next is due
    (None: never by itself). A letter that was closed stays closed: what fails again opens another.
    """

    dead_letter_id: str
    stream: str
    stage: Stage
    subject: str
    reason: str
    opened_at: datetime
    attempts: int = 0
    redrive_at: datetime | None = None
    closed_at: datetime | None = None
    resolution: Resolution | None = None
    note: str = ""
    fingerprint: str = ""


STORED_NAMES = {
    "retry": "trouble",
    "rate_limit": "pause",
    "reduced_request": "portion",
    "failure_streak": "standstill",
    "operator_pause": "on_hold",
}  # of fields, as in the projection


class Checkpoint(Struct, frozen=True, omit_defaults=True, rename=STORED_NAMES):
    """Where a stream stands after entry number `version`, whose hash is `hash`.

    `unrecorded` and `sweep_is_recorded` concern what was passed over since that entry; both are at rest in every
    checkpoint that is stored.
    """

    stream: str
    version: int = 0
    hash: str = ""
    updated_at: datetime | None = None
    sweep: Sweep | None = None
    retry: RetryState | None = None
    rate_limit: RateLimit | None = None
    reduced_request: ReducedRequest | None = None
    failure_streak: FailureStreak | None = None
    operator_pause: OperatorPause | None = None
    token: TokenHealth | None = None
    run: Run | None = None
    watermark: datetime | None = None
    last_success_at: datetime | None = None
    last_full_sweep_at: datetime | None = None
    open_dead_letters: int = 0
    total: Tally = NO_TALLY
    unrecorded: Tally = NO_TALLY
    sweep_is_recorded: bool = True
    removed_at: datetime | None = None  # set where that entry is its removal: nothing is stored of it


class BatchUnchanged(Struct, frozen=True):
    """A batch that changed nothing was read; `sweep` is the open sweep, standing after it. Not journaled."""

    sweep: Sweep
    tally: Tally


def is_same_sweep(one: Sweep | None, other: Sweep | SweepCompleted) -> bool:
    """Whether both are the same walk over the stream, at whatever position."""
    return one is not None and (one.mode, one.walk_started_at) == (other.mode, other.walk_started_at)
