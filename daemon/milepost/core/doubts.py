"""Answers that are not to be believed: what a completed sweep says of an inbox, compared with what is stored.

A right that was lost, and an incident, can look like an inbox without conversations. So an implausible answer deletes
nothing and is on record with the sweep, until another sweep shows that all is well. Marks of deletion can wait: rows
stay, and it is worse to lose sight of thousands than to show three too long.

Nor is a batch believed of which nearly all rows are unreadable: what they have in common is no property of a row.
"""

from collections import Counter
from datetime import datetime, timedelta

from milepost.core.checkpoint import Checkpoint, Doubt
from milepost.core.events import Entry, SweepCompleted, Tally
from milepost.core.model import Batch, Known
from milepost.core.position import Mode, Progress
from milepost.core.problems import Problem, ProblemKind
from milepost.core.progress import futile_runs, futility

HANDFUL = 5  # so many may be gone at once from an inbox of any size
AGREES_AFTER = timedelta(days=1)  # before a second sweep that misses most is believed
MAX_INTERVAL_SECONDS = 86_400.0  # between full sweeps as long as the last one is in doubt

WITHOUT_PROGRESS = (ProblemKind.NO_PROGRESS, ProblemKind.CURSOR_LOOP, ProblemKind.FALSE_END)
KINDS = (
    *WITHOUT_PROGRESS,
    ProblemKind.EMPTY_INBOX,
    ProblemKind.MOST_MISSING,
    ProblemKind.MESSAGES_MISSING,
    ProblemKind.OUT_OF_ORDER,
)


def implausible(missed: int, known: Known, before: Doubt | None, now: datetime, *, is_empty: bool) -> Problem | None:
    """Return why the answers of a whole sweep are not believed; None if they are.

    `missed` counts the stored conversations that it did not find, and `is_empty` says that nothing at all was listed. A
    sweep that misses most is believed if one said so a day ago and no other has found more since; an empty inbox never.
    """
    if known.stored and is_empty:
        what = f"the list of conversations is empty, and {known.stored} are stored"
        return Problem(ProblemKind.EMPTY_INBOX, what)
    if not _are_most(missed, known.stored) or _has_lasted(before, ProblemKind.MOST_MISSING, now):
        return None
    what = f"the sweep did not find {missed} of {known.stored} conversations that are stored"
    return Problem(ProblemKind.MOST_MISSING, what)


def is_doubtful(incomplete: int, comparable: int) -> bool:
    """Return whether an answer misses messages of so many conversations, of those that could show it, by an incident.

    People unsend messages in one conversation or another; erasing is for ever, and can wait for a day.
    """
    return _are_most(incomplete, comparable)


def are_unsent_after_all(before: Doubt | None, now: datetime) -> bool:
    """Return whether messages have been missing for so long that they are no incident."""
    return _has_lasted(before, ProblemKind.MESSAGES_MISSING, now)


def _are_most(missing: int, whole: int) -> bool:
    return missing > HANDFUL and 2 * missing > whole


def _has_lasted(before: Doubt | None, kind: ProblemKind, now: datetime) -> bool:
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
    if event.problem is not None and before is not None and event.problem.kind is ProblemKind.EMPTY_INBOX:
        return before
    if event.problem is not None:
        is_same = before is not None and before.problem.kind is event.problem.kind
        return Doubt(event.problem, before.since if before is not None and is_same else entry.recorded_at)
    is_cleared = event.mode is Mode.FULL or (before is not None and before.problem.kind is ProblemKind.EMPTY_INBOX)
    return None if is_cleared else before


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
    if sweep is None or sweep.problem is not None:
        return sweep.problem if sweep is not None else None
    problem = run.problem if run is not None else None
    return problem if problem is not None and problem.kind in WITHOUT_PROGRESS else None


# --- batches in another form than expected ----------------------------------------------------------------------------

MIN_UNREADABLE = 5  # in one batch; fewer are dead letters, whatever they have in common
MIN_OPEN = 12  # dead letters that are open where batches are smaller: a sweep may meet a row more than once
MANY_IN_SWEEP = 50  # that a batch of them is no end of an inbox any more, however much was read before
NEARLY_ALL = 0.9
READ_VERSION = "set source.version to one that it reads, such as the default, or update Milepost"
MESSAGES = "/messages"  # ends the subject of messages whose conversation was read


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
            return Problem(ProblemKind.MISCONFIGURED, _message(f"{in_sweep:,} of {of_sweep:,} {what}", reason))
    return None


def _message(which: str, reason: str) -> str:
    return f"{which} have another form than this version of Milepost reads ({reason}); {READ_VERSION}"
