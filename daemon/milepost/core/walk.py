"""The walk of a sweep over its inbox: where it begins and ends, what a batch covers, and when the head is read first.

A walk goes from the head of the inbox to its end, or to the watermark of the previous sweep. A catch-up scan from the
head follows it, for the threads that moved to the head meanwhile.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, ReducedRequest, Sweep, WalkSetAside
from milepost.core.doubts import advanced, cursor_loop, disorder, no_progress
from milepost.core.events import NO_TALLY
from milepost.core.model import Batch, Detail, Known
from milepost.core.position import Mode, Phase, Position, Progress, Scan, Stretch

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # before any conversation
LATEST = datetime.max.replace(tzinfo=UTC) - timedelta(milliseconds=1)  # nothing can be added to a later instant
LEAST_OLDER = 10  # older conversations in a row before a walk may end
MAX_SCANS = 10  # of a full sweep; each is shorter, unless threads move faster than they can be read
MAX_EDGE = 200  # conversations of one second that a position remembers; the journal holds them as well


# --- where it begins and ends -----------------------------------------------------------------------------------------


def reaches_back(updated_times: Iterable[datetime], until: datetime | None) -> bool:
    """Return whether a batch is wholly older than `until`, so that a walk to that instant may end there.

    One old row is not enough, because the order of the edge has always been observed but is not documented. An empty
    batch proves nothing.
    """
    return until is not None and max(updated_times, default=until) < until


def older_in_a_row(updated_times: Iterable[datetime], until: datetime | None, before: int) -> int:
    """Return how many conversations in a row are older than `until`, starting from the `before` of earlier batches."""
    older = before
    for updated_time in updated_times:
        older = older + 1 if until is not None and updated_time < until else 0
    return older


def overlap_before(instant: datetime, overlap_seconds: float) -> datetime:
    """Return the instant from which rows are read again, to allow for inexact clocks and order."""
    return instant - timedelta(seconds=overlap_seconds)


def walk_start(
    asked_at: datetime, updated_times: Iterable[datetime], overlap_seconds: float, watermark: datetime | None
) -> datetime:
    """Return the start of a walk, which may be too early but never too late.

    The start becomes the watermark, and whatever arrives afterwards must be newer. `asked_at` is only a hint, because
    it comes from clocks that may be ahead. The platform's own times are reliable: whatever arrives after the first
    batch was read is no older than the newest conversation in it. So the walk of the next sweep, which goes back to the
    overlap before the watermark, must at least reach that conversation. With correct clocks this costs nothing, because
    nothing lies between the newest conversation and now.

    A first batch without conversations says nothing about the time: the watermark stays where it was, or at EPOCH.
    """
    asked_at = max(asked_at, EPOCH)
    newest = max(updated_times, default=None)
    if newest is None:
        return min(asked_at, watermark or EPOCH)
    slack = timedelta(seconds=overlap_seconds + 1.0)  # instants of the API are whole seconds
    return newest + slack if asked_at - slack > newest else asked_at


def next_position(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> Position | None:
    """Return where the sweep continues after a batch; None after its last.

    A walk of a single batch saw the inbox at one instant. No thread can have moved meanwhile, so it needs no catch-up
    scan.
    """
    phase, times = sweep.position.phase, [each.updated_time for each in batch.conversations]
    older = older_in_a_row(times, sweep.until, sweep.position.older)
    is_back = reaches_back(times, sweep.until) and older >= _least_older(sweep.position.progress, batch)
    if batch.next_cursor is not None and not is_back:
        reached_at = times[-1] if times else sweep.position.reached_at
        return Position(phase, batch.next_cursor, reached_at, older, has_gap=sweep.position.has_gap)
    is_only = sweep.tally.batches + checkpoint.unrecorded.batches == 0
    return Position(Phase.CATCH_UP) if phase is Phase.WALK and not is_only else None


def _least_older(progress: Progress, batch: Batch) -> int:
    """Return how many older conversations in a row end a walk.

    A small batch that is wholly older proves little, because its rows may just be out of order. If other rows were, it
    proves even less, and an incremental walk over a list without any order goes on to the list's end.
    """
    least: int = LEAST_OLDER * 4 ** min(disorder(progress, batch), 10)
    return least


# --- deletions: conversations that a full sweep no longer finds -------------------------------------------------------


def notes_missed(checkpoint: Checkpoint, sweep: Sweep) -> bool:
    """Return whether a sweep can detect deletions: a full one, of an inbox that was walked completely before."""
    return sweep.mode is Mode.FULL and checkpoint.watermark is not None


def stretch_of(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> Stretch | None:
    """Return the stretch of the inbox that a batch covers; the inbox is ordered by `updated_time`, newest first.

    None if it covers nothing, or if that is unknown because the checkpoint does not say how far the walk had got.
    """
    position = sweep.position
    is_silent = not batch.conversations and batch.next_cursor is not None
    is_adrift = position.cursor is not None and position.reached_at is None
    if position.phase is not Phase.WALK or is_silent or is_adrift or not notes_missed(checkpoint, sweep):
        return None
    older_than = position.reached_at
    if position.edge and older_than is not None and older_than <= LATEST:
        older_than += timedelta(milliseconds=1)  # includes the second, as all that was seen of it is known
    return Stretch(
        sweep.walk_started_at,
        older_than=older_than,
        newer_than=batch.conversations[-1].updated_time if batch.next_cursor is not None else None,
        seen=(*position.edge, *(each.conversation_id for each in batch.conversations)),
    )


def edge_after(position: Position, batch: Batch) -> tuple[str, ...]:
    """Return the conversations seen so far whose time is that of a batch's last one; none if there are too many."""
    if not batch.conversations:
        return position.edge
    last = batch.conversations[-1].updated_time
    seen = tuple(each.conversation_id for each in batch.conversations if each.updated_time == last)
    if last == position.reached_at:
        seen = (*position.edge, *seen) if position.edge else ()
    return seen if len(seen) <= MAX_EDGE else ()


# A thread that moves to the head before the walk gets to it is left to the scan. If it moves again before the scan gets
# to it, it escapes both. So after a scan, threads may be unseen that moved since its first batch was read, and no
# others. An incremental sweep leaves them to the next one: they are no older than the newest conversation of its own
# first batch, to which the next walk goes back. A full sweep would take them for deleted. So it scans again, back to
# the newest thread of that first batch, as whatever has moved since is no older. It does so until the first batch of a
# scan reaches back so far. That batch shows all that moved, at one instant, and all else has been seen.


def scan_after(sweep: Sweep, batch: Batch) -> Scan:
    """Return what is known of a catch-up scan after a batch: it depends on its first batch."""
    scan, times = sweep.position.scan, [each.updated_time for each in batch.conversations]
    if sweep.position.phase is not Phase.CATCH_UP or sweep.position.cursor is not None or not times:
        return scan
    is_snapshot = batch.next_cursor is None or (sweep.until is not None and times[-1] < sweep.until)
    return replace(scan, began_at=max(times), is_snapshot=is_snapshot)


def has_snapshot(sweep: Sweep, batch: Batch) -> bool:
    """Return whether a sweep that ends with a batch has seen every thread that was there at one instant."""
    return sweep.position.phase is Phase.WALK or scan_after(sweep, batch).is_snapshot


def next_scan(sweep: Sweep, batch: Batch) -> Position | None:
    """Return the start of another scan after the one that ends with a batch; None if it would show no more."""
    scan = scan_after(sweep, batch)
    if has_snapshot(sweep, batch) or scan.number >= MAX_SCANS:
        return None
    return Position(Phase.CATCH_UP, scan=Scan(scan.number + 1, scan.began_at))


# --- the head first ---------------------------------------------------------------------------------------------------

# A run that resumes a walk reads what is new before it goes on with what is old. An old stretch of the inbox may fail,
# be poisoned or lead nowhere; the new messages are at the head all the same. So the head is read once in each interval,
# and by each run after one without progress; if nothing is new, that takes one call. The walk and its problems are set
# aside meanwhile, untouched. Nothing depends on this reading, because the sweep's own catch-up scan covers it all once
# more. So neither order nor deletions are judged here.


def head_first(checkpoint: Checkpoint, run_id: str, started_at: datetime, *, interval_seconds: float) -> Checkpoint:
    """Return the checkpoint with which a run begins: at the head of the inbox, if it resumes a sweep in the middle.

    A walk that makes progress continues at its cursor if the head was read within the interval. If a run ended before
    it came to the walk, the next one begins with the walk, so that neither keeps the other from being read, however
    short the runs are.
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
    is_in_trouble = checkpoint.retry or checkpoint.reduced_request or checkpoint.failure_streak
    if was_just_read and not (position.has_gap or is_in_trouble or checkpoint.futile_runs):
        return _with_old_cursor(checkpoint)
    return _set_walk_aside(checkpoint, started_at)


def resumed(checkpoint: Checkpoint, continues: Phase | None, started_at: datetime) -> Checkpoint:
    """Return the checkpoint after the start of a run; `continues` is where it resumed an open sweep, if it did."""
    match continues:
        case None:
            return checkpoint
        case Phase.HEAD:
            return _set_walk_aside(checkpoint, started_at)
        case Phase.WALK | Phase.CATCH_UP:
            return _with_old_cursor(checkpoint)


def _with_old_cursor(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with its cursor, if it has one, marked as that of an earlier run."""
    sweep = checkpoint.sweep
    if sweep is None or sweep.position.cursor is None:
        return checkpoint
    return replace(checkpoint, sweep=replace(sweep, position=replace(sweep.position, is_old=True)))


def _set_walk_aside(checkpoint: Checkpoint, started_at: datetime) -> Checkpoint:
    """Return the checkpoint of a run at the head of the inbox, with the walk and its problems kept for later."""
    sweep = checkpoint.sweep
    if sweep is None or sweep.set_aside is not None:  # the checkpoint in memory may be ahead of its journal
        return checkpoint
    walk = replace(sweep.position, is_old=True, head_read_at=started_at)
    aside = WalkSetAside(walk, checkpoint.reduced_request, checkpoint.retry)
    sweep = replace(sweep, position=Position(Phase.HEAD), set_aside=aside)
    return replace(checkpoint, sweep=sweep, reduced_request=_for_head(aside.reduced_request), retry=None)


def _for_head(of_walk: ReducedRequest | None) -> ReducedRequest | None:
    """Return the reduction of requests for the head: a smaller limit as in the walk, but no search for one thread.

    If long lists time out, the head's do as well, and each run would have to learn that anew.
    """
    proven = of_walk and of_walk.proven
    return proven if proven is not None and proven.detail is Detail.NESTED and proven.limit > 1 else None


def after_head(sweep: Sweep, batch: Batch, known: Known) -> Position:
    """Return where the sweep continues after a batch of the head: with the head's next batch, or back at the walk.

    If a conversation is stored unchanged, older ones have been read before, unless the last reading of the head was
    incomplete. Conversations from before the start of the sweep are left to the walk.
    """
    position, aside = sweep.position, sweep.set_aside
    older = older_in_a_row([each.updated_time for each in batch.conversations], sweep.catch_up_until, position.older)
    last = batch.conversations[-1] if batch.conversations else None
    stored = known.conversations.get(last.conversation_id) if last is not None else None
    is_known = last is not None and stored is not None and stored.updated_time >= last.updated_time
    has_gap = aside is not None and aside.position.has_gap
    progress = advanced(position.progress, batch, brings_new=False)
    if batch.next_cursor is None or last is None or cursor_loop(position, batch) or no_progress(progress):
        return _walk_after_head(sweep, is_complete=batch.next_cursor is None and last is not None)
    if older >= LEAST_OLDER or (is_known and not has_gap):
        return _walk_after_head(sweep, is_complete=True)
    return Position(Phase.HEAD, batch.next_cursor, last.updated_time, older, progress=progress)


def return_to_walk(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint back at the walk that was set aside, if there is one; it is read next."""
    sweep = checkpoint.sweep
    if sweep is None or sweep.set_aside is None:
        return checkpoint
    aside = sweep.set_aside
    sweep = replace(sweep, position=_walk_after_head(sweep, is_complete=False), set_aside=None)
    return replace(checkpoint, sweep=sweep, reduced_request=aside.reduced_request, retry=aside.retry)


def _walk_after_head(sweep: Sweep, *, is_complete: bool) -> Position:
    """Return the position of the walk after reading the head, completely or not.

    After an incomplete reading, the next one goes further back, because what was left out is no longer at the top.
    """
    position = sweep.set_aside.position if sweep.set_aside is not None else sweep.position
    return replace(position, is_after_head=True, has_gap=not is_complete)
