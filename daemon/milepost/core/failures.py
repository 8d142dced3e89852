"""Decides what a refusal of the source means: its remedy, applied to the checkpoint."""

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, ReducedRequest
from milepost.core.dead_letters import messages_of
from milepost.core.doubts import WITHOUT_PROGRESS
from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    CursorLost,
    FetchFailed,
    RateLimited,
    Reason,
    RunEnded,
    RunStatus,
    Stage,
)
from milepost.core.model import Batch, Detail
from milepost.core.plan import Policy, Size, batches_read, open_sweep, size_now, smaller, whole
from milepost.core.ports import Answered, Fetched, Held, ListCheck, Outcome, Refused, Request
from milepost.core.position import Phase
from milepost.core.problems import Problem, ProblemKind, Remedy, Rule, is_unnamed_limit, rule_for
from milepost.core.records import Context, Record, ending, recorded
from milepost.core.retry import next_rate_limit

CONFIRMATIONS = 3  # failures of a thread alone, each followed by a readable list: no single outage causes two
CONFIRMATIONS_OF_LESS = 2  # the same, once a part of the thread is left out
MAX_ATTEMPTS_ALONE = 4 * CONFIRMATIONS
LASTING_LIMITS = 3  # rate limits in a row, before it is checked whether the list is limited at all
MAX_GIVEN_UP_IN_A_ROW = 10  # if more threads fail in a row, the cause is not in them
STOPS = {Remedy.STOP_AUTHORIZATION: Reason.AUTHORIZATION, Remedy.STOP_CONFIGURATION: Reason.CONFIGURATION}


def on_refusal(checkpoint: Checkpoint, refused: Refused, context: Context) -> Record:
    """Return what to record of a batch that could not be read.

    If the positions of the list can be read, the refusal is about the list's content, whatever its code, and smaller
    requests find out which part. If not, the remedy is that of the code. An empty list is no cause for a refusal with a
    general code.
    """
    sweep = open_sweep(checkpoint, context.budget)
    has_cursor = sweep is not None and sweep.position.cursor is not None
    problem, check = refused.problem, refused.check
    rule = rule_for(problem, has_cursor=has_cursor)
    if check is not None and check.problem is None and (check.listed or not rule.is_general):
        stepped_over = _step_over_known(checkpoint, refused, check, context)
        return stepped_over or _narrow(checkpoint, problem, check.first, context)
    if check is not None and check.problem is not None:
        of_list = rule_for(check.problem, has_cursor=has_cursor)
        if of_list.remedy not in {Remedy.RETRY, Remedy.SHRINK}:  # the list's own refusal says more
            problem, rule = check.problem, of_list
        elif rule.remedy is not Remedy.RETRY:  # nothing at all can be read, which may pass
            rule = of_list if of_list.remedy is Remedy.RETRY else Rule(Remedy.RETRY, of_list.source)
        if rule.remedy not in {Remedy.WAIT, Remedy.RESET} and _is_of_old_cursor(checkpoint, context):
            rule = _rule_for_old_cursor(checkpoint.futile_runs, rule)
    return _remedied(checkpoint, problem, context, rule)


def _remedied(checkpoint: Checkpoint, problem: Problem, context: Context, rule: Rule) -> Record:
    remedy = rule.remedy
    if remedy is Remedy.RETRY and checkpoint.attempt < context.policy.attempts:
        return _retry(checkpoint, problem, context)
    if remedy is Remedy.RETRY:
        remedy = rule.then
    match remedy:
        case Remedy.WAIT:
            return _wait(checkpoint, problem, context, rule)
        case Remedy.SHRINK:
            return _shrink(checkpoint, problem, context)
        case Remedy.RESET:
            return _restart(checkpoint, problem, context)
        case Remedy.RETRY | Remedy.STOP_AUTHORIZATION | Remedy.STOP_CONFIGURATION:
            return _end(checkpoint, problem, context, remedy)


def _retry(checkpoint: Checkpoint, problem: Problem, context: Context, suspect: str = "", confirmed: int = 0) -> Record:
    """Make the same request again, after a delay."""
    attempt = checkpoint.attempt
    failed = FetchFailed(attempt, problem, context.retry_at(attempt), suspect, confirmed)
    return recorded(checkpoint, context.budget, failed)


# --- the list can be read, but not its content ------------------------------------------------------------------------


def _step_over_known(checkpoint: Checkpoint, refused: Refused, check: ListCheck, context: Context) -> Record | None:
    """Read up to a thread that was given up before; if it still fails alone, leave out the same parts as then.

    This needs no search and no confirmation, because the thread's dead letter is open and no other is made. None if no
    such thread is listed, or if it fails with less detail as well.
    """
    known = {each.conversation_id: each.detail for each in checkpoint.given_up}
    place = next((number for number, each in enumerate(check.listed) if each in known), None)
    size = size_now(checkpoint, context.policy)
    if place is None or size.detail.leaves_out:
        return None
    if size.limit > 1:
        shrunk = BatchShrunk(min(max(place, 1), size.limit - 1), Detail.NESTED, refused.problem)
    elif place == 0:
        shrunk = BatchShrunk(1, known[check.first], refused.problem, check.first)
    else:
        return None
    return recorded(checkpoint, context.budget, shrunk)


def _narrow(checkpoint: Checkpoint, problem: Problem, first: str, context: Context) -> Record:
    """Search for the cause: request fewer conversations at once, then less detail of the one that fails alone."""
    policy, reduced = context.policy, checkpoint.reduced_request
    size = size_now(checkpoint, policy)
    next_size = smaller(size, policy)
    if next_size is None:
        return _end(checkpoint, problem, context)
    if next_size.detail.leaves_out:
        return _accuse(checkpoint, problem, first, next_size, context)
    is_alike = reduced is not None and (problem.kind, problem.code) == (reduced.problem.kind, reduced.problem.code)
    is_search = is_alike and size != whole(policy)
    if not is_search and checkpoint.attempt < policy.attempts:
        return _retry(checkpoint, problem, context)
    return recorded(checkpoint, context.budget, BatchShrunk(next_size.limit, next_size.detail, problem))


def _accuse(checkpoint: Checkpoint, problem: Problem, first: str, next_size: Size, context: Context) -> Record:
    """Leave a part of the thread at the cursor out once its failures alone are confirmed; until then, retry.

    A failure counts only if the list could be read right after it. So an outage makes no dead letter of a healthy
    thread: it would have to end before each check and begin again after it.
    """
    retry = checkpoint.retry
    before = retry.confirmed if retry is not None and retry.suspect == first else 0
    confirmed = before + 1 if first else 0
    is_first = not size_now(checkpoint, context.policy).detail.leaves_out
    if confirmed >= (CONFIRMATIONS if is_first else CONFIRMATIONS_OF_LESS):
        if checkpoint.given_up_in_a_row >= MAX_GIVEN_UP_IN_A_ROW:
            # One thread after the other fails, so the cause is in none of them.
            return _end(checkpoint, problem, context, rule_for(problem, has_cursor=False).remedy)
        shrunk = BatchShrunk(next_size.limit, next_size.detail, problem, first)
        return recorded(checkpoint, context.budget, shrunk)
    if checkpoint.attempt >= MAX_ATTEMPTS_ALONE:
        return _end(checkpoint, problem, context)
    return _retry(checkpoint, problem, context, first, confirmed)


def mistaken(checkpoint: Checkpoint, batch: Batch, policy: Policy) -> ReducedRequest | None:
    """Return the reduced request if it left a part out of another thread than the one that failed alone.

    Another thread may be at the cursor by now, and must not become a dead letter because of that.
    """
    reduced = checkpoint.reduced_request
    if reduced is None or not reduced.suspect or not size_now(checkpoint, policy).detail.leaves_out:
        return None
    listed = {each.conversation_id for each in batch.conversations} | {each.subject for each in batch.unreadable}
    return None if listed <= {reduced.suspect, messages_of(reduced.suspect)} else reduced


def exonerate(checkpoint: Checkpoint, batch: Batch, reduced: ReducedRequest, context: Context) -> Record:
    """Read in full the thread that was listed in place of the one that failed alone.

    If a list has several conversations although one was requested, it cannot be searched further: that would not end.
    """
    if len(batch.conversations) > 1:
        return _end(checkpoint, reduced.problem, context)
    detail = Detail.SEPARATE if context.policy.messages_per_conversation else Detail.NESTED
    shrunk = BatchShrunk(1, detail, reduced.problem)
    return recorded(checkpoint, context.budget, shrunk)


# --- nothing can be read at an old cursor, but the head can -----------------------------------------------------------

# A cursor can die with any code (reported: 1, 190), its positions included. If the same run has read the head of the
# inbox, the refusal is about that cursor, or about that place in the list.


def _is_of_old_cursor(checkpoint: Checkpoint, context: Context) -> bool:
    """Return whether a cursor of an earlier run is refused, after this run has read the head."""
    sweep = open_sweep(checkpoint, context.budget)
    is_at_old_cursor = sweep is not None and sweep.position.is_old and sweep.position.phase is not Phase.HEAD
    return is_at_old_cursor and batches_read(checkpoint, context.budget) > 0


def _rule_for_old_cursor(futile_runs: int, rule: Rule) -> Rule:
    """Return the rule that applies instead of stopping the stream, or of requesting the same cursor for ever.

    The sweep starts over if it has come no further for two runs, and again after four, eight and so on. If starting
    over does not help, doing it in each run would only read the same part of the inbox again.
    """
    is_due = futile_runs > 1 and futile_runs & (futile_runs - 1) == 0
    return Rule(Remedy.RETRY, rule.source, then=Remedy.RESET if is_due else Remedy.RETRY)


# --- nothing can be read, or it is about no thread --------------------------------------------------------------------


def _end(checkpoint: Checkpoint, problem: Problem, context: Context, remedy: Remedy = Remedy.RETRY) -> Record:
    """End the run: as stopped if an operator is needed, and otherwise as failed, so that the next one tries again."""
    if (reason := STOPS.get(remedy)) is not None:
        return ending(checkpoint, RunEnded(RunStatus.STOPPED, reason, problem=problem), context.budget)
    failed = BatchFailed(Stage.FETCH, checkpoint.attempt, problem)
    ended = RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=problem)
    return ending(checkpoint, ended, context.budget, failed)


def _wait(checkpoint: Checkpoint, problem: Problem, context: Context, rule: Rule) -> Record:
    """Wait out a rate limit within the run if it ends before the deadline; end the run otherwise."""
    limited = rate_limited(checkpoint, problem, rule, context)
    if limited.until < context.budget.deadline_at:
        return recorded(checkpoint, context.budget, limited)
    ended = RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=problem)
    return ending(checkpoint, ended, context.budget, limited)


def rate_limited(checkpoint: Checkpoint, problem: Problem, rule: Rule, context: Context) -> RateLimited:
    """Return the event of a rate limit. Waiting for it uses up no retry."""
    floor_seconds = context.policy.rate_limit_floor_seconds
    rate_limit = next_rate_limit(checkpoint.rate_limit, problem, rule, context.now, floor_seconds=floor_seconds)
    return RateLimited(rate_limit.scope, rate_limit.attempts, rate_limit.since, rate_limit.until, problem)


def _shrink(checkpoint: Checkpoint, problem: Problem, context: Context) -> Record:
    """Request fewer conversations, at once; leave nothing out of them: it was not checked if the list can be read."""
    policy = context.policy
    size = smaller(size_now(checkpoint, policy), policy)
    if size is None or size.detail.leaves_out:
        return _remedied(checkpoint, problem, context, Rule(Remedy.RETRY, "too much, even of one conversation"))
    return recorded(checkpoint, context.budget, BatchShrunk(size.limit, size.detail, problem))


def _restart(checkpoint: Checkpoint, problem: Problem, context: Context) -> Record:
    """Restart at the head, once in a run: a cursor that fails each time must not keep the run in a loop."""
    sweep = open_sweep(checkpoint, context.budget)
    if sweep is not None and sweep.resets and sweep.position.phase is not Phase.HEAD:
        return _end(checkpoint, problem, context)
    return recorded(checkpoint, context.budget, CursorLost(problem, is_last=problem.kind in WITHOUT_PROGRESS))


# --- checks: whether the list can be read, and whether a thread can ---------------------------------------------------

# If the positions of a list can be read at the same cursor, its refusal is about the list's content. No code says that
# by itself. A thread that cannot be read makes every list with it fail, and not only with code 1: code 2 with
# `is_transient`, an HTML 502, a cut body, a timeout, 960, 100 or a missing permission are on record (2026-09). An
# outage, a dead token or a dead cursor makes everything fail, the positions included.
#
# The positions are a second request, and a list can be reshuffled between any two requests: then they name another
# thread than the one that fails, by chance several times in a row. So before any part of a thread is left out, the
# thread is read alone.


def wants_check(request: Request, problem: Problem) -> bool:
    """Return whether to check, after this refusal, if the list can be read at all."""
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
    """Return a refusal together with the answer about the positions; Held if a rate limit prevented that request."""
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


# A thread can also make lists with it fail as if by a rate limit. No call may follow such a refusal, so the check comes
# before the next request: once the limit has outlasted some waits, or while a search for such a thread is under way. A
# real limit refuses the positions as well, and a limit that says when it ends is believed. While the dead letter
# of such a thread is open, each list that was not prefetched costs a second call, and no other stream has to wait for
# that thread.


def looks_first(checkpoint: Checkpoint, request: Request) -> bool:
    """Return whether to request the positions before this request, whose refusal may look like a rate limit."""
    rate_limit, reduced = checkpoint.rate_limit, checkpoint.reduced_request
    if request.detail is Detail.POSITION:
        return False
    is_search = reduced is not None and not reduced.good and is_unnamed_limit(reduced.problem)
    if is_search or any(each.seems_limited for each in checkpoint.given_up):
        return True
    if rate_limit is None or not is_unnamed_limit(rate_limit.problem):
        return False
    return rate_limit.attempts >= LASTING_LIMITS or checkpoint.futile_runs > 1


def to_read_alone(checkpoint: Checkpoint, request: Request, answer: Answered) -> str | None:
    """Return the thread to read alone, before the part that an answer leaves out of it becomes a dead letter."""
    reduced = checkpoint.reduced_request
    if reduced is None or not reduced.suspect or not request.detail.leaves_out or not isinstance(answer, Fetched):
        return None
    listed = [each.conversation_id for each in answer.batch.conversations]
    is_known = any(each.conversation_id == reduced.suspect for each in checkpoint.given_up)
    return reduced.suspect if listed == [reduced.suspect] and not is_known else None


def read_alone(listed: Answered, alone: Answered, reduced: ReducedRequest | None) -> Answered:
    """Return the batch of a thread as it was read alone; unchanged if it cannot be read alone either.

    A rate limit proves nothing about the thread, unless lists with the thread are refused with one.
    """
    is_search = reduced is not None and is_unnamed_limit(reduced.problem)
    match alone:
        case Fetched(batch=batch) if isinstance(listed, Fetched) and batch.conversations:
            read = replace(listed.batch, conversations=batch.conversations, unreadable=batch.unreadable)
            return replace(listed, batch=read, is_whole=True, took_seconds=listed.took_seconds + alone.took_seconds)
        case Refused(problem=problem) if rule_for(problem, has_cursor=False).remedy is Remedy.WAIT and not (
            is_search and is_unnamed_limit(problem)
        ):
            return alone  # the request is planned again
        case Held():
            return alone
        case _:
            return listed
