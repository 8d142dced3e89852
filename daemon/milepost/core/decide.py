"""Decides what an outcome means: the events to record and the rows to store, together."""

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.backlog import owed
from milepost.core.checkpoint import BatchUnchanged, Checkpoint, Sweep
from milepost.core.dead_letters import Failure, opened, recovered, subjects_of, unread, withhold
from milepost.core.doubts import (
    advanced,
    disbelieved,
    ends_walk,
    implausible,
    messages_missing,
    no_progress,
    order_violations,
    out_of_order,
    outlasts_incidents,
)
from milepost.core.events import BatchStored, Event, OwnIdChecked, SweepCompleted, Tally
from milepost.core.failures import exonerate, mistaken, on_refusal
from milepost.core.merge import difference, keys_of
from milepost.core.missed import missed_events, without_content
from milepost.core.model import Changes, Detail, Keys, Known, OwnId, OwnIdState, PageRow
from milepost.core.plan import batches_read, new_sweep, open_sweep, size_now, with_head_first
from milepost.core.ports import Fetched, Outcome, Refused
from milepost.core.position import Phase, Position, Progress, Reading
from milepost.core.problems import Problem, ProblemKind
from milepost.core.records import (
    Context,
    Decided,
    Decision,
    Pending,
    QuietHead,
    Record,
    arrived_since,
    beginnings,
    digest,
    is_as_before,
    may_be_quiet,
    with_news,
)
from milepost.core.revisions import AsOf, readings, with_revisions, without_unsent
from milepost.core.walk import (
    after_head,
    edge_after,
    has_snapshot,
    next_position,
    next_scan,
    notes_missed,
    scan_after,
    stretch_of,
)


def decide(checkpoint: Checkpoint, outcome: Outcome, context: Context) -> Pending:
    """Decide what an outcome means, as far as that is possible without the store."""
    checkpoint = with_head_first(checkpoint, context.budget)
    match outcome:
        case Refused() as refused:
            return Decided(on_refusal(checkpoint, refused, context.as_of(refused)))
        case Fetched(batch=batch) as fetched:
            # This comes first, because a batch that ends its walk may open dead letters as well.
            if reduced := mistaken(checkpoint, batch, context.policy):
                return Decided(exonerate(checkpoint, batch, reduced, context))
            sweep = open_sweep(checkpoint, context.budget)
            problem = disbelieved(checkpoint, sweep, batch)
            if problem and not ends_walk(checkpoint, sweep, problem, attempts=context.policy.attempts):
                return Decided(on_refusal(checkpoint, Refused(problem, fetched.took_seconds), context))
            sweep = sweep or new_sweep(checkpoint, fetched, context.now, context.budget, context.policy)
            return _pending_batch(checkpoint, sweep, fetched, context, problem)


# --- a batch was read -------------------------------------------------------------------------------------------------


def _pending_batch(
    checkpoint: Checkpoint, sweep: Sweep, fetched: Fetched, context: Context, problem: Problem | None
) -> "PendingBatch":
    """Return the first half of the decision: which stored rows it needs."""
    batch, policy, head = fetched.batch, context.policy, context.quiet
    if head is not None and is_as_before(head, checkpoint, sweep, batch, policy, context.now):
        return PendingBatch(
            checkpoint, sweep, fetched, Detail.NESTED, context, Keys(checkpoint.stream), problem, quiet=head
        )
    detail = Detail.NESTED if fetched.is_whole else size_now(checkpoint, policy).detail
    is_whole = not (batch.unreadable or context.refused) and detail is Detail.NESTED
    notes = notes_missed(checkpoint, sweep)
    may_complete = sweep.position.phase is not Phase.HEAD and (notes or not batch.conversations)
    keys = replace(
        keys_of(checkpoint.stream, batch),
        subjects=() if is_whole and not checkpoint.open_dead_letters else subjects_of(batch, context.refused),
        full_sweep_at=sweep.walk_started_at if notes else None,
        stretch=stretch_of(checkpoint, sweep, batch),
        counts_stored=may_complete and next_position(checkpoint, sweep, batch) is None,
        readings=readings(batch, detail, policy.messages_per_conversation),
    )
    return PendingBatch(checkpoint, sweep, fetched, detail, context, keys, problem)


class PendingBatch(Struct, frozen=True):
    """A batch whose stored rows are not known yet. `sweep` is the one it belongs to.

    `problem` is why the walk ends with this batch although the list goes on. A `quiet` batch is known from the previous
    sweep to change nothing.
    """

    checkpoint: Checkpoint
    sweep: Sweep
    fetched: Fetched
    detail: Detail
    context: Context
    keys: Keys
    problem: Problem | None = None
    quiet: QuietHead | None = None

    def record(self, known: Known) -> Decision:
        """Record the batch and where its sweep continues, or skip a batch that changes nothing."""
        read, batch, before = self._read(known), self.fetched.batch, self.sweep.position
        if before.phase is Phase.HEAD:
            return self._moved(read, after_head(self.sweep, batch, known))
        brings_new = bool(read.tally.inserted or read.tally.dead_lettered)
        progress = advanced(before.progress, batch, brings_new=brings_new)
        problem, attempts = self.problem or no_progress(progress), self.context.policy.attempts
        if problem and not ends_walk(self.checkpoint, self.sweep, problem, attempts=attempts):
            return on_refusal(self.checkpoint, Refused(problem, 0.0), self.context)
        if problem:
            batch = replace(batch, next_cursor=None)
        position = next_position(self.checkpoint, self.sweep, batch)
        if position is None:
            return self._complete(read, known, progress, problem)
        return self._moved(read, self._with_progress(position, progress), problem)

    def _with_progress(self, position: Position, progress: Progress) -> Position:
        """Add the progress of its walk or scan to a position. The order of the walk counts for the whole sweep."""
        before, batch = self.sweep.position, self.fetched.batch
        if position.cursor is None:
            return replace(position, progress=Progress(inversions=progress.inversions, raised=progress.raised))
        notes = self.keys.full_sweep_at is not None
        return replace(
            position,
            progress=progress,
            edge=edge_after(before, batch) if notes and position.phase is Phase.WALK else (),
            scan=scan_after(self.sweep, batch) if notes else before.scan,
            head_read_at=self.context.budget.started_at if before.cursor is None else before.head_read_at,
        )

    def _moved(self, read: "BatchRead", position: Position, problem: Problem | None = None) -> Decision:
        """Return what to record of a batch that is not the last of its sweep."""
        checkpoint, sweep, budget = self.checkpoint, self.sweep, self.context.budget
        aside = sweep.set_aside
        # Only an entry brings back the troubles of a walk that is set aside.
        has_troubles = aside is not None and (aside.reduced_request is not None or aside.retry is not None)
        if not (read.events or problem or has_troubles) and read.changes == Changes():
            aside = aside if position.phase is Phase.HEAD else None
            return BatchUnchanged(replace(sweep, position=position, lost_cursor=None, set_aside=aside), read.tally)
        number = batches_read(checkpoint, budget) + read.tally.batches
        stored = BatchStored(position, checkpoint.unrecorded + read.tally, number, problem)
        return self._record((*beginnings(checkpoint, sweep, budget), *read.events, stored), read.changes)

    def _complete(self, read: "BatchRead", known: Known, progress: Progress, problem: Problem | None) -> Decision:
        """Return what to record of the last batch of a sweep, which may be in doubt, or call for another scan."""
        checkpoint, sweep, budget, now = self.checkpoint, self.sweep, self.context.budget, self.context.now
        tally, changes = checkpoint.unrecorded + read.tally, read.changes
        whole = sweep.tally + tally
        missed = known.all_missed + known.unseen - len(changes.found)
        problem = sweep.problem or problem or self._problem_of(whole, missed, known, progress)
        may_mark = missed > 0 and problem is None and _is_flawless(whole)
        again = next_scan(sweep, self.fetched.batch) if may_mark else None
        if again is not None:
            return self._moved(read, self._with_progress(again, progress))
        if may_mark and has_snapshot(sweep, self.fetched.batch):
            tally = replace(tally, deleted=missed)
            changes = replace(changes, missed_are_deleted_at=now)
        elif known.all_missed or known.unseen:
            changes = replace(changes, forgets_missed=True)
        has_errors = whole.dead_lettered > 0 or problem is not None
        completed = SweepCompleted(
            sweep.mode, sweep.walk_started_at, budget.started_at, tally, has_errors=has_errors, problem=problem
        )
        opening = beginnings(checkpoint, sweep, budget) if read.events else ()
        record = self._record((*opening, *read.events, completed), changes)
        return record if read.events or changes != Changes() else self._unchanged(record, tally)

    def _problem_of(self, whole: Tally, missed: int, known: Known, progress: Progress) -> Problem | None:
        """Return why the answers of a whole sweep are not believed; None if they are."""
        doubt, now = self.checkpoint.doubt, self.context.now
        is_empty = progress.low_at is None and self.sweep.lowest is None and not whole.unreadable
        return (
            implausible(missed, known, doubt, now, is_empty=is_empty)
            or messages_missing(whole)
            or out_of_order(whole, progress)
        )

    def _unchanged(self, record: Record, tally: Tally) -> Record:
        """Return the record of a sweep that changed nothing, with its head if the next sweep may get the same."""
        batch, version = self.fetched.batch, self.checkpoint.version
        if not may_be_quiet(self.checkpoint, self.sweep, batch):
            return record
        head = self.quiet or QuietHead(version, digest(batch), tally, self.context.policy, self.context.now)
        return replace(record, quiet=replace(head, version=version + 1))

    def _read(self, known: Known) -> "BatchRead":
        """Return the result of the batch, with the missed messages, and with our own id if that is not on record."""
        if self.quiet is not None:
            return BatchRead(Changes(), (), self.quiet.tally)
        checkpoint, batch = self.checkpoint, self.fetched.batch
        read = read_batch(checkpoint, self.fetched, self.detail, self.keys.readings, known, self.context)
        own_id = None if batch.own_id == (checkpoint.own_id or OwnId(OwnIdState.EXPECTED)) else batch.own_id
        news = (OwnIdChecked(own_id),) if own_id is not None else ()
        listed = (each.conversation_id for each in batch.conversations)
        changes = replace(
            read.changes,
            missed=self.keys.stretch if known.unseen else None,
            found=tuple(dict.fromkeys(key for key in listed if key in known.missed)),  # a batch may list one twice
            own_id=own_id.own_id if own_id is not None else None,
        )
        position = self.sweep.position
        is_head = position.phase is Phase.HEAD
        times = [each.updated_time for each in batch.conversations]
        violations = 0 if is_head else order_violations(times, position.reached_at)
        return BatchRead(changes, (*news, *read.events), replace(read.tally, order_violations=violations))

    def _record(self, events: tuple[Event, ...], changes: Changes) -> Record:
        """Record a batch, with the page that was read and the messages that are new since the last sweep."""
        page, stream, now = self.fetched.batch.page, self.checkpoint.stream, self.context.now
        if page is not None:
            row = PageRow(stream.platform, stream.page_id, page.name, page.username, now, now)
            changes = replace(changes, page=row)
        news_after = self.checkpoint.watermark
        return Record(events, with_news(changes, news_after), arrived_since(news_after, changes))


def _is_flawless(tally: Tally) -> bool:
    """Return whether a sweep saw everything, in order: only then do conversations that it missed count as deleted."""
    return not (tally.unreadable or tally.dead_lettered or tally.order_violations)


# --- the result of a batch --------------------------------------------------------------------------------------------


class BatchRead(Struct, frozen=True):
    """The result of a batch: rows to write, events to record, the counts, and what could not be read or written.

    The events are about dead letters opened or closed, messages missed or owed, and news about our own id.
    """

    changes: Changes
    events: tuple[Event, ...]
    tally: Tally
    failures: tuple[Failure, ...] = ()


def read_batch(
    checkpoint: Checkpoint, fetched: Fetched, detail: Detail, shown: Iterable[Reading], known: Known, context: Context
) -> BatchRead:
    """Return the result of a batch with this `detail` and these readings, given the stored rows."""
    stream, batch, now = checkpoint.stream, fetched.batch, context.now
    readable = replace(batch, conversations=()) if detail is Detail.POSITION else without_unsent(batch, known)
    believes_all = outlasts_incidents(checkpoint.doubt, ProblemKind.MESSAGES_MISSING, now)
    as_of = AsOf(now, fetched.asked_at, believes_all=believes_all)
    found = with_revisions(difference(stream, readable, known, now, fetched.asked_at), readable, shown, known, as_of)
    written, unwritten = withhold(found, context.refused)
    reduced = checkpoint.reduced_request
    failures = (*unread(batch, detail, reduced.problem if reduced else None, known), *unwritten)
    dead_letters, payloads = opened(stream, failures, known, now)
    missed = () if detail.leaves_out else missed_events(*without_content(written.changes.interaction_events))
    closed = recovered(readable, detail, failures, known)
    gaps = owed(checkpoint, readable, detail, found, known, context)
    tally = replace(written.tally, dead_lettered=len(dead_letters), unreadable=len(failures))
    events: tuple[Event, ...] = (*dead_letters, *closed, *missed, *gaps)
    return BatchRead(replace(written.changes, payloads=payloads), events, tally, failures)
