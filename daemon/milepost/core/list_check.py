"""What a refused list is about: if its positions can be read at the same cursor, it is about what the list holds.

No code tells that by itself. A thread that cannot be read makes every list with it fail, and not only with code 1: code
2 with `is_transient`, an HTML 502, a cut body, a timeout, 960, 100 or a missing permission are on record (2026-09). An
outage fails everything, the positions included.
"""

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint
from milepost.core.model import Detail
from milepost.core.ports import Answered, Fetched, Held, ListCheck, Outcome, Refused, Request
from milepost.core.problems import Problem
from milepost.core.remedies import Remedy, rule_for


def wants_check(request: Request, problem: Problem) -> bool:
    """Return whether to look, after this refusal, if the list can be read at all."""
    rule = rule_for(problem, has_cursor=request.cursor is not None)
    if rule.is_general or request.detail is Detail.POSITION:
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
