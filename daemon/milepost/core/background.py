"""Decides when older messages are read: in the background, with the calls that the page's sweeps leave over."""

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint
from milepost.core.events import NO_TALLY, Reason, RunStatus
from milepost.core.message_reading import is_parked
from milepost.core.plan import Policy, RunBudget, Wait
from milepost.core.ports import Usage
from milepost.core.position import Gap, Phase
from milepost.core.retry import JITTER

COMPLETE = (RunStatus.COMPLETE, RunStatus.COMPLETE_WITH_ERRORS)
MAX_PARKED = 3  # gaps that fail in a run before it assumes that all others would fail as well
MAX_USAGE_RATIO = 0.6  # of any budget of the page; the rest is for sweeps, and for others who call for the page
SHARE_WAIT_SECONDS = 1.0


class Demand(Struct, frozen=True):
    """The other demand for the page's calls: other apps' calls that its budgets count, and its streams' sweeps.

    `usage` is the fullest of the known budgets. Since a sweep of the page began, `batches` requests for lists and
    `messages` requests for messages were made. `is_swept` says whether another stream of the page is being swept.
    """

    usage: Usage | None = None
    batches: int = 0
    messages: int = 0
    is_swept: bool = False

    @property
    def leaves_share(self) -> bool:
        """Whether the next call may be for messages: during a sweep they get half of the calls."""
        return self.messages < self.batches

    @property
    def held_back_by(self) -> Usage | None:
        """The budget that leaves no room for calls that can wait; None if there is room."""
        return self.usage if self.usage is not None and self.usage.ratio > MAX_USAGE_RATIO else None


NO_DEMAND = Demand()


class ReadGap(Struct, frozen=True):
    """Read the next gap that is due."""


class HoldBack(Struct, frozen=True):
    """Leave the backlog to a later run, because too much of this budget is used."""

    usage: Usage


def reading_ends_at(budget: RunBudget) -> datetime:
    """Return when a run has to stop reading older messages: at its own end, or earlier if a sweep is due by then."""
    if not budget.interval_seconds:
        return budget.deadline_at
    earliest_seconds = budget.interval_seconds * (1 - JITTER)
    return min(budget.deadline_at, budget.started_at + timedelta(seconds=earliest_seconds))


def plan_backlog(
    checkpoint: Checkpoint,
    now: datetime,
    budget: RunBudget,
    held_until: datetime | None = None,
    demand: Demand = NO_DEMAND,
    requests: int = 0,
) -> ReadGap | HoldBack | Wait | None:
    """Return the next step for the backlog after a run that has made `requests` requests for older messages.

    None if there is nothing to do, or if calls would be in vain for now, because the run failed, was stopped, or met a
    rate limit that lasts. Gaps that have to wait beyond the end of the run are left to the next one.
    """
    if not checkpoint.backlog or not may_read(checkpoint, budget):
        return None
    if _is_over(checkpoint, now, budget, demand, requests):
        return None
    if demand.held_back_by is not None:
        return HoldBack(demand.held_back_by)
    wait_until = held_until or now
    if demand.is_swept and not demand.leaves_share:
        wait_until = max(wait_until, now + timedelta(seconds=SHARE_WAIT_SECONDS))
    if wait_until <= now:
        return ReadGap()
    return Wait(wait_until) if wait_until < budget.deadline_at else None


def _is_over(checkpoint: Checkpoint, now: datetime, budget: RunBudget, demand: Demand, requests: int) -> bool:
    """Return whether a run reads no more older messages: it is stopped or at a limit, or its sweep needs the calls.

    Even a run that has used up its time makes one request, or owed messages might never be read. If its sweep is not
    complete, the next run follows at once.
    """
    is_at_limit = requests >= budget.max_batches or (requests > 0 and now >= budget.deadline_at)
    needs_calls = checkpoint.sweep is not None and not demand.leaves_share
    return budget.stops_for is not None or is_at_limit or needs_calls


def may_read(checkpoint: Checkpoint, budget: RunBudget) -> bool:
    """Return whether older messages can be read after a run, judged by how it ended."""
    run = checkpoint.run
    if run is None or run.run_id != budget.run_id or checkpoint.failure_streak or checkpoint.operator_pause:
        return False
    return run.status in COMPLETE or run.reason in {Reason.TIME_LIMIT, Reason.BATCH_LIMIT}


def reads_between(checkpoint: Checkpoint, budget: RunBudget, demand: Demand, *, requests: int) -> bool:
    """Return whether a run requests older messages before its next batch.

    It does so only while there are no failures, and after it has read what is new at the head of the inbox.
    """
    run, sweep = checkpoint.run, checkpoint.sweep
    has_begun = checkpoint.unrecorded != NO_TALLY or (run is not None and run.run_id == budget.run_id)
    reduced = checkpoint.reduced_request
    is_in_trouble = checkpoint.retry or checkpoint.failure_streak or (reduced is not None and not reduced.good)
    return (
        checkpoint.backlog > 0
        and sweep is not None
        and sweep.position.phase is not Phase.HEAD
        and has_begun
        and not is_in_trouble
        and requests < budget.max_batches
        and demand.leaves_share
        and demand.held_back_by is None
    )


def next_gap(gaps: Iterable[Gap], tried: Collection[str], now: datetime, policy: Policy) -> Gap | Wait | None:
    """Return the first gap that can be read now, or a wait until one can be; None if none can in this run.

    A gap in `tried` that has failed as often as a run may try is left to the next run. After several such gaps, the
    others are left to it as well.
    """
    latest = now + timedelta(seconds=policy.max_delay_seconds)  # a later retry was set by a clock that was ahead
    parked, waits = 0, []
    for gap in gaps:
        if gap.gap_id in tried and is_parked(gap, policy):
            parked += 1
            if parked >= MAX_PARKED:
                return None
        elif gap.retry_at is None or not now < gap.retry_at <= latest:
            return gap
        else:
            waits.append(gap.retry_at)
    return Wait(min(waits)) if waits else None
