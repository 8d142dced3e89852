"""What a decision is: events and rows for one commit; and how runs and sweeps begin and end on record."""

from datetime import datetime
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import BatchUnchanged, Checkpoint, Sweep, is_same_sweep
from milepost.core.events import (
    NO_TALLY,
    BatchStored,
    Event,
    Position,
    Reason,
    RunEnded,
    RunStarted,
    RunStatus,
    SweepStarted,
)
from milepost.core.evolve import fold
from milepost.core.journal import Codec, seal
from milepost.core.model import Changes, Keys, Known, RefusedRow
from milepost.core.plan import Policy, RunBudget, batches_read
from milepost.core.ports import Commit


class Record(Struct, frozen=True):
    """Store these rows and append these events, in one transaction.

    Rows that the store refuses go back to `decide`, as part of the circumstances.
    """

    events: tuple[Event, ...]
    changes: Changes = Changes()


Decision = Record | BatchUnchanged


class Pending(Protocol):
    """A decision in its first half: it lacks what the store holds of `keys` (None: nothing has to be looked up)."""

    @property
    def keys(self) -> Keys | None:
        """The rows to look up."""
        ...

    def record(self, known: Known) -> Decision:
        """Return what to record and what to store, together. `known` is what the store holds of `keys`."""
        ...


class Decided(Struct, frozen=True):
    """A Pending that needs nothing from the store."""

    decision: Decision
    keys: None = None

    def record(self, known: Known) -> Decision:
        """Return the decision."""
        return self.decision


class Context(Struct, frozen=True):
    """What a decision depends on beside the stream: the time, a luck in [0, 1), the run and the settings.

    `refused` are the rows that the store would not take when the same outcome was decided before.
    """

    now: datetime
    jitter: float
    budget: RunBudget
    policy: Policy
    refused: tuple[RefusedRow, ...] = ()


def prepare(checkpoint: Checkpoint, record: Record, run_id: str | None, now: datetime, codec: Codec) -> Commit:
    """Turn a decision into what the store writes: sealed entries, rows, and the projections after them."""
    entries = seal(checkpoint, record.events, run_id, now, codec)
    after = fold(entries, checkpoint)
    return Commit(entries, record.changes, after, after.run)


def conclude(checkpoint: Checkpoint, reason: Reason, budget: RunBudget) -> Record | None:
    """End a run before its sweep is complete. None where it has nothing to record: it read nothing."""
    has_started = checkpoint.run is not None and checkpoint.run.run_id == budget.run_id
    if not has_started and checkpoint.unrecorded == NO_TALLY:
        return None
    ended = RunEnded(RunStatus.PAUSED, reason, _place(checkpoint), checkpoint.unrecorded)
    return Record((*beginnings(checkpoint, checkpoint.sweep, budget), ended))


def recover(checkpoint: Checkpoint, own_run_id: str | None = None) -> Record | None:
    """Close the run that was left open. None where there is none.

    `own_run_id` is the latest run of this process on the stream: any other one was left by a process that died.
    """
    run = checkpoint.run
    if run is None or run.ended_at is not None:
        return None
    reason = Reason.BROKE_OFF if run.run_id == own_run_id else Reason.PROCESS_DIED
    return Record((RunEnded(RunStatus.INTERRUPTED, reason),))


def beginnings(checkpoint: Checkpoint, sweep: Sweep | None, budget: RunBudget) -> tuple[Event, ...]:
    """Give the beginnings that are not yet on record: of the run, and of the sweep."""
    missing: list[Event] = []
    if checkpoint.run is None or checkpoint.run.run_id != budget.run_id:
        missing.append(RunStarted(budget.started_at))
    if sweep is not None and not (checkpoint.sweep_is_recorded and is_same_sweep(checkpoint.sweep, sweep)):
        missing.append(SweepStarted(sweep.mode, sweep.walk_started_at, sweep.catch_up_until, sweep.walk_until))
    return tuple(missing)


def unchanged_before(checkpoint: Checkpoint, budget: RunBudget) -> tuple[Event, ...]:
    """Give what has to be on record before something else is: the batches that were passed over, if there are any."""
    passed = _unchanged(checkpoint, budget)
    return (*beginnings(checkpoint, checkpoint.sweep, budget), *passed) if passed else ()


def recorded(checkpoint: Checkpoint, budget: RunBudget, event: Event) -> Record:
    """Record what happened on the way, after whatever was passed over."""
    return Record((*beginnings(checkpoint, checkpoint.sweep, budget), *_unchanged(checkpoint, budget), event))


def ending(checkpoint: Checkpoint, ended: RunEnded, budget: RunBudget, *before: Event) -> Record:
    """End the run with its place saved, for the reason that `before` tells.

    What was passed over comes first: batches that were read end whatever was the matter before them, not this.
    """
    ended = replace(ended, position=_place(checkpoint))
    return Record((*beginnings(checkpoint, checkpoint.sweep, budget), *_unchanged(checkpoint, budget), *before, ended))


def _place(checkpoint: Checkpoint) -> Position | None:
    """Say where the next run goes on; a lost cursor is tried once more, as long as the sweep has not got on without."""
    sweep = checkpoint.sweep
    if sweep is None:
        return None
    return sweep.position if sweep.lost_cursor is None else replace(sweep.position, cursor=sweep.lost_cursor)


def _unchanged(checkpoint: Checkpoint, budget: RunBudget) -> tuple[Event, ...]:
    """Record the batches that were passed over, before something is recorded that does not carry them itself."""
    if checkpoint.unrecorded == NO_TALLY or checkpoint.sweep is None:
        return ()
    return (BatchStored(checkpoint.sweep.position, checkpoint.unrecorded, batches_read(checkpoint, budget)),)
