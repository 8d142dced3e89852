"""Implausible answers of the API: to one request, over a walk that makes no progress, or over a whole sweep.

An answer that would keep its walk from ever ending, end it too soon, or make a dead letter of every row counts as a
refusal, with a remedy like any other (core/problems.py). If the remedies do not help, the walk may end there at most.

A lost permission, or an incident at the platform, can look like an inbox without conversations. So an implausible sweep
deletes nothing, and its problem stays on record until another sweep shows that all is well. Deletions can wait: it is
worse to hide thousands of conversations than to show three for too long.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from operator import gt

from milepost.core.checkpoint import Checkpoint, Doubt, Lowest, Sweep
from milepost.core.events import NO_TALLY, Entry, SweepCompleted, Tally
from milepost.core.model import Batch, Known
from milepost.core.position import Mode, Phase, Position, Progress
from milepost.core.problems import Problem, ProblemKind

HANDFUL = 5  # this many may vanish at once from an inbox of any size
AGREES_AFTER = timedelta(days=1)  # the time after which a second sweep that misses most is believed
MAX_INTERVAL_SECONDS = 86_400.0  # between full sweeps while the last one is in doubt

MIN_UNREADABLE = 5  # in one batch; fewer are dead letters, whatever they have in common
MIN_OPEN = 12  # open dead letters, for smaller batches: a sweep may meet a row more than once
MANY_IN_SWEEP = 50  # with this many in a sweep, a batch of them cannot be the end of the inbox, however much was read
NEARLY_ALL = 0.9
READ_VERSION = "set source.version to one that it reads, such as the default, or update Milepost"
MESSAGES = "/messages"  # the end of the subject for messages whose conversation was read

WITHOUT_PROGRESS = (ProblemKind.NO_PROGRESS, ProblemKind.CURSOR_LOOP, ProblemKind.FALSE_END)
KINDS = (
    *WITHOUT_PROGRESS,
    ProblemKind.EMPTY_INBOX,
    ProblemKind.MOST_MISSING,
    ProblemKind.MESSAGES_MISSING,
    ProblemKind.OUT_OF_ORDER,
)

# What a doubtful answer has to outlast before its walk ends there, with the problem on record: a restart at the head in
# an earlier run, all attempts of this run, or both. No other doubtful answer is ever taken for an end.
OUTLASTS: Mapping[ProblemKind, tuple[bool, bool]] = {
    ProblemKind.CURSOR_LOOP: (True, True),
    ProblemKind.FALSE_END: (True, False),
    ProblemKind.NO_PROGRESS: (True, False),
    ProblemKind.EMPTY_INBOX: (False, True),
}


# --- the answer to one request ----------------------------------------------------------------------------------------


def disbelieved(checkpoint: Checkpoint, sweep: Sweep | None, batch: Batch) -> Problem | None:
    """Return why an answer is not believed; None if it is. `sweep` is the sweep that it continues, if any."""
    position = sweep.position if sweep is not None else Position()
    so_far = sweep.tally + checkpoint.unrecorded if sweep is not None else NO_TALLY
    problem = None
    if position.phase is not Phase.HEAD:  # reading the head first ends at any of these
        has_waited = checkpoint.rate_limit is not None
        problem = (
            cursor_loop(position, batch)
            or false_end(position, batch, has_waited=has_waited)
            or suddenly_empty(position, batch, so_far)
        )
    if problem is None and position.phase is not Phase.CATCH_UP:  # which meets the rows of the walk again
        problem = unexpected_form(batch, so_far, checkpoint.open_dead_letters)
    return problem


def ends_walk(checkpoint: Checkpoint, sweep: Sweep | None, problem: Problem, *, attempts: int) -> bool:
    """Return whether a walk ends at an answer that is not believed, because the remedies did not help."""
    if sweep is None or problem.kind not in OUTLASTS:
        return False
    restart, all_attempts = OUTLASTS[problem.kind]
    has_restarted = sweep.is_rewound and not sweep.resets
    return (has_restarted or not restart) and (checkpoint.attempt >= attempts or not all_attempts)


def cursor_loop(position: Position, batch: Batch) -> Problem | None:
    """Return the problem of a cursor that was used before: following it would never end."""
    if position.cursor is None or batch.next_cursor is None:
        return None
    if batch.next_cursor == position.cursor:
        return Problem(ProblemKind.CURSOR_LOOP, "the cursor of the next batch is the one just used")
    if position.progress.mark and digest(batch.next_cursor) == position.progress.mark:
        return Problem(ProblemKind.CURSOR_LOOP, "the cursors of the list repeat: the next one was used before")
    return None


def false_end(position: Position, batch: Batch, *, has_waited: bool) -> Problem | None:
    """Return the problem of a list that is empty after an old cursor; some APIs answer so if the cursor is dead.

    In a list that has been in order, conversations newer than the cursor's position cannot come after it.
    """
    is_end = not (batch.unreadable or batch.next_cursor)
    if position.cursor is None or not is_end or not (position.is_old or has_waited):
        return None
    reached_at = position.reached_at
    if not batch.conversations:
        return Problem(ProblemKind.FALSE_END, "the list ended with an empty answer to a cursor that had been kept")
    was_in_order = not (position.progress.inversions or position.progress.raised)
    if reached_at is None or not was_in_order or any(each.updated_time <= reached_at for each in batch.conversations):
        return None
    what = "the list ended with newer conversations than before a cursor that had been kept"
    return Problem(ProblemKind.FALSE_END, what)


def suddenly_empty(position: Position, batch: Batch, so_far: Tally) -> Problem | None:
    """Return the problem of an inbox whose head is empty, although its sweep has met rows, readable or not."""
    is_empty = not (batch.conversations or batch.unreadable or batch.next_cursor)
    if position.cursor is not None or not (is_empty and (so_far.conversations or so_far.unreadable)):
        return None
    return Problem(ProblemKind.EMPTY_INBOX, "the list of conversations is empty, and was not when it was walked")


def unexpected_form(batch: Batch, before: Tally, open_dead_letters: int = 0) -> Problem | None:
    """Return the problem of a batch with nearly all rows unreadable for one reason, if so were those of its sweep.

    If they became dead letters, the inbox would count as complete.
    """
    apart = [each for each in batch.unreadable if not each.subject.endswith(MESSAGES)]
    inside = [each for each in batch.unreadable if each.subject.endswith(MESSAGES)]
    read = len(batch.conversations)
    for unreadable, rows, of_sweep in (
        (apart, read + len(apart), before.conversations + before.unreadable + read + len(apart)),
        (inside, read, before.conversations + read),
    ):
        if not unreadable:
            continue
        reason, count = Counter(each.reason for each in unreadable).most_common(1)[0]
        in_sweep = before.unreadable + count
        is_enough = count >= MIN_UNREADABLE or min(in_sweep, open_dead_letters) >= MIN_OPEN
        is_broad = in_sweep >= NEARLY_ALL * of_sweep or (count >= MIN_UNREADABLE and in_sweep >= MANY_IN_SWEEP)
        if is_enough and is_broad and count >= NEARLY_ALL * rows:
            what = "conversations" if unreadable is apart else "conversations' messages"
            form = f"have a form that this version of Milepost cannot read ({reason}); {READ_VERSION}"
            return Problem(ProblemKind.MISCONFIGURED, f"{in_sweep:,} of {of_sweep:,} {what} {form}")
    return None


# --- a walk that makes no progress ------------------------------------------------------------------------------------

# It is detected in constant space, whatever the list answers. A batch makes progress if it has a conversation that was
# not stored, or if all of it is older than everything before it. So each batch of a quiet sweep makes progress, because
# its unchanged conversations get older. Some batches without progress are normal: pages may repeat rows of the previous
# page, empty pages may be followed by others, and many threads may share a second. More of them than that explains are
# a problem. Cursors that repeat are found sooner, by their digests, with any period (Brent, "An improved Monte Carlo
# factorization algorithm", BIT 20, 1980).

MAX_EMPTY = 100  # batches in a row
MAX_STALE = 5_000  # conversations in a row with nothing new: a page may write to thousands in one second
MAX_RUNS = 3  # in a row


def advanced(progress: Progress, batch: Batch, *, brings_new: bool) -> Progress:
    """Return the progress after a batch. `brings_new` says whether it had a conversation that was not stored."""
    times = [each.updated_time for each in batch.conversations]
    newest = max(times, default=None)
    is_lower = newest is not None and (progress.low_at is None or newest < progress.low_at)
    is_empty = not times and not batch.unreadable
    batches = progress.batches + 1
    is_marked = batch.next_cursor is not None and batches & (batches - 1) == 0
    return Progress(
        batches=batches,
        mark=digest(batch.next_cursor) if is_marked and batch.next_cursor is not None else progress.mark,
        low_at=newest if is_lower else progress.low_at,
        stale=0 if brings_new or is_lower else progress.stale + len(times),
        empty=progress.empty + 1 if is_empty else 0,
        inversions=progress.inversions + order_violations(times),
        raised=progress.raised + _is_raised(progress, newest),
    )


def digest(cursor: str) -> str:
    """Return a short digest of a cursor."""
    return sha256(cursor.encode()).hexdigest()[:12]


def order_violations(times: Sequence[datetime], after: datetime | None = None) -> int:
    """Return how many conversations of a batch are newer than the previous one, given their times.

    The first follows `after`, if it counts: a page may repeat rows of the previous page.
    """
    listed = times if after is None else [after, *times]
    return sum(map(gt, listed[1:], listed))


def _is_raised(progress: Progress, newest: datetime | None) -> bool:
    """Return whether a batch begins with a newer conversation than an earlier batch did."""
    return newest is not None and progress.low_at is not None and newest > progress.low_at


def disorder(progress: Progress, batch: Batch) -> int:
    """Return how often the order was broken, this batch included."""
    times = [each.updated_time for each in batch.conversations]
    in_batch = order_violations(times) + _is_raised(progress, max(times, default=None))
    return progress.inversions + progress.raised + in_batch


def no_progress(progress: Progress) -> Problem | None:
    """Return the problem of a walk that goes on without progress."""
    if progress.empty >= MAX_EMPTY:
        what = f"the last {MAX_EMPTY} batches of the list were empty, each with a cursor to another one"
        return Problem(ProblemKind.NO_PROGRESS, what)
    if progress.stale >= MAX_STALE:
        what = f"the last {MAX_STALE} conversations of the list were stored already, and none was older than before"
        return Problem(ProblemKind.NO_PROGRESS, what)
    return None


def lowest_of(position: Position) -> Lowest | None:
    """Return how far the phase of a position has got; None for the head, which is read separately."""
    low_at = position.progress.low_at
    return None if low_at is None or position.is_of_head else Lowest(position.phase, low_at, position.scan.number)


def has_moved(sweep: Sweep, position: Position, tally: Tally) -> bool:
    """Return whether an entry with this position and tally shows a conversation that its sweep had not read before.

    New conversations at the head do not count: the head is read separately, and does not advance the sweep.
    """
    lowest, reached = sweep.lowest, lowest_of(position)
    is_lower = reached is not None and (lowest is None or _is_beyond(reached, lowest))
    is_scan_starting = position.phase is Phase.CATCH_UP and position.cursor is None
    brings_new = (tally.inserted > 0 or tally.dead_lettered > 0) and not position.is_of_head
    return brings_new or is_lower or is_scan_starting


def _is_beyond(reached: Lowest, lowest: Lowest) -> bool:
    """Return whether a walk or scan got further than before, or is another one, which begins at the head."""
    return (reached.phase, reached.scan) != (lowest.phase, lowest.scan) or reached.at < lowest.at


def futile_runs_after(checkpoint: Checkpoint, position: Position, tally: Tally) -> int:
    """Return how many runs in a row were futile as of an entry with this position and tally."""
    sweep = checkpoint.sweep
    return 0 if sweep is None or has_moved(sweep, position, tally) else checkpoint.futile_runs


def futile_runs(checkpoint: Checkpoint) -> int:
    """Return how many ended runs in a row resumed the sweep and read nothing that it had not read before."""
    run = checkpoint.run
    return checkpoint.futile_runs - (run is not None and run.ended_at is None and checkpoint.futile_runs > 0)


def futility(runs: int) -> Problem | None:
    """Return the problem of a stream whose last `runs` runs were futile, if they are too many."""
    if runs < MAX_RUNS:
        return None
    return Problem(ProblemKind.NO_PROGRESS, f"{runs} runs in a row read no conversation that their sweep had not read")


# --- a completed sweep ------------------------------------------------------------------------------------------------


def implausible(missed: int, known: Known, before: Doubt | None, now: datetime, *, is_empty: bool) -> Problem | None:
    """Return why the answers of a whole sweep are not believed; None if they are.

    `missed` counts the stored conversations that it did not find; `is_empty` says that nothing at all was listed. A
    sweep that misses most conversations is believed if another one missed them a day ago and none has found more since.
    An empty inbox is never believed.
    """
    if known.stored and is_empty:
        what = f"the list of conversations is empty, and {known.stored} are stored"
        return Problem(ProblemKind.EMPTY_INBOX, what)
    if not are_most(missed, known.stored) or outlasts_incidents(before, ProblemKind.MOST_MISSING, now):
        return None
    what = f"the sweep did not find {missed} of {known.stored} conversations that are stored"
    return Problem(ProblemKind.MOST_MISSING, what)


def are_most(missing: int, whole: int) -> bool:
    """Return whether so many are missing that an incident is likelier: people delete conversations one by one."""
    return missing > HANDFUL and 2 * missing > whole


def outlasts_incidents(before: Doubt | None, kind: ProblemKind, now: datetime) -> bool:
    """Return whether a doubt has lasted too long to be an incident, so that the answers are believed after all."""
    return before is not None and before.problem.kind is kind and now - before.since >= AGREES_AFTER


def messages_missing(tally: Tally) -> Problem | None:
    """Return the problem of a sweep whose answers lacked the messages of most conversations."""
    if not tally.doubted:
        return None
    what = "stored messages are missing between others, in most conversations of a batch"
    return Problem(ProblemKind.MESSAGES_MISSING, what)


def out_of_order(tally: Tally, progress: Progress) -> Problem | None:
    """Return the problem of a list that the batches of a whole sweep show to have no order.

    A few breaks are normal: a thread that moves is listed at its old place for a moment.
    """
    is_mixed = progress.inversions >= HANDFUL and 10 * progress.inversions >= tally.conversations
    is_jumping = progress.raised >= 3 and 4 * progress.raised >= tally.batches
    if not (is_mixed or is_jumping):
        return None
    return Problem(ProblemKind.OUT_OF_ORDER, "the list of conversations is not ordered by updated_time")


def doubt_after(before: Doubt | None, entry: Entry, event: SweepCompleted) -> Doubt | None:
    """Return the doubt after a completed sweep. Only a full sweep clears it; if the inbox was empty, any sweep does.

    An empty inbox proves nothing about an earlier doubt, which stays.
    """
    kind, problem = before.problem.kind if before is not None else None, event.problem
    if problem is None:
        return None if event.mode is Mode.FULL or kind is ProblemKind.EMPTY_INBOX else before
    if before is not None and problem.kind is ProblemKind.EMPTY_INBOX:
        return before
    return Doubt(problem, before.since if before is not None and kind is problem.kind else entry.recorded_at)


def doubt_about(checkpoint: Checkpoint) -> Problem | None:
    """Return the current problem of a stream's list, whether its sweep is open or complete; None if there is none."""
    if (problem := trouble_under_way(checkpoint)) is not None:
        return problem
    return checkpoint.doubt.problem if checkpoint.doubt is not None else None


def trouble_under_way(checkpoint: Checkpoint) -> Problem | None:
    """Return why the open sweep makes no progress; None if it does, or if none is open."""
    if (futile := futility(futile_runs(checkpoint))) is not None:
        return futile
    run, sweep = checkpoint.run, checkpoint.sweep
    if sweep is None:
        return None
    if sweep.problem is not None:
        return sweep.problem
    problem = run.problem if run is not None else None
    return problem if problem is not None and problem.kind in WITHOUT_PROGRESS else None
