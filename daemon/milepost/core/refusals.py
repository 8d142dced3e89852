"""What a refusal of the source means: its remedy, and what that takes where the stream stands."""

from datetime import timedelta

from milepost.core.checkpoint import Checkpoint
from milepost.core.decision import Circumstances, Record, ending, recorded
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
from milepost.core.pauses import next_pause
from milepost.core.plan import open_sweep, size_now, smaller, whole
from milepost.core.problems import Problem
from milepost.core.remedies import Remedy, Rule, rule_for
from milepost.core.retry import backoff_seconds


def refused(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances) -> Record:
    """Say what to record of a batch that could not be read."""
    sweep = open_sweep(checkpoint, circumstances.work)
    rule = rule_for(problem, has_cursor=sweep is not None and sweep.position.cursor is not None)
    match rule.remedy:
        case Remedy.RETRY:
            return _retried(checkpoint, problem, circumstances, rule)
        case Remedy.WAIT:
            return _paused(checkpoint, problem, circumstances, rule)
        case Remedy.SHRINK:
            return _shrunk(checkpoint, problem, circumstances)
        case Remedy.RESET:
            return _reset(checkpoint, problem, circumstances)
        case Remedy.STOP_AUTHORIZATION:
            return _stopped(checkpoint, problem, circumstances, Reason.AUTHORIZATION)
        case Remedy.STOP_CONFIGURATION:
            return _stopped(checkpoint, problem, circumstances, Reason.CONFIGURATION)


def _retried(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances, rule: Rule) -> Record:
    policy = circumstances.policy
    attempt = checkpoint.trouble.attempts + 1 if checkpoint.trouble else 1
    size = size_now(checkpoint, policy)
    if rule.then is Remedy.SHRINK and size != whole(policy) and smaller(size, policy) is not None:
        return _shrunk(checkpoint, problem, circumstances)  # the search for what fails is under way
    if attempt >= policy.attempts:
        return _after_retries(checkpoint, problem, circumstances, rule)
    delay_seconds = backoff_seconds(
        attempt,
        circumstances.luck,
        base_delay_seconds=policy.base_delay_seconds,
        max_delay_seconds=policy.max_delay_seconds,
    )
    retried = FetchFailed(attempt, problem, circumstances.now + timedelta(seconds=delay_seconds))
    return recorded(checkpoint, circumstances.work, retried)


def _after_retries(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances, rule: Rule) -> Record:
    match rule.then:
        case Remedy.SHRINK:
            return _shrunk(checkpoint, problem, circumstances)
        case Remedy.RESET:
            return _reset(checkpoint, problem, circumstances)
        case Remedy.STOP_CONFIGURATION:
            return _stopped(checkpoint, problem, circumstances, Reason.CONFIGURATION)
        case _:
            return _failed(checkpoint, problem, circumstances)


def _failed(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances) -> Record:
    attempts = checkpoint.trouble.attempts + 1 if checkpoint.trouble else 1
    failed = BatchFailed(Stage.FETCH, attempts, problem)
    ended = RunEnded(RunStatus.FAILED, Reason.RETRIES_EXHAUSTED, problem=problem)
    return ending(checkpoint, ended, circumstances.work, failed)


def _paused(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances, rule: Rule) -> Record:
    """Stay away: in this run where the pause ends within it, else beyond it."""
    limited = rate_limited(checkpoint, problem, rule, circumstances)
    if limited.until < circumstances.work.deadline_at:
        return recorded(checkpoint, circumstances.work, limited)
    ended = RunEnded(RunStatus.PAUSED, Reason.RATE_LIMIT, problem=problem)
    return ending(checkpoint, ended, circumstances.work, limited)


def rate_limited(checkpoint: Checkpoint, problem: Problem, rule: Rule, circumstances: Circumstances) -> RateLimited:
    """Say for how long a limit has to be waited out. It uses up no retry."""
    floor_seconds = circumstances.policy.rate_limit_floor_seconds
    pause = next_pause(checkpoint.pause, problem, rule, circumstances.now, floor_seconds=floor_seconds)
    return RateLimited(pause.scope, pause.attempts, pause.since, pause.until, problem)


def _shrunk(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances) -> Record:
    policy = circumstances.policy
    size = smaller(size_now(checkpoint, policy), policy)
    if size is None:  # not even a position can be read: it is not one thread that fails
        return _failed(checkpoint, problem, circumstances)
    return recorded(checkpoint, circumstances.work, BatchShrunk(size.limit, size.detail, problem))


def _reset(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances) -> Record:
    """Begin again at the head, once in a run: a cursor that dies each time must not keep it going round."""
    sweep = open_sweep(checkpoint, circumstances.work)
    if sweep is not None and sweep.resets:
        return _failed(checkpoint, problem, circumstances)
    return recorded(checkpoint, circumstances.work, CursorLost(problem))


def _stopped(checkpoint: Checkpoint, problem: Problem, circumstances: Circumstances, reason: Reason) -> Record:
    return ending(checkpoint, RunEnded(RunStatus.STOPPED, reason, problem=problem), circumstances.work)
