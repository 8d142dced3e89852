"""Decide what an outcome means: what to record and what to store, together."""

from datetime import datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.backlog import owed
from milepost.core.checkpoint import BatchUnchanged, Checkpoint, Sweep
from milepost.core.dead_letters import opened, recovered, subjects_of, unread, withhold
from milepost.core.doubts import are_unsent_after_all, implausible, messages_missing, out_of_order, unexpected_form
from milepost.core.events import (
    NO_TALLY,
    BatchStored,
    DeadLetterClosed,
    DeadLetterOpened,
    Event,
    OwnIdChecked,
    SweepCompleted,
    Tally,
)
from milepost.core.failures import exonerate, mistaken, on_refusal
from milepost.core.gaps import MessagesMissed, MessagesOwed
from milepost.core.head import walk_after_head
from milepost.core.merge import difference, keys_of, order_violations
from milepost.core.missed import recorded, without_content
from milepost.core.model import Batch, Changes, Detail, Keys, Known, OwnId, OwnIdState, PageRow
from milepost.core.plan import (
    Policy,
    batches_read,
    next_mode,
    older_in_a_row,
    open_sweep,
    overlap_before,
    reaches_back,
    size_now,
    taken_up,
    walk_limit,
    walk_start,
)
from milepost.core.ports import Fetched, Outcome, Refused
from milepost.core.position import Mode, Phase, Position, Progress, Stretch
from milepost.core.problems import Problem, ProblemKind
from milepost.core.progress import advanced, cursor_loop, disorder, false_end, may_end, no_progress, suddenly_empty
from milepost.core.quiet import QuietHead, digest, is_as_before, may_be_quiet
from milepost.core.records import Context, Decided, Decision, Pending, Record, arrived_since, beginnings, with_news
from milepost.core.revisions import AsOf, readings, with_revisions

LEAST_OLDER = 10  # older conversations in a row before a walk may end
MAX_EDGE = 200  # conversations of one second that a position remembers; they are in the journal with it


def decide(checkpoint: Checkpoint, outcome: Outcome, context: Context) -> Pending:
    """Decide what an outcome means, as far as that is possible without the store."""
    checkpoint = taken_up(checkpoint, context.budget)
    match outcome:
        case Fetched(batch=batch):
            # Before all else: a batch that ends its walk may open dead letters as well.
            if reduced := mistaken(checkpoint, batch, context.policy):
                return Decided(exonerate(checkpoint, reduced, context))
            sweep = open_sweep(checkpoint, context.budget)
            problem = _trap(checkpoint, sweep, batch) if sweep is not None else None
            if sweep is not None and problem is not None and _ends(checkpoint, sweep, problem, context.policy):
                return _pending_batch(checkpoint, sweep, outcome, context, problem)
            if problem := problem or _unexpected_form(checkpoint, sweep, batch):
                return Decided(on_refusal(checkpoint, Refused(problem, outcome.took_seconds), context))
            return _pending_batch(checkpoint, sweep or _new_sweep(checkpoint, outcome, context), outcome, context)
        case Refused() as refused:
            return Decided(on_refusal(checkpoint, refused, context.as_of(refused)))


def _trap(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> Problem | None:
    """Return the problem of an answer that would keep a walk from its end, or end it too soon."""
    position = sweep.position
    if position.phase is Phase.HEAD:
        return None
    has_waited = checkpoint.rate_limit is not None
    return (
        cursor_loop(position, batch)
        or false_end(position, batch, has_waited=has_waited)
        or suddenly_empty(position, batch, sweep.tally + checkpoint.unrecorded)
    )


def _ends(checkpoint: Checkpoint, sweep: Sweep, problem: Problem, policy: Policy) -> bool:
    """Return whether the walk ends because of a problem that outlasted its remedies."""
    is_last = checkpoint.attempt >= policy.attempts
    match problem.kind:
        case ProblemKind.EMPTY_INBOX:
            return is_last
        case ProblemKind.FALSE_END:
            return may_end(sweep)
        case _:
            return may_end(sweep) and is_last


def _unexpected_form(checkpoint: Checkpoint, sweep: Sweep | None, batch: Batch) -> Problem | None:
    """Return the problem of a walk whose rows are nearly all unreadable; a catch-up scan meets the same rows again."""
    if sweep is None:
        return unexpected_form(batch, NO_TALLY)
    in_scan = sweep.position.phase is Phase.CATCH_UP
    so_far = sweep.tally + checkpoint.unrecorded
    return None if in_scan else unexpected_form(batch, so_far, checkpoint.open_dead_letters)


# --- a batch was read -------------------------------------------------------------------------------------------------


class PendingBatch(Struct, frozen=True):
    """A batch whose stored rows are not known yet. `sweep` is the one it belongs to.

    `problem` is why the walk ends with this batch, though the list goes on. A `quiet` batch changes nothing, which is
    known from the sweep before.
    """

    checkpoint: Checkpoint
    sweep: Sweep
    batch: Batch
    detail: Detail
    context: Context
    keys: Keys
    asked_at: datetime
    problem: Problem | None = None
    quiet: QuietHead | None = None

    def record(self, known: Known) -> Decision:
        """Record the batch and where its sweep continues, or skip a batch that changes nothing."""
        result = self._compare(known)
        if self.sweep.position.phase is Phase.HEAD:
            return self._moved(result, _after_head(self.sweep, self.batch, known))
        progress = self._progress(result)
        problem = no_progress(progress)
        if problem is not None and self.problem is None and not may_end(self.sweep):
            return on_refusal(self.checkpoint, Refused(problem, 0.0), self.context)
        problem = self.problem or problem
        batch = self.batch if problem is None else replace(self.batch, next_cursor=None)
        read_batches = self.sweep.tally.batches + (self.checkpoint.unrecorded + result.tally).batches
        position = _next_position(self.sweep, batch, read_batches=read_batches)
        if position is None:
            return self._complete(result, known, progress, problem)
        if position.phase is self.sweep.position.phase:
            edge = _edge(self.sweep.position, batch) if self.keys.full_sweep_at is not None else ()
            before, started_at = self.sweep.position, self.context.budget.started_at
            position = replace(
                position,
                progress=progress,
                edge=edge if position.phase is Phase.WALK else (),
                head_read_at=started_at if before.cursor is None else before.head_read_at,
            )
        else:  # the order of the walk counts for the whole sweep
            order = Progress(inversions=progress.inversions, raised=progress.raised)
            position = replace(position, progress=order)
        return self._moved(result, position, problem)

    def _progress(self, result: "_BatchResult") -> Progress:
        brings_new = bool(result.tally.inserted or result.tally.dead_lettered)
        return advanced(self.sweep.position.progress, self.batch, brings_new=brings_new)

    def _moved(self, result: "_BatchResult", position: Position, problem: Problem | None = None) -> Decision:
        """Return what to record of a batch that is not the last of its sweep."""
        checkpoint, sweep, budget = self.checkpoint, self.sweep, self.context.budget
        is_unchanged = result.changes == Changes() and not (result.events or result.news)
        if is_unchanged and problem is None and not _has_troubles(sweep):
            set_aside = sweep.set_aside if position.phase is Phase.HEAD else None
            moved = replace(sweep, position=position, lost_cursor=None, set_aside=set_aside)
            return BatchUnchanged(moved, result.tally)
        opening = beginnings(checkpoint, sweep, budget)
        number = batches_read(checkpoint, budget) + result.tally.batches
        stored = BatchStored(position, checkpoint.unrecorded + result.tally, number, problem)
        return self._record((*opening, *result.news, *result.events, stored), result.changes)

    def _compare(self, known: Known) -> "_BatchResult":
        if self.quiet is not None:
            return _BatchResult(Changes(), (), self.quiet.tally, ())
        stream, batch, now = self.keys.stream, self.batch, self.context.now
        is_head = self.sweep.position.phase is Phase.HEAD
        reduced = self.checkpoint.reduced_request
        readable = replace(batch, conversations=()) if self.detail is Detail.POSITION else batch
        found = difference(stream, readable, known, now)
        as_of = AsOf(now, self.asked_at, believes_all=are_unsent_after_all(self.checkpoint.doubt, now))
        found = with_revisions(found, readable, self.keys.readings, known, as_of)
        written, unwritten = withhold(found, self.context.refused)
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
            order_violations=0 if is_head else order_violations(batch.conversations, self.sweep.position.reached_at),
        )
        closed = recovered(readable, self.detail, failures, known)
        gaps = owed(self.checkpoint, readable, found, known, self.context, self.checkpoint.watermark)
        missed = () if self.detail.leaves_out else recorded(*without_content(written.changes.interaction_events))
        return _BatchResult(changes, (*dead_letters, *closed, *missed, *gaps), tally, news)

    def _complete(self, result: "_BatchResult", known: Known, progress: Progress, problem: Problem | None) -> Record:
        sweep, budget, now = self.sweep, self.context.budget, self.context.now
        tally, changes = self.checkpoint.unrecorded + result.tally, result.changes
        whole = sweep.tally + tally
        missed = known.all_missed + known.unseen - len(changes.found)
        is_empty = progress.low_at is None and sweep.lowest is None and not whole.unreadable
        problem = sweep.problem or problem
        problem = problem or implausible(missed, known, self.checkpoint.doubt, now, is_empty=is_empty)
        problem = problem or messages_missing(whole) or out_of_order(whole, progress)
        if missed and problem is None and _is_flawless(whole):
            tally = replace(tally, deleted=missed)
            changes = replace(changes, missed_are_deleted_at=now)
        elif known.all_missed or known.unseen:
            changes = replace(changes, forgets_missed=True)
        has_errors = whole.dead_lettered > 0 or problem is not None
        completed = SweepCompleted(
            sweep.mode, sweep.walk_started_at, budget.started_at, tally, has_errors=has_errors, problem=problem
        )
        opening = beginnings(self.checkpoint, sweep, budget) if result.events or result.news else ()
        recorded = self._record((*opening, *result.news, *result.events, completed), changes)
        return recorded if changes != Changes() or len(recorded.events) > 1 else self._as_quiet(recorded, tally)

    def _as_quiet(self, recorded: Record, tally: Tally) -> Record:
        """Add what the next sweep may know of this batch, which changed nothing."""
        if not may_be_quiet(self.checkpoint, self.sweep, self.batch):
            return recorded
        head = self.quiet or QuietHead(0, digest(self.batch), tally, self.context.policy, self.context.now)
        return replace(recorded, quiet=replace(head, version=self.checkpoint.version + 1))

    def _record(self, events: tuple[Event, ...], changes: Changes) -> Record:
        """Record a batch, with the page that was read and the messages that are new since the last sweep."""
        news_after = self.checkpoint.watermark
        return Record(events, with_news(self._with_page(changes), news_after), arrived_since(news_after, changes))

    def _with_page(self, changes: Changes) -> Changes:
        """Add the page that was read, if the source says what it is called."""
        page, stream, now = self.batch.page, self.keys.stream, self.context.now
        if page is None:
            return changes
        return replace(changes, page=PageRow(stream.platform, stream.page_id, page.name, page.username, now, now))


class _BatchResult(Struct, frozen=True):
    """The result of a batch: rows to write, what else to record, the counts, and news of our own id.

    To be recorded are dead letters that are opened or closed, and messages that are missed or owed.
    """

    changes: Changes
    events: tuple[DeadLetterOpened | DeadLetterClosed | MessagesMissed | MessagesOwed, ...]
    tally: Tally
    news: tuple[OwnIdChecked, ...]


def _own_id_news(checkpoint: Checkpoint, batch: Batch) -> tuple[OwnIdChecked, ...]:
    """Return what a batch says about our own id, if that is not on record."""
    before = checkpoint.own_id or OwnId(OwnIdState.EXPECTED)
    return () if batch.own_id in (None, before) else (OwnIdChecked(batch.own_id),)


def _pending_batch(
    checkpoint: Checkpoint, sweep: Sweep, fetched: Fetched, context: Context, problem: Problem | None = None
) -> PendingBatch:
    batch = fetched.batch
    head, nothing, asked_at = context.quiet, Keys(checkpoint.stream), fetched.asked_at
    if head is not None and is_as_before(head, checkpoint, sweep, batch, context.policy, context.now):
        return PendingBatch(checkpoint, sweep, batch, Detail.NESTED, context, nothing, asked_at, problem, head)
    detail = Detail.NESTED if fetched.is_whole else size_now(checkpoint, context.policy).detail
    is_whole = not (batch.unreadable or context.refused) and detail is Detail.NESTED
    keys = replace(
        keys_of(checkpoint.stream, batch),
        subjects=() if is_whole and not checkpoint.open_dead_letters else subjects_of(batch, context.refused),
        full_sweep_at=sweep.walk_started_at if _notes_missed(checkpoint, sweep) else None,
        stretch=_stretch(checkpoint, sweep, batch),
        counts_stored=_may_complete(checkpoint, sweep, batch),
        readings=readings(batch, detail, context.policy.messages_per_conversation),
    )
    return PendingBatch(checkpoint, sweep, batch, detail, context, keys, fetched.asked_at, problem)


def _may_complete(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> bool:
    """Return whether what a sweep found has to be compared with all that is stored after this batch."""
    if sweep.position.phase is Phase.HEAD or (batch.conversations and not _notes_missed(checkpoint, sweep)):
        return False
    read_batches = sweep.tally.batches + checkpoint.unrecorded.batches + 1
    return _next_position(sweep, batch, read_batches=read_batches) is None


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


def _next_position(sweep: Sweep, batch: Batch, *, read_batches: int) -> Position | None:
    """Return where the sweep continues after a batch; None after its last.

    A walk of a single batch saw the inbox at one instant: nothing can have moved behind it, so it needs no catch-up
    scan.
    """
    phase, times = sweep.position.phase, [each.updated_time for each in batch.conversations]
    until = sweep.walk_until if phase is Phase.WALK else sweep.catch_up_until
    older = older_in_a_row(times, until, sweep.position.older)
    # A small batch that is wholly older proves little, be it made small or configured so: its rows may just be out of
    # order. Where others are, it proves less still, and an incremental walk over a list without any order goes on to
    # its end.
    least_older = LEAST_OLDER * 4 ** min(disorder(sweep.position.progress, batch), 10)
    is_back = reaches_back(times, until) and older >= least_older
    if batch.next_cursor is not None and not is_back:
        reached_at = times[-1] if times else sweep.position.reached_at
        return Position(phase, batch.next_cursor, reached_at, older, has_gap=sweep.position.has_gap)
    return Position(Phase.CATCH_UP) if phase is Phase.WALK and read_batches > 1 else None


def _after_head(sweep: Sweep, batch: Batch, known: Known) -> Position:
    """Return where the sweep continues after a batch of the head: with the next, or back at the walk.

    What is older than a conversation that is stored as it is has been read before, unless the last reading of the head
    was incomplete. What was there when the sweep started is left to the walk.
    """
    position, aside = sweep.position, sweep.set_aside
    older = older_in_a_row([each.updated_time for each in batch.conversations], sweep.catch_up_until, position.older)
    last = batch.conversations[-1] if batch.conversations else None
    stored = known.conversations.get(last.conversation_id) if last is not None else None
    is_known = last is not None and stored is not None and stored.updated_time >= last.updated_time
    has_gap = aside is not None and aside.position.has_gap
    progress = advanced(position.progress, batch, brings_new=False)
    if batch.next_cursor is None or last is None or cursor_loop(position, batch) or no_progress(progress):
        return walk_after_head(sweep, is_complete=batch.next_cursor is None and last is not None)
    if older >= LEAST_OLDER or (is_known and not has_gap):
        return walk_after_head(sweep, is_complete=True)
    return Position(Phase.HEAD, batch.next_cursor, last.updated_time, older, progress=progress)


def _has_troubles(sweep: Sweep) -> bool:
    """Return whether troubles of a walk are set aside: only an entry brings them back, so its batch needs one."""
    aside = sweep.set_aside
    return aside is not None and (aside.reduced_request is not None or aside.retry is not None)


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
    older_than = position.reached_at
    if position.edge and older_than is not None:
        older_than += timedelta(milliseconds=1)  # the second is included, since all that was seen of it is known
    return Stretch(
        sweep.walk_started_at,
        older_than=older_than,
        newer_than=batch.conversations[-1].updated_time if batch.next_cursor is not None else None,
        seen=(*position.edge, *(each.conversation_id for each in batch.conversations)),
    )


def _edge(position: Position, batch: Batch) -> tuple[str, ...]:
    """Return the conversations seen so far with the time of the last one of a batch; none if they are too many."""
    if not batch.conversations:
        return position.edge
    last = batch.conversations[-1].updated_time
    seen = tuple(each.conversation_id for each in batch.conversations if each.updated_time == last)
    if last == position.reached_at:
        seen = (*position.edge, *seen) if position.edge else ()
    return seen if len(seen) <= MAX_EDGE else ()


def _is_flawless(tally: Tally) -> bool:
    """Return whether a sweep saw everything, in order: only then is what it did not see deleted."""
    return not (tally.unreadable or tally.dead_lettered or tally.order_violations)
