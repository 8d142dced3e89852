"""Whether a walk gets anywhere, told in constant space whatever its list answers.

A batch makes progress if it brings a conversation that was not stored, or if all of it is older than all before it.
Unchanged conversations that get older are progress, so that a quiet sweep of an inbox that is known makes some with
each batch; pages may repeat rows of the one before, empty pages may have others behind them, and many threads may share
a second. What goes on for longer than any of that is trouble: see `no_progress`. Cursors that come round are found
sooner, by their digests, with any period (Brent, "An improved Monte Carlo factorization algorithm", BIT 20, 1980).
"""

from hashlib import sha256
from itertools import pairwise

from milepost.core.checkpoint import Checkpoint, Lowest, Sweep
from milepost.core.events import Tally
from milepost.core.model import Batch
from milepost.core.position import Phase, Position, Progress
from milepost.core.problems import Problem, ProblemKind

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
        inversions=progress.inversions + inversions(batch),
        raised=progress.raised + is_raised(progress, batch),
    )


def digest(cursor: str) -> str:
    """Return a short digest of a cursor."""
    return sha256(cursor.encode()).hexdigest()[:12]


def inversions(batch: Batch) -> int:
    """Return how many conversations are newer than the one before in the same batch.

    Pages that repeat rows of the one before break the order between batches, which is no sign of a list without one.
    """
    return sum(later.updated_time > earlier.updated_time for earlier, later in pairwise(batch.conversations))


def is_raised(progress: Progress, batch: Batch) -> bool:
    """Return whether a batch begins above where another one did before it."""
    newest = max((each.updated_time for each in batch.conversations), default=None)
    return newest is not None and progress.low_at is not None and newest > progress.low_at


def disorder(progress: Progress, batch: Batch) -> int:
    """Return how often the order was broken, this batch included."""
    return progress.inversions + progress.raised + inversions(batch) + is_raised(progress, batch)


def no_progress(progress: Progress) -> Problem | None:
    """Return the problem of a walk that goes on and gets nowhere."""
    if progress.empty >= MAX_EMPTY:
        what = f"the last {MAX_EMPTY} batches of the list were empty, each with a cursor to another one"
        return Problem(ProblemKind.NO_PROGRESS, what)
    if progress.stale >= MAX_STALE:
        what = f"the last {MAX_STALE} conversations of the list were stored already, and none was older than before"
        return Problem(ProblemKind.NO_PROGRESS, what)
    return None


# --- over runs --------------------------------------------------------------------------------------------------------


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


def futile_runs(checkpoint: Checkpoint) -> int:
    """Return how many ended runs in a row resumed the sweep and read nothing that it had not read before."""
    run = checkpoint.run
    return checkpoint.futile_runs - (run is not None and run.ended_at is None and checkpoint.futile_runs > 0)


def futility(runs: int) -> Problem | None:
    """Return the problem of a stream whose last runs, so many, were futile."""
    if runs < MAX_RUNS:
        return None
    return Problem(ProblemKind.NO_PROGRESS, f"{runs} runs in a row read no conversation that their sweep had not read")
