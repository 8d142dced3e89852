"""Quiet heads: the first batch of a sweep, if it equals that of the previous sweep, which changed nothing.

Nearly every sweep of nearly every inbox reads such a batch. If nothing was written to the stream since, the stored rows
are the same, so they need not be looked up or compared again. That halves the work of such a sweep. A quiet head is
kept in memory only, as a digest and the counts of one batch for each stream.
"""

from datetime import datetime, timedelta

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, Sweep
from milepost.core.events import NO_TALLY, Tally
from milepost.core.model import Batch
from milepost.core.plan import Policy
from milepost.core.position import Mode, Phase

# Without an entry of this stream, rows of its page may move to another page, and people may be erased.
LASTS = timedelta(hours=1)


class QuietHead(Struct, frozen=True):
    """A batch at the head of an inbox that changed nothing when it was compared with the stored rows.

    `tally` has its counts. It is valid as long as the stream has the `version` after that sweep, and the same policy.
    """

    version: int
    digest: int
    tally: Tally
    policy: Policy
    compared_at: datetime


def may_be_quiet(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> bool:
    """Return whether a batch is the first of an incremental sweep, and concerns only the rows of its stream."""
    is_first = sweep.mode is Mode.INCREMENTAL and sweep.position.phase is Phase.WALK and sweep.position.cursor is None
    is_plain = not (batch.unreadable or checkpoint.open_dead_letters or checkpoint.reduced_request)
    return is_first and is_plain and bool(batch.conversations) and checkpoint.unrecorded == NO_TALLY


def digest(batch: Batch) -> int:
    """Return a digest of a batch's conversations, which is comparable only within a process."""
    return hash((batch.conversations, batch.own_id))


def is_as_before(
    head: QuietHead, checkpoint: Checkpoint, sweep: Sweep, batch: Batch, policy: Policy, now: datetime
) -> bool:
    """Return whether a batch equals the one that was compared before, with nothing written to its stream since."""
    is_recent = timedelta() <= now - head.compared_at < LASTS
    is_same_state = head.version == checkpoint.version and head.policy == policy
    may_be = is_recent and is_same_state and may_be_quiet(checkpoint, sweep, batch)
    return may_be and head.digest == digest(batch)
