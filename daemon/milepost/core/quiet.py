"""Quiet heads: the first batch of a sweep that is answered as in the sweep before, and changed nothing then.

That is what nearly every sweep of nearly every inbox reads. Nothing was written to the stream since, so that what is
stored is what it was: the store need not be asked again, and nothing be compared with it. That halves the work of such
a sweep. It is known in memory only, and of one batch of each stream no more than a digest and its counts.
"""

from datetime import datetime, timedelta

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, Sweep
from milepost.core.events import NO_TALLY, Tally
from milepost.core.model import Batch
from milepost.core.plan import Policy
from milepost.core.position import Mode, Phase

# Rows of a page may move to another one, and people be erased, without an entry of this stream.
LASTS = timedelta(hours=1)


class QuietHead(Struct, frozen=True):
    """A batch at the head of an inbox that changed nothing when it was compared with what is stored.

    `tally` are its counts. It holds as long as the stream is at the `version` after that sweep, by the same policy.
    """

    version: int
    digest: int
    tally: Tally
    policy: Policy
    compared_at: datetime


def may_be_quiet(checkpoint: Checkpoint, sweep: Sweep, batch: Batch) -> bool:
    """Return whether a batch is the first of an incremental sweep, and about nothing but the rows of its stream."""
    is_first = sweep.mode is Mode.INCREMENTAL and sweep.position.phase is Phase.WALK and sweep.position.cursor is None
    is_plain = not (batch.unreadable or checkpoint.open_dead_letters or checkpoint.reduced_request)
    return is_first and is_plain and bool(batch.conversations) and checkpoint.unrecorded == NO_TALLY


def digest(batch: Batch) -> int:
    """Return a digest of what a batch says of conversations, which is the same within a process only."""
    return hash((batch.conversations, batch.own_id))


def is_as_before(
    head: QuietHead, checkpoint: Checkpoint, sweep: Sweep, batch: Batch, policy: Policy, now: datetime
) -> bool:
    """Return whether a batch is the one that was compared before, with nothing written to its stream since."""
    is_recent = timedelta() <= now - head.compared_at < LASTS
    is_same_state = head.version == checkpoint.version and head.policy == policy
    may_be = is_recent and is_same_state and may_be_quiet(checkpoint, sweep, batch)
    return may_be and head.digest == digest(batch)
