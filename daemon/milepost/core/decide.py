"""Decide what an outcome means: what to record and what to store, together."""

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import BatchUnchanged, Checkpoint, Sweep
from milepost.core.dead_letters import opened, recovered, subjects_of, unread, withhold
from milepost.core.events import (
    NO_TALLY,
    BatchStored,
    DeadLetterClosed,
    DeadLetterOpened,
    Mode,
    OwnIdChecked,
    Phase,
    Position,
    SweepCompleted,
    Tally,
)
from milepost.core.failures import on_refusal
from milepost.core.merge import difference, keys_of, order_violations
from milepost.core.model import Batch, Changes, Detail, Keys, Known, OwnId, OwnIdState, Stream, Stretch
from milepost.core.plan import (
    Policy,
    batches_read,
    next_mode,
    older_in_a_row,
    open_sweep,
    overlap_before,
    reaches_back,
    size_now,
    walk_limit,
    walk_start,
)
from milepost.core.ports import Fetched, Outcome, Refused
from milepost.core.problems import Problem, ProblemKind
from milepost.core.readability import unexpected_form
from milepost.core.records import Context, Decided, Decision, Pending, Record, beginnings

LEAST_OLDER = 10  # older conversations in a row before a walk may end


def decide(checkpoint: Checkpoint, outcome: Outcome, context: Context) -> Pending:
    """Decide what an outcome means, as far as that is possible without the store."""
    match outcome:
        case Fetched(batch=batch):
            sweep = open_sweep(checkpoint, context.budget)
            if problem := _cursor_loop(sweep, batch) or _unexpected_form(checkpoint, sweep, batch):
                return Decided(on_refusal(checkpoint, problem, context))
            return _pending_batch(checkpoint, sweep or _new_sweep(checkpoint, outcome, context), batch, context)
        case Refused(problem=problem):
            return Decided(on_refusal(checkpoint, problem, context))


def _cursor_loop(sweep: Sweep | None, batch: Batch) -> Problem | None:
    """Return the problem of a cursor that points to itself: following it would never end."""
    if sweep is None or sweep.position.cursor is None or batch.next_cursor != sweep.position.cursor:
        return None
    return Problem(ProblemKind.CURSOR_LOOP, "the cursor of the next batch is the one just used")


def _unexpected_form(checkpoint: Checkpoint, sweep: Sweep | None, batch: Batch) -> Problem | None:
    """Return the problem of a walk whose rows are nearly all unreadable; a catch-up scan meets the same rows again."""
    if sweep is None:
        return unexpected_form(batch, NO_TALLY)
    in_walk = sweep.position.phase is Phase.WALK
    return unexpected_form(batch, sweep.tally + checkpoint.unrecorded) if in_walk else None


# --- a batch was read -------------------------------------------------------------------------------------------------


class PendingBatch(Struct, frozen=True):
    """A batch whose stored rows are not known yet. `sweep` is the one it belongs to."""

    checkpoint: Checkpoint
    sweep: Sweep
    batch: Batch
    detail: Detail
    context: Context
    keys: Keys

    def record(self, known: Known) -> Decision:
        """Record the batch and where its sweep continues, or skip a batch that changes nothing."""
        checkpoint, sweep, context = self.checkpoint, self.sweep, self.context
        result = self._compare(known)
        tally = checkpoint.unrecorded + result.tally
        read_batches = sweep.tally.batches + tally.batches
        position = _next_position(sweep, self.batch, context.policy, read_batches=read_batches)
        if position is None:
            return self._complete(result, known)
        if result.changes == Changes() and not (result.dead_letters or result.news):
            return BatchUnchanged(replace(sweep, position=position, lost_cursor=None), result.tally)
        opening = beginnings(checkpoint, sweep, context.budget)
        stored = BatchStored(position, tally, batches_read(checkpoint, context.budget) + result.tally.batches)
        return Record((*opening, *result.news, *result.dead_letters, stored), result.changes)

    def _compare(self, known: Known) -> "_BatchResult":
        stream, batch, now = self.keys.stream, self.batch, self.context.now
        reduced = self.checkpoint.reduced_request
        readable = replace(batch, conversations=()) if self.detail is Detail.POSITION else batch
        written, unwritten = withhold(difference(stream, readable, known, now), self.context.refused)
        failures = (*unread(batch, self.detail, reduced.problem if reduced else None, known), *unwritten)
        dead_letters, payloads = opened(stream, failures, known, now)
        news = _own_id_news(self.checkpoint, batch)
        changes = replace(
            written.changes,
            payloads=payloads,
            missed=self.keys.stretch if known.unseen else None,
            found=tuple(each.conversation_id for each in batch.conversations if each.conversation_id in known.missed),
            own_id=next((each.found.own_id for each in news), None),
        )
        tally = replace(
            written.tally,
            dead_lettered=len(dead_letters),
            unreadable=len(failures),
            order_violations=order_violations(batch.conversations, self.sweep.position.reached_at),
        )
        return _BatchResult(changes, (*dead_letters, *recovered(readable, self.detail, failures, known)), tally, news)

    def _complete(self, result: "_BatchResult", known: Known) -> Record:
        sweep, budget = self.sweep, self.context.budget
        tally, changes = self.checkpoint.unrecorded + result.tally, result.changes
        whole = sweep.tally + tally
        missed = known.all_missed + known.unseen - len(changes.found)
        if missed and _is_flawless(whole):
            tally = replace(tally, deleted=missed)
            changes = replace(changes, missed_are_deleted_at=self.context.now)
        elif known.all_missed or known.unseen:
            changes = replace(changes, forgets_missed=True)
        completed = SweepCompleted(
            sweep.mode, sweep.walk_started_at, budget.started_at, tally, has_errors=whole.dead_lettered > 0
        )
        opening = beginnings(self.checkpoint, sweep, budget) if result.dead_letters or result.news else ()
        return Record((*opening, *result.news, *result.dead_letters, completed), changes)


class _BatchResult(Struct, frozen=True):
    """The result of a batch: rows to write, dead letters to open or close, their counts, and news of our own id."""

    changes: Changes
    dead_letters: tuple[DeadLetterOpened | DeadLetterClosed, ...]
    tally: Tally
    news: tuple[OwnIdChecked, ...]


def _own_id_news(checkpoint: Checkpoint, batch: Batch) -> tuple[OwnIdChecked, ...]:
    """Return what a batch says about our own id, if that is not on record."""
    before = checkpoint.own_id or OwnId(OwnIdState.EXPECTED)
    return () if batch.own_id in (None, before) else (OwnIdChecked(batch.own_id),)


def _pending_batch(checkpoint: Checkpoint, sweep: Sweep, batch: Batch, context: Context) -> PendingBatch:
    detail = size_now(checkpoint, context.policy).detail
    is_whole = not (batch.unreadable or context.refused) and detail is Detail.NESTED
    keys = replace(
        keys_of(Stream.parse(checkpoint.stream), batch),
        subjects=() if is_whole and not checkpoint.open_dead_letters else subjects_of(batch, context.refused),
        full_sweep_at=sweep.walk_started_at if _notes_missed(checkpoint, sweep) else None,
        stretch=_stretch(checkpoint, sweep, batch),
    )
    return PendingBatch(checkpoint, sweep, batch, detail, context, keys)


def _new_sweep(checkpoint: Checkpoint, fetched: Fetched, context: Context) -> Sweep:
    policy = context.policy
    overlap_seconds = policy.watermark_overlap_seconds
    mode = next_mode(checkpoint, context.now, context.budget, policy)
    times = (each.updated_time for each in fetched.batch.conversations)
    started_at = walk_start(fetched.asked_at, times, overlap_seconds, checkpoint.watermark)
    return Sweep(
        mode,
        walk_started_at=started_at,
        catch_up_until=overlap_before(started_at, overlap_seconds),
        walk_until=walk_limit(checkpoint, mode, policy),
    )


def _next_position(sweep: Sweep, batch: Batch, policy: Policy, *, read_batches: int) -> Position | None:
    """Return where the sweep continues after a batch; None after its last.

    A walk of a single batch saw the inbox at one instant: nothing can have moved behind it, so it needs no catch-up
    scan.
    """
    phase, times = sweep.position.phase, [each.updated_time for each in batch.conversations]
    until = sweep.walk_until if phase is Phase.WALK else sweep.catch_up_until
    older = older_in_a_row(times, until, sweep.position.older)
    # A small batch that is wholly older proves little: its rows may just be out of order.
    is_back = reaches_back(times, until) and older >= min(policy.batch_size, LEAST_OLDER)
    if batch.next_cursor is not None and not is_back:
        reached_at = times[-1] if times else sweep.position.reached_at
        return Position(phase, batch.next_cursor, reached_at, older)
    return Position(Phase.CATCH_UP) if phase is Phase.WALK and read_batches > 1 else None


# --- deletions: what a full sweep no longer sees ----------------------------------------------------------------------


def _notes_missed(checkpoint: Checkpoint, sweep: Sweep) -> bool:
    """Return whether a sweep can detect deletions: a full one, of an inbox that was walked completely before."""
    return sweep.mode is Mode.FULL and checkpoint.watermark is not None


def _stretch(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> Stretch | None:
    """Return the stretch of the inbox that a batch covers; the inbox is ordered by `updated_time`, newest first.

    None if it covers nothing, or if that is unknown because the checkpoint does not say how far the walk had got.
    """
    position = sweep.position
    is_silent = not batch.conversations and batch.next_cursor is not None
    is_adrift = position.cursor is not None and position.reached_at is None
    if position.phase is not Phase.WALK or is_silent or is_adrift or not _notes_missed(checkpoint, sweep):
        return None
    return Stretch(
        sweep.walk_started_at,
        older_than=position.reached_at,
        newer_than=batch.conversations[-1].updated_time if batch.next_cursor is not None else None,
        seen=tuple(each.conversation_id for each in batch.conversations),
    )


def _is_flawless(tally: Tally) -> bool:
    """Return whether a sweep saw everything, in order: only then is what it did not see deleted."""
    return not (tally.unreadable or tally.dead_lettered or tally.order_violations)
