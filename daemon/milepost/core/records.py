"""Decisions: the events and rows of one commit, and how runs and sweeps start and end in the journal.

Decisions that follow from each other are drafts until they are committed together. A quiet head is a batch that needs
none: it is known to change nothing.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import BatchUnchanged, Checkpoint, Sweep, is_same_sweep
from milepost.core.doubts import futility, has_moved
from milepost.core.events import (
    NO_TALLY,
    BatchStored,
    Event,
    FieldsLeftOut,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    SweepStarted,
    Tally,
)
from milepost.core.evolve import fold
from milepost.core.journal import Codec, seal
from milepost.core.model import Batch, Changes, Keys, Known, RefusedRow
from milepost.core.plan import Policy, RunBudget, batches_read
from milepost.core.ports import Commit, Fetched, Outcome, Refused
from milepost.core.position import Mode, Phase, Position
from milepost.core.retry import backoff_seconds
from milepost.core.walk import return_to_walk


class Record(Struct, frozen=True):
    """Rows to store and events to append, in one transaction.

    Rows that the store refuses go back to `decide` as part of its context. `arrived` has the times of the messages that
    are new since the last sweep, and so are neither history nor part of a first copy. `quiet` is the batch if it
    changed nothing, for use by the next sweep.
    """

    events: tuple[Event, ...]
    changes: Changes = Changes()
    arrived: tuple[datetime, ...] = ()
    quiet: "QuietHead | None" = None


def arrived_since(instant: datetime | None, changes: Changes) -> tuple[datetime, ...]:
    """Return the times of the new messages since an instant; none if there is no instant, as in a first copy."""
    times = (row.occurred_at for row in changes.interaction_events)
    return () if instant is None else tuple(each for each in times if each > instant)


def with_news(changes: Changes, news_after: datetime | None) -> Changes:
    """Return changes with their news marked: the messages sent after an instant; none if there is no instant."""
    has_messages = bool(changes.interaction_events)
    return replace(changes, news_after=news_after) if has_messages and news_after is not None else changes


Decision = Record | BatchUnchanged


class Pending(Protocol):
    """The first half of a decision: it still needs the stored rows under `keys` (None: it needs none)."""

    @property
    def keys(self) -> Keys | None:
        """The rows to look up."""
        ...

    def record(self, known: Known) -> Decision:
        """Return the events and rows to commit together. `known` has the stored rows under `keys`."""
        ...


class Decided(Struct, frozen=True):
    """A Pending that needs nothing from the store."""

    decision: Decision
    keys: None = None

    def record(self, known: Known) -> Decision:
        """Return the decision."""
        return self.decision


class Context(Struct, frozen=True):
    """Inputs to a decision besides the checkpoint: the time, a random draw in [0, 1), the run's budget and the policy.

    `refused` are the rows that the store refused when this outcome was decided before. `quiet` is the unchanged head of
    the previous sweep, if it is known.
    """

    now: datetime
    jitter: float
    budget: RunBudget
    policy: Policy
    refused: tuple[RefusedRow, ...] = ()
    quiet: "QuietHead | None" = None

    def as_of(self, refused: Refused) -> "Context":
        """Return the context at the time of a refusal: a rate limit begins with its response, not with the decision."""
        return self if refused.refused_at is None else replace(self, now=refused.refused_at)

    def retry_at(self, attempt: int) -> datetime:
        """Return when to try again after attempt number `attempt` (1, 2, …) failed."""
        base_seconds, max_seconds = self.policy.base_delay_seconds, self.policy.max_delay_seconds
        seconds = backoff_seconds(attempt, self.jitter, base_delay_seconds=base_seconds, max_delay_seconds=max_seconds)
        return self.now + timedelta(seconds=seconds)


def prepare(checkpoint: Checkpoint, record: Record, run_id: str | None, now: datetime, codec: Codec) -> Commit:
    """Return the commit of a decision: sealed entries, rows, and the projections after them."""
    entries = seal(checkpoint, record.events, run_id, now, codec)
    after = fold(entries, checkpoint)
    return Commit(entries, record.changes, after, after.run)


# --- how runs and sweeps start and end --------------------------------------------------------------------------------


def conclude(checkpoint: Checkpoint, reason: Reason, budget: RunBudget) -> Record | None:
    """Return the record that ends a run before its sweep is complete; None if it read nothing."""
    has_started = checkpoint.run is not None and checkpoint.run.run_id == budget.run_id
    if not has_started and checkpoint.unrecorded == NO_TALLY:
        return None
    problem = futility(_futile_runs(checkpoint, has_started=has_started))
    ended = RunEnded(RunStatus.PAUSED, reason, _saved_position(checkpoint), checkpoint.unrecorded, problem)
    return Record((*beginnings(checkpoint, checkpoint.sweep, budget), ended))


def _futile_runs(checkpoint: Checkpoint, *, has_started: bool) -> int:
    """Return how many runs in a row were futile if the one under way ends now."""
    sweep = checkpoint.sweep
    if sweep is None or has_moved(sweep, sweep.position, checkpoint.unrecorded):
        return 0
    return checkpoint.futile_runs + (not has_started and checkpoint.sweep_is_recorded)


def recover(checkpoint: Checkpoint, own_run_id: str | None = None) -> Record | None:
    """Return the record that closes a run that was left open; None if there is none.

    `own_run_id` is this process's latest run of the stream: any other was left open by a process that died.
    """
    run = checkpoint.run
    if run is None or run.ended_at is not None:
        return None
    reason = Reason.BROKE_OFF if run.run_id == own_run_id else Reason.PROCESS_DIED
    return Record((RunEnded(RunStatus.INTERRUPTED, reason),))


def beginnings(checkpoint: Checkpoint, sweep: Sweep | None, budget: RunBudget) -> tuple[Event, ...]:
    """Return the starts of run and sweep that are not journaled yet."""
    missing: list[Event] = []
    if checkpoint.run is None or checkpoint.run.run_id != budget.run_id:
        missing.append(RunStarted(budget.started_at, _continued(checkpoint, sweep)))
    if sweep is not None and not (checkpoint.sweep_is_recorded and is_same_sweep(checkpoint.sweep, sweep)):
        missing.append(SweepStarted(sweep.mode, sweep.walk_started_at, sweep.catch_up_until, sweep.walk_until))
    return tuple(missing)


def _continued(checkpoint: Checkpoint, sweep: Sweep | None) -> Phase | None:
    """Return the phase in which a run resumes the open sweep; None if it starts a new one."""
    is_open = checkpoint.sweep_is_recorded and sweep is not None and is_same_sweep(checkpoint.sweep, sweep)
    return sweep.position.phase if is_open and sweep is not None else None


def note_left_out(checkpoint: Checkpoint, outcome: Outcome, budget: RunBudget) -> Record | None:
    """Return the record of the fields that the API refuses by name; None if it exists already, or none is known."""
    left_out = outcome.left_out if isinstance(outcome, Fetched) else None
    if left_out is None or left_out == checkpoint.left_out_fields:
        return None
    return recorded(checkpoint, budget, FieldsLeftOut(left_out))


def unchanged_before(checkpoint: Checkpoint, budget: RunBudget) -> tuple[Event, ...]:
    """Return the events that must precede any other: those of unchanged batches, if there are any."""
    unchanged = _unchanged(checkpoint, budget)
    return (*beginnings(checkpoint, checkpoint.sweep, budget), *unchanged) if unchanged else ()


def recorded(checkpoint: Checkpoint, budget: RunBudget, event: Event) -> Record:
    """Return the record of an event of an open run, after the unchanged batches before it."""
    return Record((*beginnings(checkpoint, checkpoint.sweep, budget), *_unchanged(checkpoint, budget), event))


def ending(checkpoint: Checkpoint, ended: RunEnded, budget: RunBudget, *before: Event) -> Record:
    """Return the record that ends the run with its position saved, after the events `before`, which explain why.

    Unchanged batches come first: they end the problems that preceded them, not this one.
    """
    position = _saved_position(checkpoint)
    if position is not None and checkpoint.sweep is not None and checkpoint.sweep.set_aside is None:
        position = replace(position, is_after_head=False)  # the walk has had its turn
    ended = replace(ended, position=position)
    return Record((*beginnings(checkpoint, checkpoint.sweep, budget), *_unchanged(checkpoint, budget), *before, ended))


def _saved_position(checkpoint: Checkpoint) -> Position | None:
    """Return where the next run continues; a lost cursor is tried again unless the sweep has moved on without it."""
    sweep = return_to_walk(checkpoint).sweep
    if sweep is None:
        return None
    return sweep.position if sweep.lost_cursor is None else replace(sweep.position, cursor=sweep.lost_cursor)


def _unchanged(checkpoint: Checkpoint, budget: RunBudget) -> tuple[Event, ...]:
    """Return the event for the unchanged batches, to precede an event that does not count them itself."""
    if checkpoint.unrecorded == NO_TALLY or checkpoint.sweep is None:
        return ()
    return (BatchStored(checkpoint.sweep.position, checkpoint.unrecorded, batches_read(checkpoint, budget)),)


# --- drafts: decisions that are committed together --------------------------------------------------------------------

# Each of them follows from the previous one. If the API is faster than the database, this saves most of the database's
# work, because its pages are written once for all of them. It requires that none of them writes a row that another one
# has to look up.

MAX_DRAFTS = 48  # more save little: by then, many index pages are written once for several rows


class Draft(Struct, frozen=True):
    """A record that is not stored yet, and its commit. `keys` are the rows that were looked up for it.

    `fetch_seconds` is how long the source took, if the record is the outcome of a fetch.
    """

    record: Record
    commit: Commit
    run_id: str
    keys: Keys | None = None
    fetch_seconds: float | None = None


class DraftedIds:
    """The ids that the drafts of a group are about."""

    def __init__(self) -> None:
        self._seen: tuple[set[str], ...] | None = (set(), set(), set(), set())

    def add(self, draft: Draft) -> None:
        """Take in a draft."""
        changes, keys = draft.record.changes, draft.keys
        if keys is None or changes.moved or changes.own_id is not None:  # these write to more rows than their keys
            self._seen = None
        elif self._seen is not None:
            for seen, ids in zip(self._seen, _ids(keys), strict=True):
                seen.update(ids)

    def leave_alone(self, keys: Keys | None) -> bool:
        """Return whether the drafts leave the rows under the keys of a decision unchanged."""
        if self._seen is None or keys is None or keys.full_sweep_at is not None or keys.counts_stored:
            return False
        return all(seen.isdisjoint(ids) for seen, ids in zip(self._seen, _ids(keys), strict=True))


def _ids(keys: Keys) -> tuple[tuple[str, ...], ...]:
    return keys.conversations, keys.contacts, keys.interaction_events, keys.subjects


def prepare_after(
    checkpoint: Checkpoint, events: tuple[Event, ...], drafts: Iterable[Draft], now: datetime, codec: Codec
) -> list[Commit]:
    """Return the commits of drafts. The first one also records these events, before its own."""
    commits: list[Commit] = []
    for draft in drafts:
        record = replace(draft.record, events=(*events, *draft.record.events))
        commit = prepare(checkpoint, record, draft.run_id, now, codec)
        commits.append(replace(commit, known=draft.commit.known))
        checkpoint, events = commit.checkpoint, ()
    return commits


# --- quiet heads ------------------------------------------------------------------------------------------------------

# A quiet head is the first batch of a sweep, if it equals that of the previous sweep, which changed nothing. Nearly
# every sweep of nearly every inbox reads such a batch. If nothing was written to the stream since, the stored rows are
# the same, so they need not be looked up or compared again. That halves the work of such a sweep. It is kept in memory
# only, as a digest and the counts of one batch for each stream.

# Without an entry of this stream, rows of its page may move to another page, and people may be erased.
LASTS = timedelta(hours=1)


class QuietHead(Struct, frozen=True):
    """A batch at the head of an inbox that changed nothing when it was compared with the stored rows.

    `tally` has its counts. It is valid as long as the stream has the `version` after that sweep, and the same policy.
    """

    version: int
    digest: int
    tally: Tally
    policy: Policy
    compared_at: datetime


def may_be_quiet(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> bool:
    """Return whether a batch is the first of an incremental sweep, and concerns only the rows of its stream."""
    is_first = sweep.mode is Mode.INCREMENTAL and sweep.position.phase is Phase.WALK and sweep.position.cursor is None
    is_plain = not (batch.unreadable or checkpoint.open_dead_letters or checkpoint.reduced_request)
    return is_first and is_plain and bool(batch.conversations) and checkpoint.unrecorded == NO_TALLY


def digest(batch: Batch) -> int:
    """Return a digest of a batch's conversations, which is comparable only within a process."""
    return hash((batch.conversations, batch.own_id))


def is_as_before(
    head: QuietHead, checkpoint: Checkpoint, sweep: Sweep, batch: Batch, policy: Policy, now: datetime
) -> bool:
    """Return whether a batch equals the one that was compared before, with nothing written to its stream since."""
    is_recent = timedelta() <= now - head.compared_at < LASTS
    is_same_state = head.version == checkpoint.version and head.policy == policy
    may_be = is_recent and is_same_state and may_be_quiet(checkpoint, sweep, batch)
    return may_be and head.digest == digest(batch)
