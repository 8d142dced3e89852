"""Streams in the middle of a sweep and what the core decides for them, for given-when-then tests."""

from msgspec.structs import replace

from kit.builders import (
    RUN_ID,
    at,
    catching_up,
    checkpoint_of,
    context,
    fetched,
    given,
    run_started,
    sweep_started,
)
from kit.builders import walking as walking_at
from milepost.core.checkpoint import BatchUnchanged, Checkpoint
from milepost.core.decide import decide
from milepost.core.events import BatchStored, Event, RunEnded, Tally
from milepost.core.evolve import skip_unchanged
from milepost.core.model import Conversation, Keys, Known
from milepost.core.ports import Outcome
from milepost.core.position import Mode, Progress
from milepost.core.records import Context, Decision, Record

NEW = Tally(batches=1, inserted=1, without_contact=1)
QUIET = Tally(batches=1, unchanged=1, without_contact=1)


def decision_on(checkpoint: Checkpoint, outcome: Outcome, during: Context, known: Known | None = None) -> Decision:
    """Return the decision on an outcome, given what the store holds. Progress is removed from its positions."""
    match decide(checkpoint, outcome, during).record(known or Known()):
        case Record(events=events) as decision:
            return replace(decision, events=tuple(_plain(event) for event in events))
        case BatchUnchanged(sweep=sweep) as decision:
            return replace(decision, sweep=replace(sweep, position=replace(sweep.position, progress=Progress())))


def _plain(event: Event) -> Event:
    if isinstance(event, BatchStored | RunEnded) and event.position is not None:
        return replace(event, position=replace(event.position, progress=Progress()))
    return event


def looked_up(checkpoint: Checkpoint, outcome: Outcome, during: Context) -> Keys:
    """Return what a decision on an outcome has to look up."""
    keys = decide(checkpoint, outcome, during).keys
    assert keys is not None
    return keys


def walking(*, mode: Mode = Mode.FULL) -> Checkpoint:
    """Return a stream in a walk that started at noon."""
    until = None if mode is Mode.FULL else at(-3600)
    stored = BatchStored(walking_at("after 1"), Tally(batches=1, inserted=1))
    return given(run_started(), sweep_started(mode, walk_until=until), stored)


def scanning(cursor: str | None = None) -> Checkpoint:
    """Return a stream in the catch-up scan of a sweep that started at noon."""
    return given(run_started(), sweep_started(), BatchStored(catching_up(cursor), Tally(batches=2, inserted=2)))


def knowing(*conversations: Conversation) -> Known:
    """Return what the store knows once these conversations are stored."""
    decision = decision_on(checkpoint_of(), fetched(*conversations), context())
    assert isinstance(decision, Record)
    changes = decision.changes
    return Known(
        {row.conversation_id: row for row in changes.conversations},
        {row.contact_id: row for row in changes.contacts},
        frozenset(row.event_id for row in changes.interaction_events),
    )


def record(decision: Decision) -> Record:
    """Return a decision that must be a Record."""
    assert isinstance(decision, Record)
    return decision


def events(decision: Decision) -> tuple[Event, ...]:
    """Return the events of a decision that must be a Record."""
    return record(decision).events


def skipped(checkpoint: Checkpoint, outcome: Outcome, known: Known, during: Context | None = None) -> Checkpoint:
    """Return the checkpoint after a batch that must be skipped as unchanged."""
    decision = decision_on(checkpoint, outcome, during or context(), known)
    assert isinstance(decision, BatchUnchanged)
    return skip_unchanged(checkpoint, decision)


def then(
    checkpoint: Checkpoint,
    *outcomes: Outcome,
    during: Context | None = None,
    known: Known | None = None,
    run_id: str = RUN_ID,
) -> Checkpoint:
    """Return the checkpoint after these outcomes, each recorded or skipped."""
    around = during or context()
    for outcome in outcomes:
        decision = decision_on(checkpoint, outcome, around, known)
        if isinstance(decision, BatchUnchanged):
            checkpoint = skip_unchanged(checkpoint, decision)
        else:
            checkpoint = given(*decision.events, after=checkpoint, run_id=run_id, recorded_at=around.now)
    return checkpoint
