"""What the fold keeps of smaller requests: the search for what makes a list fail, and the threads that it gave up."""

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, GivenUp, ReducedRequest
from milepost.core.events import BatchShrunk, DeadLetterOpened, Stage, Tally
from milepost.core.model import Detail

MAX_GIVEN_UP = 32  # that are remembered: the latest


def grown(reduced_request: ReducedRequest | None, tally: Tally) -> ReducedRequest | None:
    """Count the good batches at a reduced size. Stepping over a batch removes what made it necessary."""
    if reduced_request is None or not tally.batches:
        return reduced_request
    if reduced_request.detail is Detail.POSITION or reduced_request.suspect:
        return None
    return replace(reduced_request, good=reduced_request.good + tally.batches)


def shrunk_request(before: ReducedRequest | None, shrunk: BatchShrunk) -> ReducedRequest:
    """Return the smaller request of an event, with what is known from the one before."""
    worked = before.proven if before is not None else None
    relapses = 0
    if before is not None and before.limit >= shrunk.limit:
        relapses = before.relapses + (before.good > 0 and before.limit == shrunk.limit)
    return ReducedRequest(
        shrunk.limit,
        shrunk.detail,
        shrunk.problem,
        suspect=shrunk.suspect,
        worked=worked.limit if worked is not None else 0,
        relapses=relapses,
    )


def proven_request(checkpoint: Checkpoint) -> ReducedRequest | None:
    """Return the reduced request that worked last, if one did."""
    return checkpoint.reduced_request.proven if checkpoint.reduced_request is not None else None


def with_given_up(checkpoint: Checkpoint, opened: DeadLetterOpened) -> tuple[GivenUp, ...]:
    """Remember a thread that becomes a dead letter because lists with it fail."""
    reduced = checkpoint.reduced_request
    if reduced is None or not reduced.detail.leaves_out or not reduced.suspect:
        return checkpoint.given_up
    if opened.stage is not Stage.FETCH or opened.subject.removesuffix("/messages") != reduced.suspect:
        return checkpoint.given_up
    given_up = GivenUp(opened.dead_letter_id, reduced.suspect, reduced.detail)
    others = (each for each in checkpoint.given_up if each.conversation_id != reduced.suspect)
    return (*others, given_up)[-MAX_GIVEN_UP:]


def given_up_in_a_row(checkpoint: Checkpoint, tally: Tally) -> int:
    """Count the threads that became dead letters because a list failed; one that was read ends the row."""
    reduced = checkpoint.reduced_request
    leaves_out = reduced is not None and reduced.detail.leaves_out and not reduced.good
    if leaves_out and tally.unreadable:
        return checkpoint.given_up_in_a_row + tally.dead_lettered
    return 0 if tally.conversations else checkpoint.given_up_in_a_row
