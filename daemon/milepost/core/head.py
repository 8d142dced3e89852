"""The head first: a run that resumes a walk reads what is new before it goes on with what is old.

Whatever an old stretch of the inbox does (it fails, it is poisoned, it leads nowhere), what people write meanwhile is
at the head, and is read at each interval, and by each run after one that got nowhere, for one call where nothing is
new. The walk and what is known of its troubles are set aside meanwhile, untouched. Nothing depends on it: the sweep's
own catch-up scan covers all of this once more, so neither order nor deletions are judged here.
"""

from datetime import datetime

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, ReducedRequest, Sweep, WalkSetAside
from milepost.core.events import NO_TALLY
from milepost.core.model import Detail
from milepost.core.position import Phase, Position


def take_up(checkpoint: Checkpoint, run_id: str, started_at: datetime, *, interval_seconds: float) -> Checkpoint:
    """Return the checkpoint as a run takes it up: at the head, where it resumes a sweep in the middle.

    A walk that gets on goes on at its cursor as long as the head was read within the interval. A run that ended before
    it came to the walk leaves the first turn to it, so that neither keeps the other from being read, however short the
    runs are.
    """
    sweep, run = checkpoint.sweep, checkpoint.run
    has_begun = checkpoint.unrecorded != NO_TALLY or (run is not None and run.run_id == run_id)
    if sweep is None or has_begun:
        return checkpoint
    position = sweep.position
    if position.cursor is None or position.is_after_head or position.phase is Phase.HEAD:
        return checkpoint
    read_at = position.head_read_at
    was_just_read = read_at is not None and abs((started_at - read_at).total_seconds()) < interval_seconds
    if was_just_read and not (position.has_gap or _is_in_trouble(checkpoint)):
        return _with_old_cursor(checkpoint)
    return _set_walk_aside(checkpoint, started_at)


def _is_in_trouble(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.retry or checkpoint.reduced_request or checkpoint.failure_streak or checkpoint.futile_runs)


def resumed(checkpoint: Checkpoint, continues: Phase | None, started_at: datetime) -> Checkpoint:
    """Return the checkpoint after the start of a run, which took up an open sweep where it says that."""
    match continues:
        case None:
            return checkpoint
        case Phase.HEAD:
            return _set_walk_aside(checkpoint, started_at)
        case Phase.WALK | Phase.CATCH_UP:
            return _with_old_cursor(checkpoint)


def _with_old_cursor(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint of a run that goes on at the cursor of an earlier one, if it does."""
    sweep = checkpoint.sweep
    if sweep is None or sweep.position.cursor is None:
        return checkpoint
    return replace(checkpoint, sweep=replace(sweep, position=replace(sweep.position, is_old=True)))


def _set_walk_aside(checkpoint: Checkpoint, started_at: datetime) -> Checkpoint:
    """Return the checkpoint of a run at the head of the inbox, with the walk and its troubles kept for afterwards."""
    sweep = checkpoint.sweep
    if sweep is None or sweep.set_aside is not None:  # the checkpoint in memory may be ahead of its journal
        return checkpoint
    walk = replace(sweep.position, is_old=True, head_read_at=started_at)
    aside = WalkSetAside(walk, checkpoint.reduced_request, checkpoint.retry)
    sweep = replace(sweep, position=Position(Phase.HEAD), set_aside=aside)
    return replace(checkpoint, sweep=sweep, reduced_request=_for_head(aside.reduced_request), retry=None)


def _for_head(of_walk: ReducedRequest | None) -> ReducedRequest | None:
    """Return what the head is requested with: a smaller limit of the walk, but not the search for a single thread.

    Where long lists come too late, those of the head do as well, and each run would have to learn that anew.
    """
    proven = of_walk.proven if of_walk is not None else None
    return proven if proven is not None and proven.detail is Detail.NESTED and proven.limit > 1 else None


def return_to_walk(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint back at the walk that was set aside, if one was; it has the next turn."""
    sweep = checkpoint.sweep
    if sweep is None or sweep.set_aside is None:
        return checkpoint
    aside = sweep.set_aside
    sweep = replace(sweep, position=walk_after_head(sweep, is_complete=False), set_aside=None)
    return replace(checkpoint, sweep=sweep, reduced_request=aside.reduced_request, retry=aside.retry)


def walk_after_head(sweep: Sweep, *, is_complete: bool) -> Position:
    """Return the position of the walk after reading the head, completely or not.

    What an incomplete reading left out is no longer at the top when the head is read again: that one goes further back.
    """
    position = sweep.set_aside.position if sweep.set_aside is not None else sweep.position
    return replace(position, is_after_head=True, has_gap=not is_complete)


def is_of_head(position: Position) -> bool:
    """Return whether an entry with this position is about a batch of the head."""
    return position.phase is Phase.HEAD or position.is_after_head
