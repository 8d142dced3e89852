"""Answers that are not to be believed: of one request, of a walk that gets nowhere, or of a whole sweep.

An answer that would keep its walk from ever ending, end it too soon, or make a dead letter of every row counts as a
refusal, with a remedy like any other (core/remedies.py). If it outlasts that, its walk ends there at the most.

A right that was lost, and an incident, can look like an inbox without conversations. So an implausible sweep deletes
nothing and is on record with what is wrong, until another sweep shows that all is well. Marks of deletion can wait:
rows stay, and it is worse to lose sight of thousands than to show three too long.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import pairwise

from milepost.core.checkpoint import Checkpoint, Doubt, Lowest, Sweep
from milepost.core.events import NO_TALLY, Entry, SweepCompleted, Tally
from milepost.core.model import Batch, Known
from milepost.core.position import Mode, Phase, Position, Progress
from milepost.core.problems import Problem, ProblemKind

HANDFUL = 5  # so many may be gone at once from an inbox of any size
AGREES_AFTER = timedelta(days=1)  # before a second sweep that misses most is believed
MAX_INTERVAL_SECONDS = 86_400.0  # between full sweeps as long as the last one is in doubt

MIN_UNREADABLE = 5  # in one batch; fewer are dead letters, whatever they have in common
MIN_OPEN = 12  # dead letters that are open where batches are smaller: a sweep may meet a row more than once
MANY_IN_SWEEP = 50  # that a batch of them is no end of an inbox any more, however much was read before
NEARLY_ALL = 0.9
READ_VERSION = "set source.version to one that it reads, such as the default, or update Milepost"
MESSAGES = "/messages"  # ends the subject of messages whose conversation was read

WITHOUT_PROGRESS = (ProblemKind.NO_PROGRESS, ProblemKind.CURSOR_LOOP, ProblemKind.FALSE_END)
KINDS = (
    *WITHOUT_PROGRESS,
    ProblemKind.EMPTY_INBOX,
    ProblemKind.MOST_MISSING,
    ProblemKind.MESSAGES_MISSING,
    ProblemKind.OUT_OF_ORDER,
)

# What an answer has to outlast before its walk ends there, with the problem on record: a restart at the head in a run
# before, all attempts of this run, or both. Any other that is not believed is never taken for an end.
OUTLASTS: Mapping[ProblemKind, tuple[bool, bool]] = {
    ProblemKind.CURSOR_LOOP: (True, True),
    ProblemKind.FALSE_END: (True, False),
    ProblemKind.NO_PROGRESS: (True, False),
    ProblemKind.EMPTY_INBOX: (False, True),
}


# --- the answer to one request ----------------------------------------------------------------------------------------


def disbelieved(checkpoint: Checkpoint, sweep: Sweep | None, batch: Batch) -> Problem | None:
    """Return why an answer is not believed; None if it is. `sweep` is the one that it continues, if it does."""
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
    """Return whether a walk ends at an answer that is not believed, because it has outlasted its remedies."""
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
        return Problem(ProblemKind.CURSOR_LOOP, "the cursors of the list come round: the next one was used before")
    return None


def false_end(position: Position, batch: Batch, *, has_waited: bool) -> Problem | None:
    """Return the problem of a list that ends with nothing behind an old cursor, as some answer for a dead one.

    In a list that has been in order, conversations newer than the place of the cursor are not behind it.
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
    """Return the problem of an inbox whose head is empty, though its sweep has met rows, be they unreadable."""
    is_empty = not (batch.conversations or batch.unreadable or batch.next_cursor)
    if position.cursor is not None or not (is_empty and (so_far.conversations or so_far.unreadable)):
        return None
    return Problem(ProblemKind.EMPTY_INBOX, "the list of conversations is empty, and was not when it was walked")


def unexpected_form(batch: Batch, before: Tally, open_dead_letters: int = 0) -> Problem | None:
    """Return the problem of a batch of which nearly all rows are unreadable for one reason, as in its sweep before.

    As dead letters they would make an inbox that counts as complete.
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
            form = f"have another form than this version of Milepost reads ({reason}); {READ_VERSION}"
            return Problem(ProblemKind.MISCONFIGURED, f"{in_sweep:,} of {of_sweep:,} {what} {form}")
    return None


# --- a walk that gets nowhere -----------------------------------------------------------------------------------------

# It is told in constant space, whatever the list answers. A batch makes progress if it brings a conversation that was
# not stored, or if all of it is older than all before it. Unchanged conversations that get older are progress, so that
# a quiet sweep of an inbox that is known makes some with each batch; pages may repeat rows of the one before, empty
# pages may have others behind them, and many threads may share a second. What goes on for longer than any of that is
# trouble. Cursors that come round are found sooner, by their digests, with any period (Brent, "An improved Monte Carlo
# factorization algorithm", BIT 20, 1980).

MAX_EMPTY = 100  # batches in a row
MAX_STALE = 5_000  # conversations in a row that bring nothing new: a page may write to thousands in one second
MAX_RUNS = 3  # in a row


def advanced(progress: Progress, batch: Batch, *, brings_new: bool) -> Progress:
    """Return the progress after a batch. `brings_new` says whether it had anything that was not stored."""
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
        inversions=progress.inversions + _inversions(batch),
        raised=progress.raised + _is_raised(progress, batch),
    )


def digest(cursor: str) -> str:
    """Return a short digest of a cursor."""
    return sha256(cursor.encode()).hexdigest()[:12]


def _inversions(batch: Batch) -> int:
    """Return how many conversations are newer than the one before in the same batch.

    Pages that repeat rows of the one before break the order between batches, which is no sign of a list without one.
    """
    return sum(later.updated_time > earlier.updated_time for earlier, later in pairwise(batch.conversations))


def _is_raised(progress: Progress, batch: Batch) -> bool:
    """Return whether a batch begins above where another one did before it."""
    newest = max((each.updated_time for each in batch.conversations), default=None)
    return newest is not None and progress.low_at is not None and newest > progress.low_at


def disorder(progress: Progress, batch: Batch) -> int:
    """Return how often the order was broken, this batch included."""
    return progress.inversions + progress.raised + _inversions(batch) + _is_raised(progress, batch)


def no_progress(progress: Progress) -> Problem | None:
    """Return the problem of a walk that goes on and gets nowhere."""
    if progress.empty >= MAX_EMPTY:
        what = f"the last {MAX_EMPTY} batches of the list were empty, each with a cursor to another one"
        return Problem(ProblemKind.NO_PROGRESS, what)
    if progress.stale >= MAX_STALE:
        what = f"the last {MAX_STALE} conversations of the list were stored already, and none was older than before"
        return Problem(ProblemKind.NO_PROGRESS, what)
    return None


def lowest_of(position: Position) -> Lowest | None:
    """Return how far the phase of a position has got; None for the head, which is read apart."""
    low_at = position.progress.low_at
    return None if low_at is None or position.is_of_head else Lowest(position.phase, low_at)


def has_moved(sweep: Sweep, position: Position, tally: Tally) -> bool:
    """Return whether an entry with this position and tally shows a conversation that its sweep had not read before.

    What is new at the head, which is read apart, gets the sweep no further.
    """
    lowest, reached = sweep.lowest, lowest_of(position)
    is_lower = reached is not None and (lowest is None or lowest.phase is not reached.phase or reached.at < lowest.at)
    is_scan_starting = position.phase is Phase.CATCH_UP and position.cursor is None
    brings_new = (tally.inserted > 0 or tally.dead_lettered > 0) and not position.is_of_head
    return brings_new or is_lower or is_scan_starting


def futile_runs_after(checkpoint: Checkpoint, position: Position, tally: Tally) -> int:
    """Return how many runs in a row were futile, after an entry with this position and tally."""
    sweep = checkpoint.sweep
    return 0 if sweep is None or has_moved(sweep, position, tally) else checkpoint.futile_runs


def futile_runs(checkpoint: Checkpoint) -> int:
    """Return how many ended runs in a row resumed the sweep and read nothing that it had not read before."""
    run = checkpoint.run
    return checkpoint.futile_runs - (run is not None and run.ended_at is None and checkpoint.futile_runs > 0)


def futility(runs: int) -> Problem | None:
    """Return the problem of a stream whose last runs, so many, were futile."""
    if runs < MAX_RUNS:
        return None
    return Problem(ProblemKind.NO_PROGRESS, f"{runs} runs in a row read no conversation that their sweep had not read")


# --- a completed sweep ------------------------------------------------------------------------------------------------


def implausible(missed: int, known: Known, before: Doubt | None, now: datetime, *, is_empty: bool) -> Problem | None:
    """Return why the answers of a whole sweep are not believed; None if they are.

    `missed` counts the stored conversations that it did not find, and `is_empty` says that nothing at all was listed. A
    sweep that misses most is believed if one said so a day ago and no other has found more since; an empty inbox never.
    """
    if known.stored and is_empty:
        what = f"the list of conversations is empty, and {known.stored} are stored"
        return Problem(ProblemKind.EMPTY_INBOX, what)
    if not are_most(missed, known.stored) or has_lasted(before, ProblemKind.MOST_MISSING, now):
        return None
    what = f"the sweep did not find {missed} of {known.stored} conversations that are stored"
    return Problem(ProblemKind.MOST_MISSING, what)


def are_most(missing: int, whole: int) -> bool:
    """Return whether so much is missing at once that an incident is likelier: what is gone by itself goes in ones."""
    return missing > HANDFUL and 2 * missing > whole


def has_lasted(before: Doubt | None, kind: ProblemKind, now: datetime) -> bool:
    """Return whether a doubt has lasted for so long that it is no incident, and what was seen is believed after all."""
    return before is not None and before.problem.kind is kind and now - before.since >= AGREES_AFTER


def messages_missing(tally: Tally) -> Problem | None:
    """Return the problem of a sweep in which answers missed messages of most of their conversations."""
    if not tally.doubted:
        return None
    what = "stored messages are missing between others, in most conversations of a batch"
    return Problem(ProblemKind.MESSAGES_MISSING, what)


def out_of_order(tally: Tally, progress: Progress) -> Problem | None:
    """Return the problem of a list without an order, as far as the batches of a whole sweep show that.

    A few breaks are normal: a thread that moves is listed at its old place for a moment.
    """
    is_mixed = progress.inversions >= HANDFUL and 10 * progress.inversions >= tally.conversations
    is_jumping = progress.raised >= 3 and 4 * progress.raised >= tally.batches
    if not (is_mixed or is_jumping):
        return None
    return Problem(ProblemKind.OUT_OF_ORDER, "the list of conversations is not ordered by updated_time")


def doubt_after(before: Doubt | None, entry: Entry, event: SweepCompleted) -> Doubt | None:
    """Return the doubt after a completed sweep. Only a full one clears it, or any one if the inbox had been empty.

    An empty inbox says nothing about an earlier doubt, which stays.
    """
    kind, problem = before.problem.kind if before is not None else None, event.problem
    if problem is None:
        return None if event.mode is Mode.FULL or kind is ProblemKind.EMPTY_INBOX else before
    if before is not None and problem.kind is ProblemKind.EMPTY_INBOX:
        return before
    return Doubt(problem, before.since if before is not None and kind is problem.kind else entry.recorded_at)


def doubt_about(checkpoint: Checkpoint) -> Problem | None:
    """Return the trouble that a stream's list makes now, whether its sweep is open or complete; None if none."""
    if (problem := trouble_under_way(checkpoint)) is not None:
        return problem
    return checkpoint.doubt.problem if checkpoint.doubt is not None else None


def trouble_under_way(checkpoint: Checkpoint) -> Problem | None:
    """Return why the open sweep gets nowhere; None if it does get on, or none is open."""
    if (futile := futility(futile_runs(checkpoint))) is not None:
        return futile
    run, sweep = checkpoint.run, checkpoint.sweep
    if sweep is None:
        return None
    if sweep.problem is not None:
        return sweep.problem
    problem = run.problem if run is not None else None
    return problem if problem is not None and problem.kind in WITHOUT_PROGRESS else None
