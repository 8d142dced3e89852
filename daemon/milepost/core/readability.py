"""Whether a batch is in another form than expected: what nearly all rows have in common is no property of a row."""

from collections import Counter

from milepost.core.events import Tally
from milepost.core.model import Batch
from milepost.core.problems import Problem, ProblemKind

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
