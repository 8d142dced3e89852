"""An account that moves to another page, from the batch to the next sweep. What stores do is in moves_contract.py."""

from kit.builders import NOON, at, budget, given, sweep_started, walking
from milepost.core.events import BatchStored, SweepCompleted, Tally
from milepost.core.plan import Policy, next_mode
from milepost.core.position import Mode

FULL = SweepCompleted(Mode.FULL, NOON, NOON, Tally(batches=1))
MOVED = Tally(batches=1, updated=3, moved=3)


def test_after_an_incremental_sweep_that_took_conversations_over_the_next_one_is_full() -> None:
    before = given(FULL)
    short = given(SweepCompleted(Mode.INCREMENTAL, at(60), at(60), MOVED), after=before)
    longer = given(
        sweep_started(Mode.INCREMENTAL, at(60), NOON),
        BatchStored(walking("after 1"), MOVED),
        SweepCompleted(Mode.INCREMENTAL, at(60), at(60), Tally(batches=1)),
        after=before,
    )

    assert next_mode(short, at(120), budget(), Policy()) is Mode.FULL
    assert next_mode(longer, at(120), budget(), Policy()) is Mode.FULL


def test_after_a_full_sweep_that_took_conversations_over_the_next_one_is_not() -> None:
    after = given(SweepCompleted(Mode.FULL, at(60), at(60), MOVED), after=given(FULL))

    assert next_mode(after, at(120), budget(), Policy()) is Mode.INCREMENTAL
