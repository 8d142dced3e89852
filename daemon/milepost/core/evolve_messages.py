"""The fold of what is said of messages: those that are owed, read or missed, and the facts that are applied to them."""

from collections.abc import Sequence
from typing import assert_never

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, MissedSoFar
from milepost.core.events import Entry, Tally
from milepost.core.gaps import (
    Gap,
    GapEnding,
    GapEvent,
    HistoryLeft,
    MessagesFailed,
    MessagesMissed,
    MessagesOwed,
    MessagesRead,
)
from milepost.core.missed import hints_after, window_after
from milepost.core.webhooks import FactsApplied


def after_gap_event(checkpoint: Checkpoint, entry: Entry, event: GapEvent) -> Checkpoint:
    """Count the open gaps, what was read of them and could not be read in the run, and what is missed."""
    match event:
        case MessagesOwed(gaps=gaps, left_out=left_out):
            checkpoint = replace(checkpoint, left_out=left_out or checkpoint.left_out)
            return _with_owed(checkpoint, [gap for gap in gaps if not gap.is_at_limit])
        case MessagesMissed(messages=messages):
            before = checkpoint.missed.messages if checkpoint.missed is not None else 0
            return replace(checkpoint, missed=MissedSoFar(before + messages, entry.recorded_at))
        case MessagesRead(gap=gap, stored=stored, dead_lettered=dead_lettered, ending=ending) as read:
            is_withheld = ending is GapEnding.WITHHELD and not read.is_hint
            window_at = window_after(checkpoint.window_at, gap, entry.recorded_at, is_withheld=is_withheld)
            hints = hints_after(checkpoint.window_hints, read)
            checkpoint = replace(checkpoint, rate_limit=None, window_at=window_at, window_hints=hints)
            tally = Tally(
                interaction_events=stored, dead_lettered=dead_lettered, edited=read.edited, unsent=read.unsent
            )
        case MessagesFailed(ending=ending):
            tally = Tally(dead_lettered=int(ending is GapEnding.DEAD_LETTER))
        case unknown:
            assert_never(unknown)
    run = checkpoint.run
    if run is not None and run.run_id == entry.run_id:
        run = replace(run, tally=run.tally + tally)
    after = replace(checkpoint, run=run, total=checkpoint.total + tally)
    return after if ending is None else _with_one_less(after, event.gap)


def _with_owed(checkpoint: Checkpoint, gaps: Sequence[Gap]) -> Checkpoint:
    """Count gaps that were opened, or opened again."""
    histories = sum(gap.is_history for gap in gaps)
    before = checkpoint.history or HistoryLeft(0, 0)
    history = HistoryLeft(before.left + histories, before.total + histories) if histories else checkpoint.history
    return replace(checkpoint, backlog=checkpoint.backlog + len(gaps), history=history)


def _with_one_less(checkpoint: Checkpoint, gap: Gap) -> Checkpoint:
    """Count a gap that was closed. When no history is left, the next one is the first of others."""
    history = checkpoint.history
    if gap.is_history and history is not None:
        history = replace(history, left=history.left - 1) if history.left > 1 else None
    return replace(checkpoint, backlog=checkpoint.backlog - 1, history=history)


def after_facts(checkpoint: Checkpoint, event: FactsApplied) -> Checkpoint:
    """Count the messages that were edited or unsent: as those of redrives, they belong to no run."""
    return replace(checkpoint, total=checkpoint.total + Tally(edited=event.edited, unsent=event.unsent))
