"""What a refused list is about: if its positions can be read at the same cursor, it is about what the list holds.

No code tells that by itself. A thread that cannot be read makes every list with it fail, and not only with code 1: code
2 with `is_transient`, an HTML 502, a cut body, a timeout, 960, 100 or a missing permission are on record (2026-09). An
outage, a dead token and a dead cursor fail everything, the positions included.

The positions are a second request, and a list can be reshuffled between any two: then they name another thread than the
one that fails, by chance several times in a row. So before anything of a thread is left out, it is read by itself.
"""

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Detail
from milepost.core.ports import Answered, Fetched, Held, ListCheck, Outcome, Refused, Request
from milepost.core.problems import Problem, ProblemKind
from milepost.core.remedies import Remedy, rule_for


def wants_check(request: Request, problem: Problem) -> bool:
    """Return whether to look, after this refusal, if the list can be read at all."""
    rule = rule_for(problem, has_cursor=request.cursor is not None)
    is_believed = rule.remedy is Remedy.WAIT or (rule.is_general and problem.kind is not ProblemKind.API)
    if is_believed or request.detail is Detail.POSITION:
        return False
    match rule.remedy:
        case Remedy.SHRINK:  # fewer conversations are requested in any case
            return request.limit == 1
        case Remedy.RETRY:
            return request.checks_list
        case _:  # it would stop the stream, or restart it at the head
            return True


def check_request(request: Request, checkpoint: Checkpoint) -> Request:
    """Return the request for the position at the same cursor; for all of them if a known thread may be among them."""
    limit = request.limit if checkpoint.given_up else 1
    return replace(request, limit=limit, messages=0, detail=Detail.POSITION, checks_list=False)


def checked(refused: Refused, positions: Answered) -> Outcome | Held:
    """Return a refusal together with what came of the positions; Held if a rate limit prevents to know."""
    if isinstance(positions, Held):
        return positions
    if isinstance(positions, Fetched):
        batch = positions.batch
        subjects = [each.conversation_id for each in batch.conversations] + [each.subject for each in batch.unreadable]
        check = ListCheck(listed=tuple(subjects))
    else:
        check = ListCheck(positions.problem)
        refused = replace(refused, refused_at=positions.refused_at)  # if it is a rate limit, that began then
    return replace(refused, check=check, took_seconds=refused.took_seconds + positions.took_seconds)


def to_read_alone(checkpoint: Checkpoint, request: Request, answer: Answered) -> str | None:
    """Return the thread to read by itself before what an answer leaves out of it makes a dead letter."""
    reduced = checkpoint.reduced_request
    if reduced is None or not reduced.suspect or not request.detail.leaves_out or not isinstance(answer, Fetched):
        return None
    listed = [each.conversation_id for each in answer.batch.conversations]
    is_known = any(each.conversation_id == reduced.suspect for each in checkpoint.given_up)
    return reduced.suspect if listed == [reduced.suspect] and not is_known else None


def read_alone(listed: Answered, alone: Answered) -> Answered:
    """Return the batch of a thread with what was read of it alone; as it was if it cannot be read alone, either."""
    match alone:
        case Fetched(batch=batch) if isinstance(listed, Fetched) and batch.conversations:
            whole = replace(listed.batch, conversations=batch.conversations, unreadable=batch.unreadable)
            return replace(listed, batch=whole, is_whole=True, took_seconds=listed.took_seconds + alone.took_seconds)
        case Refused(problem=problem) if rule_for(problem, has_cursor=False).remedy is not Remedy.WAIT:
            return listed
        case Fetched():
            return listed
        case _:  # a rate limit: the request is planned again
            return alone
