"""Decide what a refusal of the source means: its remedy, applied to the checkpoint."""

from datetime import timedelta

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import (
    BatchFailed,
    BatchShrunk,
    CursorLost,
    FetchFailed,
    Phase,
    RateLimited,
    Reason,
    RunEnded,
    RunStatus,
    Stage,
)
from milepost.core.plan import open_sweep, size_now, smaller, whole
from milepost.core.problems import Problem
from milepost.core.rate_limits import next_rate_limit
from milepost.core.records import Context, Record, ending, recorded
from milepost.core.remedies import Remedy, Rule, rule_for
from milepost.core.retry import backoff_seconds


def on_refusal(checkpoint: Checkpoint, problem: Problem, context: Context) -> Record:
    """Return what to record of a batch that could not be read."""
    sweep = open_sweep(checkpoint, context.budget)
    rule = rule_for(problem, has_cursor=sweep is not None and sweep.position.cursor is not None)
    match rule.remedy:
        case Remedy.RETRY:
            return _retry(checkpoint, problem, context, rule)
        case Remedy.WAIT:
            return _wait(checkpoint, problem, context, rule)
        case Remedy.SHRINK:
            return _shrink(checkpoint, problem, context)
        case Remedy.RESET:
            return _restart(checkpoint, problem, context)
        case Remedy.STOP_AUTHORIZATION:
            return _stop(checkpoint, problem, context, Reason.AUTHORIZATION)
        case Remedy.STOP_CONFIGURATION:
            return _stop(checkpoint, problem, context, Reason.CONFIGURATION)


def _retry(checkpoint: Checkpoint, problem: Problem, context: Context, rule: Rule) -> Record:
    policy = context.policy
    attempt = checkpoint.retry.attempts + 1 if checkpoint.retry else 1
    size = size_now(checkpoint, policy)
    if rule.then is Remedy.SHRINK and size != whole(policy) and smaller(size, policy) is not None:
        return _shrink(checkpoint, problem, context)  # the search for the item that fails is under way
    if attempt >= policy.attempts:
        return _after_retries(checkpoint, problem, context, rule)
    delay_seconds = backoff_seconds(
        attempt,
        context.jitter,
        base_delay_seconds=policy.base_delay_seconds,
        max_delay_seconds=policy.max_delay_seconds,
    )
    retried = FetchFailed(attempt, problem, context.now + timedelta(seconds=delay_seconds))
    return recorded(checkpoint, context.budget, retried)


def _after_retries(checkpoint: Checkpoint, problem: Problem, context: Context, rule: Rule) -> Record:
    match rule.then:
        case Remedy.SHRINK:
            return _shrink(checkpoint, problem, context)
        case Remedy.RESET:
            return _restart(checkpoint, problem, context)
        case Remedy.STOP_CONFIGURATION:
            return _stop(checkpoint, problem, context, Reason.CONFIGURATION)
        case _:
            return _fail(checkpoint, problem, context)


def _fail(checkpoint: Checkpoint, problem: Problem, context: Context) -> Record:
    attempts = checkpoint.retry.attempts + 1 if checkpoint.retry else 1
    failed = BatchFailed(Stage.FETCH, attempts, problem)
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
    policy = context.policy
    size = smaller(size_now(checkpoint, policy), policy)
    if size is None:  # not even positions can be read: this is no problem of a single thread
        return _fail(checkpoint, problem, context)
    return recorded(checkpoint, context.budget, BatchShrunk(size.limit, size.detail, problem))


def _restart(checkpoint: Checkpoint, problem: Problem, context: Context) -> Record:
    """Restart at the head, once in a run: a cursor that fails each time must not keep the run in a loop."""
    sweep = open_sweep(checkpoint, context.budget)
    if sweep is not None and sweep.resets and sweep.position.phase is not Phase.HEAD:
        return _fail(checkpoint, problem, context)
    return recorded(checkpoint, context.budget, CursorLost(problem))


def _stop(checkpoint: Checkpoint, problem: Problem, context: Context, reason: Reason) -> Record:
    return ending(checkpoint, RunEnded(RunStatus.STOPPED, reason, problem=problem), context.budget)
