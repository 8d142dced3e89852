"""The checkpoint of a stream: a fold of its journal entries, and of nothing else.

There is one deliberate exception. A batch that changes nothing gets no entry of its own, because a quiet sweep of a
large inbox would fill the journal; the next entry counts it. Until then the checkpoint in memory is ahead of the
journal by `unrecorded`, and a crash costs no more than reading those batches again.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.events import (
    NO_TALLY,
    BatchShrunk,
    DeadLetterOpened,
    Reason,
    Resolution,
    RunStatus,
    Stage,
    SweepCompleted,
    Tally,
)
from milepost.core.model import Detail, OwnId, Stream, TokenHealth
from milepost.core.position import HistoriesLeftOut, HistoryLeft, Mode, Phase, Position
from milepost.core.problems import Problem, Scope, is_unnamed_limit


class RetryState(Struct, frozen=True, omit_defaults=True):
    """Reading the batch at the sweep's position has failed `attempts` times so far.

    `suspect` and `confirmed` are those of the last FetchFailed.
    """

    attempts: int
    problem: Problem
    retry_at: datetime
    suspect: str = ""
    confirmed: int = 0


class ReducedRequest(Struct, frozen=True, omit_defaults=True):
    """Requests are smaller than a whole batch because of `problem`; `good` batches were read since.

    `suspect` is the thread of which requests leave a part out. `worked` is the last smaller limit that worked before:
    if the cause turns out to be an outage, requests return to it (0: to the whole batch). `relapses` counts how often
    in a row requests failed after growing from this limit.
    """

    limit: int
    detail: Detail
    problem: Problem
    good: int = 0
    suspect: str = ""
    worked: int = 0
    relapses: int = 0

    @property
    def proven(self) -> "ReducedRequest | None":
        """The reduced request that worked last; a search that proved nothing starts again from there."""
        if self.good:
            if not self.detail.leaves_out:
                return self
            return replace(self, detail=Detail.SEPARATE, suspect="", good=self.good - 1)
        if not self.worked:
            return None
        return ReducedRequest(self.worked, Detail.NESTED, self.problem, relapses=self.relapses)


class WalkSetAside(Struct, frozen=True, omit_defaults=True):
    """A sweep's position and the problems there, kept while the run reads the head first."""

    position: Position
    reduced_request: ReducedRequest | None = None
    retry: RetryState | None = None


class Lowest(Struct, frozen=True, omit_defaults=True):
    """The earliest of the newest instants in the batches of a phase, or of one of its scans, as in Progress."""

    phase: Phase
    at: datetime
    scan: int = 1


class Sweep(Struct, frozen=True, omit_defaults=True):
    """The open sweep: how far it walks, where it continues and its counts. The instants are those of SweepStarted.

    `lost_cursor` was refused and is kept until a batch shows that the sweep makes progress without it; `resets` counts
    such losses in the run. While the head is read first, the walk is `set_aside`. It `was_unsure` if batches were read
    before our own id was known.

    It `is_rewound` once it restarted for lack of progress; `lowest` is how far its phase has ever got, restarts
    included, and `problem` is why its walk ended early.
    """

    mode: Mode
    walk_started_at: datetime
    catch_up_until: datetime
    walk_until: datetime | None = None
    position: Position = Position()
    tally: Tally = NO_TALLY
    lost_cursor: str | None = None
    resets: int = 0
    set_aside: WalkSetAside | None = None
    was_unsure: bool = False
    is_rewound: bool = False
    lowest: Lowest | None = None
    problem: Problem | None = None

    @property
    def until(self) -> datetime | None:
        """How far back its walk or scan has to go; None is the end of the inbox."""
        if self.position.phase is Phase.WALK:
            return self.walk_until
        return self.position.scan.back_to or self.catch_up_until


class RateLimit(Struct, frozen=True, omit_defaults=True):
    """A rate limit: no calls in `scope` until `until`. It was hit `attempts` times in a row since `since`."""

    scope: Scope
    attempts: int
    since: datetime
    until: datetime
    problem: Problem


class GivenUp(Struct, frozen=True, omit_defaults=True):
    """A thread that made lists fail and has an open dead letter; `detail` is how much of it can be read.

    It `seems_limited` if the lists failed as if by a rate limit.
    """

    dead_letter_id: str
    conversation_id: str
    detail: Detail
    seems_limited: bool = False


class FailureStreak(Struct, frozen=True, omit_defaults=True):
    """The last `runs` runs, since `since`, failed or stopped for the same reason."""

    reason: Reason
    since: datetime
    runs: int
    problem: Problem | None = None


class Doubt(Struct, frozen=True, omit_defaults=True):
    """The last sweep cannot be relied on because of `problem`, which a sweep first had at `since`."""

    problem: Problem
    since: datetime


class OperatorPause(Struct, frozen=True, omit_defaults=True):
    """An operator paused the stream: no calls until it is resumed."""

    since: datetime
    by: str


class MissedSoFar(Struct, frozen=True, omit_defaults=True):
    """The messages that the API has withheld from the stream so far, the latest of them on record since `latest_at`."""

    messages: int
    latest_at: datetime


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
    """A dead letter as in the journal; its payload is stored separately.

    `reason` is that of the latest failure, `attempts` counts failed redrives, and `redrive_at` is when the next one is
    due (None: never automatically). A closed dead letter stays closed: another failure opens another one.
    """

    dead_letter_id: str
    stream: Stream
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
}  # of these fields in the stored projection


class Checkpoint(Struct, frozen=True, omit_defaults=True, rename=STORED_NAMES):
    """The state of a stream after entry number `version`, whose hash is `hash`.

    `futile_runs` counts the runs in a row that resumed the sweep and read nothing new, an open one included.
    `unrecorded` and `sweep_is_recorded` are about unchanged batches since that entry; in stored checkpoints both have
    their defaults.
    """

    stream: Stream
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
    own_id: OwnId | None = None  # if the expected one is in no thread
    run: Run | None = None
    watermark: datetime | None = None
    last_success_at: datetime | None = None
    last_full_sweep_at: datetime | None = None
    doubt: Doubt | None = None
    futile_runs: int = 0
    open_dead_letters: int = 0
    backlog: int = 0  # open gaps: conversations with older messages that are still to be read
    history: HistoryLeft | None = None  # the histories in the backlog
    left_out: HistoriesLeftOut | None = None  # histories that owe nothing and are not on record; None: there are none
    missed: MissedSoFar | None = None
    window_at: datetime | None = None  # since when the API is known to have no messages beyond the newest of a thread
    window_hints: tuple[str, ...] = ()  # conversations that ended there, while they are too few to be certain
    left_out_fields: tuple[str, ...] = ()  # requested fields that the API refuses
    given_up: tuple[GivenUp, ...] = ()
    given_up_in_a_row: int = 0  # threads of this walk that became dead letters, with none read in between
    total: Tally = NO_TALLY
    unrecorded: Tally = NO_TALLY
    sweep_is_recorded: bool = True
    removed_at: datetime | None = None  # set if that entry is its removal: none of its rows are stored

    @property
    def attempt(self) -> int:
        """The number, from 1, of the next attempt to read the batch at the sweep's position."""
        return self.retry.attempts + 1 if self.retry is not None else 1


class BatchUnchanged(Struct, frozen=True):
    """A batch changed nothing and is not journaled; `sweep` is the open sweep after it."""

    sweep: Sweep
    tally: Tally


def is_same_sweep(one: Sweep | None, other: Sweep | SweepCompleted) -> bool:
    """Return whether both are the same walk over the stream, at any position."""
    return one is not None and (one.mode, one.walk_started_at) == (other.mode, other.walk_started_at)


# --- smaller requests: the search for what makes a list fail, and the threads that it gave up -------------------------

MAX_GIVEN_UP = 32  # the latest are remembered


def grown(reduced_request: ReducedRequest | None, tally: Tally) -> ReducedRequest | None:
    """Count the good batches at a reduced size. Stepping over a batch removes the cause of the reduction."""
    if reduced_request is None or not tally.batches:
        return reduced_request
    if reduced_request.detail is Detail.POSITION or reduced_request.suspect:
        return None
    return replace(reduced_request, good=reduced_request.good + tally.batches)


def shrunk_request(before: ReducedRequest | None, shrunk: BatchShrunk) -> ReducedRequest:
    """Return the smaller request of an event, with the knowledge of the previous one."""
    worked = before and before.proven
    relapses = 0
    if before is not None and before.limit >= shrunk.limit:
        relapses = before.relapses + (before.good > 0 and before.limit == shrunk.limit)
    return ReducedRequest(
        shrunk.limit,
        shrunk.detail,
        shrunk.problem,
        suspect=shrunk.suspect,
        worked=worked.limit if worked is not None else 0,
        relapses=relapses,
    )


def with_given_up(checkpoint: Checkpoint, opened: DeadLetterOpened) -> tuple[GivenUp, ...]:
    """Remember a thread that becomes a dead letter because lists with it fail."""
    reduced = checkpoint.reduced_request
    if reduced is None or not reduced.detail.leaves_out or not reduced.suspect:
        return checkpoint.given_up
    if opened.stage is not Stage.FETCH or opened.subject.removesuffix("/messages") != reduced.suspect:
        return checkpoint.given_up
    given_up = GivenUp(
        opened.dead_letter_id, reduced.suspect, reduced.detail, seems_limited=is_unnamed_limit(reduced.problem)
    )
    others = (each for each in checkpoint.given_up if each.conversation_id != reduced.suspect)
    return (*others, given_up)[-MAX_GIVEN_UP:]


def given_up_in_a_row(checkpoint: Checkpoint, tally: Tally) -> int:
    """Count the threads in a row that became dead letters because a list failed; one that was read ends the row."""
    reduced = checkpoint.reduced_request
    leaves_out = reduced is not None and reduced.detail.leaves_out and not reduced.good
    if leaves_out and tally.unreadable:
        return checkpoint.given_up_in_a_row + tally.dead_lettered
    return 0 if tally.conversations else checkpoint.given_up_in_a_row


# --- instants in the future: the clock was ahead when they were written, or is behind now -----------------------------

# Nothing waits for them. Each is handled where it is compared: the watermark and the last full sweep in core/plan.py, a
# rate limit in core/retry.py, the end of a run where the next one is scheduled.
TOLERATED_SECONDS = 60.0  # by which the clocks of several machines may differ without harm


def is_ahead(instant: datetime | None, now: datetime) -> bool:
    """Return whether an instant that should be past is in the future by more than clocks usually differ."""
    return instant is not None and instant > now + timedelta(seconds=TOLERATED_SECONDS)


def furthest_ahead(checkpoints: Iterable[Checkpoint], now: datetime) -> dict[str, datetime]:
    """Return descriptions of the stored instants in the future, each with the latest such instant."""
    found: dict[str, datetime] = {}
    for checkpoint in checkpoints:
        for what, instant in _of_the_past(checkpoint):
            if instant is not None and is_ahead(instant, now):
                found[what] = max(instant, found.get(what, instant))
    return found


def _of_the_past(checkpoint: Checkpoint) -> Iterator[tuple[str, datetime | None]]:
    """Yield the instants of a checkpoint that were not in the future when they were stored."""
    yield "a journal entry", checkpoint.updated_at
    yield "the watermark of a sweep", checkpoint.watermark
    yield "a full sweep", checkpoint.last_full_sweep_at
    if checkpoint.run is not None:
        yield "the start of a run", checkpoint.run.started_at
        yield "the end of a run", checkpoint.run.ended_at
    if checkpoint.sweep is not None:
        yield "the start of a sweep", checkpoint.sweep.walk_started_at
    if checkpoint.rate_limit is not None:
        yield "a rate limit", checkpoint.rate_limit.since
