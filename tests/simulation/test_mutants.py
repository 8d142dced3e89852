"""Negative controls: a core that is wrong in a way that others are wrong must not live through the simulation."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from msgspec.structs import replace

from kit.builders import NOON
from kit.memory_store import MemoryStore
from kit.scenarios import scenarios
from kit.simulation import Decide, Scenario, Simulation
from milepost.core.checkpoint import BatchPassed, Checkpoint, Sweep
from milepost.core.decide import Circumstances, Decision, Record, _next_position, _opening, decide
from milepost.core.events import BatchStored, Event, Position, SweepCompleted
from milepost.core.events import Phase as SweepPhase
from milepost.core.model import Batch, Known
from milepost.core.ports import Commit, Committed, Fetched, Outcome, Refused

MAX_EXAMPLES = 300  # as many as the sound core has to live through


# --- decisions gone wrong ---------------------------------------------------------------------------------------------


class LargestAsWatermark:
    """Takes the largest `updated_time` seen for the watermark, as connectors do."""

    def __init__(self) -> None:
        self.largest = NOON

    def __call__(self, checkpoint: Checkpoint, outcome: Outcome, luck: Circumstances, known: Known) -> Decision:
        if isinstance(outcome, Fetched):
            self.largest = max([self.largest, *(each.updated_time for each in outcome.batch.conversations)])
        return with_watermark(decide(checkpoint, outcome, luck, known), self.largest)


def end_as_watermark(checkpoint: Checkpoint, outcome: Outcome, luck: Circumstances, known: Known) -> Decision:
    """Takes the instant at which the sweep ended for the watermark."""
    decision = decide(checkpoint, outcome, luck, known)
    return with_watermark(decision, outcome.asked_at) if isinstance(outcome, Fetched) else decision


def with_watermark(decision: Decision, watermark: datetime) -> Decision:
    if isinstance(decision, BatchPassed):
        return decision
    return replace(decision, events=tuple(_with_watermark(event, watermark) for event in decision.events))


def _with_watermark(event: Event, watermark: datetime) -> Event:
    return replace(event, walk_started_at=watermark) if isinstance(event, SweepCompleted) else event


def empty_is_the_end(checkpoint: Checkpoint, outcome: Outcome, luck: Circumstances, known: Known) -> Decision:
    """Takes an empty batch for the end of the inbox."""
    if isinstance(outcome, Fetched) and not outcome.batch.conversations and not outcome.batch.unreadable:
        outcome = replace(outcome, batch=replace(outcome.batch, next_cursor=None))
    return decide(checkpoint, outcome, luck, known)


def refusal_is_the_end(checkpoint: Checkpoint, outcome: Outcome, luck: Circumstances, known: Known) -> Decision:
    """Ends a sweep as a success when its source fails."""
    if isinstance(outcome, Refused) and checkpoint.sweep is not None:
        sweep = checkpoint.sweep
        return Record((SweepCompleted(sweep.mode, sweep.walk_started_at, luck.work.started_at, checkpoint.unrecorded),))
    return decide(checkpoint, outcome, luck, known)


def older_wins(checkpoint: Checkpoint, outcome: Outcome, luck: Circumstances, known: Known) -> Decision:
    """Overwrites a row with whatever was read last."""
    rows = dict(known.conversations)
    for each in outcome.batch.conversations if isinstance(outcome, Fetched) else ():
        if each.conversation_id in rows:
            row = rows[each.conversation_id]
            rows[row.conversation_id] = replace(row, updated_time=min(row.updated_time, each.updated_time))
    return decide(checkpoint, outcome, luck, replace(known, conversations=rows))


def unreadable_is_skipped(checkpoint: Checkpoint, outcome: Outcome, luck: Circumstances, known: Known) -> Decision:
    """Leaves out what it cannot read, without a dead letter."""
    if isinstance(outcome, Fetched):
        outcome = replace(outcome, batch=replace(outcome.batch, unreadable=()))
    return decide(checkpoint, outcome, luck, known)


def quiet_is_told(checkpoint: Checkpoint, outcome: Outcome, luck: Circumstances, known: Known) -> Decision:
    """Journals batches that changed nothing."""
    decision = decide(checkpoint, outcome, luck, known)
    if isinstance(decision, Record):
        return decision
    opening = _opening(checkpoint, decision.sweep, luck.work)
    return Record((*opening, BatchStored(decision.sweep.position, decision.tally)))


def no_catch_up(sweep: Sweep, batch: Batch, *, read_batches: int) -> Position | None:
    position = _next_position(sweep, batch, read_batches=read_batches)
    return None if position == Position(SweepPhase.CATCH_UP) else position


def first_old_row_is_the_end(updated_times: list[datetime], until: datetime | None) -> bool:
    return until is not None and any(updated_time < until for updated_time in updated_times)


def nothing(checkpoint: Checkpoint) -> tuple[Event, ...]:
    return ()


# --- stores gone wrong ------------------------------------------------------------------------------------------------


class SplitStore(MemoryStore):
    """Commits in two steps, between which the process may die."""

    def __init__(self) -> None:
        super().__init__()
        self.interrupt: Callable[[], None] = lambda: None


class CheckpointFirstStore(SplitStore):
    async def commit(self, commit: Commit) -> Committed:
        self.refuse_stale(commit)
        self.write_entries(commit)
        self.interrupt()
        self.write_rows(commit.changes)
        return Committed(len(self.journal), 0.0, 0.0)


class RowsFirstStore(SplitStore):
    async def commit(self, commit: Commit) -> Committed:
        self.refuse_stale(commit)
        self.write_rows(commit.changes)
        self.interrupt()
        self.write_entries(commit)
        return Committed(len(self.journal), 0.0, 0.0)


class UncheckedStore(MemoryStore):
    """Lets every writer append."""

    def refuse_stale(self, commit: Commit) -> None:
        pass


# --- and none of them lives -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    caught_by: str
    decides: Callable[[], Decide] = lambda: decide
    store: Callable[[], MemoryStore] = MemoryStore
    patches: Mapping[str, object] = field(default_factory=dict)


LOSS = "the watermark passed t_[0-9]+, which is not stored"
MISSED = "t_[0-9]+ moved during the walk and was missed"
EITHER = f"{LOSS}|{MISSED}"
MISCOUNT = "the journal does not count what the tables hold"

MUTANTS = {
    "the watermark is the largest updated_time seen": Mutant(LOSS, decides=LargestAsWatermark),
    "the watermark is the end of the sweep": Mutant(LOSS, decides=lambda: end_as_watermark),
    "there is no catch-up scan": Mutant(MISSED, patches={"milepost.core.decide._next_position": no_catch_up}),
    "the first empty batch is the end": Mutant(LOSS, decides=lambda: empty_is_the_end),
    "the first old row is the end": Mutant(
        EITHER, patches={"milepost.core.decide.reaches_back": first_old_row_is_the_end}
    ),
    "a refusal is the end": Mutant(EITHER, decides=lambda: refusal_is_the_end),
    "an older row wins": Mutant("t_[0-9]+ becomes older", decides=lambda: older_wins),
    "an unreadable item is skipped": Mutant("passed without a dead letter", decides=lambda: unreadable_is_skipped),
    "a quiet batch is journaled": Mutant("a quiet sweep wrote more than one entry", decides=lambda: quiet_is_told),
    "passed batches are forgotten": Mutant(
        "is not the fold|ahead of", patches={"milepost.core.decide._passed": nothing}
    ),
    "the checkpoint is stored before the rows": Mutant(MISCOUNT, store=CheckpointFirstStore),
    "the rows are stored before the checkpoint": Mutant(f"{MISCOUNT}|is opened again", store=RowsFirstStore),
    "a second writer is not refused": Mutant("the versions of the stream", store=UncheckedStore),
}


def live_through(mutant: Mutant) -> None:
    @settings(
        max_examples=MAX_EXAMPLES,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(scenarios)
    def live(scenario: Scenario) -> None:
        simulation = Simulation(scenario, mutant.decides(), store := mutant.store())
        if isinstance(store, SplitStore):
            store.interrupt = simulation.crash
        simulation.run()

    with ExitStack() as patched:
        for target, replacement in mutant.patches.items():
            patched.enter_context(patch(target, replacement))
        live()


@pytest.mark.parametrize("name", MUTANTS)
def test_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    with pytest.raises(AssertionError, match=mutant.caught_by):
        live_through(mutant)
