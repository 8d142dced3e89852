"""Plans the next step of a run: fetch, wait or finish; the sweep that it belongs to; and the size of the request."""

from datetime import datetime, timedelta

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, Sweep, is_ahead
from milepost.core.doubts import MAX_INTERVAL_SECONDS
from milepost.core.events import Reason
from milepost.core.model import Detail
from milepost.core.ports import Fetched, Refused, Request
from milepost.core.position import Mode, Phase
from milepost.core.problems import ProblemKind
from milepost.core.walk import head_first, overlap_before, walk_start


class Policy(Struct, frozen=True):
    """The settings that decisions depend on. A `full_sweep_interval_seconds` of 0 means never.

    `message_history_seconds` is how far back the messages of a new conversation are read: infinite for all of them, 0
    for only those that come with the list.
    """

    batch_size: int = 50
    messages_per_conversation: int = 20
    message_history_seconds: float = 90 * 86400.0
    watermark_overlap_seconds: float = 600.0
    full_sweep_interval_seconds: float = 7 * 86400.0
    attempts: int = 3
    base_delay_seconds: float = 2.0
    max_delay_seconds: float = 32.0
    rate_limit_floor_seconds: float = 60.0


class RunBudget(Struct, frozen=True):
    """The limits of one run. `stops_for` is the reason to end it before the next batch, if there is one.

    A run that `is_prompted` begins because there is news, which it reads first.
    """

    run_id: str
    started_at: datetime
    deadline_at: datetime
    max_batches: int
    wants_full: bool = False
    stops_for: Reason | None = None
    interval_seconds: float = 0.0
    is_prompted: bool = False


class Fetch(Struct, frozen=True):
    """Read the batch at the sweep's position."""

    request: Request


class Wait(Struct, frozen=True):
    """Do nothing until that instant."""

    until: datetime


class Finish(Struct, frozen=True):
    """End the run with its position saved."""

    reason: Reason


Action = Fetch | Wait | Finish


def plan(
    checkpoint: Checkpoint, now: datetime, budget: RunBudget, policy: Policy, held_until: datetime | None = None
) -> Action:
    """Return the run's next action. `held_until` is the end of the rate limit that holds the stream, if one does."""
    checkpoint = with_head_first(checkpoint, budget)
    if budget.stops_for is not None:
        return Finish(budget.stops_for)
    if checkpoint.operator_pause is not None:
        return Finish(Reason.REQUEST)
    if batches_read(checkpoint, budget) >= budget.max_batches:
        return Finish(Reason.BATCH_LIMIT)
    if now >= budget.deadline_at:
        return Finish(Reason.TIME_LIMIT)
    retry_at = _retry_at(checkpoint, now, policy)
    reason, wait_until = Reason.TIME_LIMIT, retry_at
    if held_until is not None and held_until > retry_at:
        reason, wait_until = Reason.RATE_LIMIT, held_until
    if wait_until <= now:
        return Fetch(_request(checkpoint, now, budget, policy))
    return Finish(reason) if wait_until >= budget.deadline_at else Wait(wait_until)


class Reload(Struct, frozen=True):
    """Load the checkpoint again, because another process has written to the stream."""


class SettleRefusal(Struct, frozen=True):
    """Settle the refusal of a prefetched request."""

    refused: Refused


class ReadMessages(Struct, frozen=True):
    """Read older messages before the next batch."""


class RunCommands(Struct, frozen=True):
    """Execute the commands waiting in the stream's mailbox."""


class Interruptions(Struct, frozen=True):
    """What has come up since the last step of a run."""

    is_outdated: bool = False
    refused: Refused | None = None  # of a prefetched request
    has_commands: bool = False
    are_messages_due: bool = False  # older ones, before the next batch


Step = Reload | SettleRefusal | RunCommands | ReadMessages | Action


def next_step(
    checkpoint: Checkpoint,
    now: datetime,
    budget: RunBudget,
    policy: Policy,
    held_until: datetime | None,
    interruptions: Interruptions,
) -> Step:
    """Return what a run does next: handle what has come up, the most urgent first, or else follow the plan.

    A refusal is recorded before any command, because a rate limit has to outlive this process.
    """
    if interruptions.is_outdated:
        return Reload()
    if interruptions.refused is not None:
        return SettleRefusal(interruptions.refused)
    if interruptions.has_commands:
        return RunCommands()
    action = plan(checkpoint, now, budget, policy, held_until)
    return ReadMessages() if interruptions.are_messages_due and isinstance(action, Fetch) else action


def _retry_at(checkpoint: Checkpoint, now: datetime, policy: Policy) -> datetime:
    """Return when the batch may be retried.

    If that is further away than the longest delay, the clock was ahead when the attempt failed: then retry at once.
    """
    latest = now + timedelta(seconds=policy.max_delay_seconds)
    retry_at = checkpoint.retry.retry_at if checkpoint.retry else now
    return now if retry_at > latest else retry_at


def batches_read(checkpoint: Checkpoint, budget: RunBudget) -> int:
    """Return how many batches this run has read, journaled or unchanged."""
    run = checkpoint.run
    recorded = run.tally.batches if run is not None and run.run_id == budget.run_id else 0
    return recorded + checkpoint.unrecorded.batches


def is_over(checkpoint: Checkpoint, budget: RunBudget) -> bool:
    """Return whether the run has ended, complete or not."""
    run = checkpoint.run
    return run is not None and run.run_id == budget.run_id and run.ended_at is not None


def with_head_first(checkpoint: Checkpoint, budget: RunBudget) -> Checkpoint:
    """Return the checkpoint with which the run begins: at the head of the inbox, if that has to be read first."""
    if budget.wants_full and checkpoint.sweep is not None and checkpoint.sweep.mode is not Mode.FULL:
        return checkpoint  # the run begins another sweep
    interval_seconds = 0.0 if budget.is_prompted else budget.interval_seconds
    return head_first(checkpoint, budget.run_id, budget.started_at, interval_seconds=interval_seconds)


def open_sweep(checkpoint: Checkpoint, budget: RunBudget) -> Sweep | None:
    """Return the sweep to continue, given the checkpoint from `with_head_first`.

    None if none is open, or if a full one is wanted and the open one is not full.
    """
    sweep = checkpoint.sweep
    if sweep is not None and budget.wants_full and sweep.mode is not Mode.FULL:
        return None
    return sweep


def next_mode(checkpoint: Checkpoint, now: datetime, budget: RunBudget, policy: Policy) -> Mode:
    """Return the mode of the next sweep.

    A watermark in the future is not trusted, because it is unknown how far the inbox had been read when it was set. A
    list without an order has to be walked to its end, and a doubtful sweep is soon followed by another full one.
    """
    if budget.wants_full or checkpoint.watermark is None or checkpoint.last_full_sweep_at is None:
        return Mode.FULL
    if is_ahead(checkpoint.watermark, now):
        return Mode.FULL
    doubt = checkpoint.doubt
    if doubt is not None and doubt.problem.kind is ProblemKind.OUT_OF_ORDER:
        return Mode.FULL
    if policy.full_sweep_interval_seconds:
        seconds = policy.full_sweep_interval_seconds
        interval = timedelta(seconds=seconds if doubt is None else min(seconds, MAX_INTERVAL_SECONDS))
        elapsed = now - checkpoint.last_full_sweep_at
        if elapsed >= interval or elapsed < -interval:  # in the future by more than the interval: a clock was ahead
            return Mode.FULL
    return Mode.INCREMENTAL


def walk_limit(checkpoint: Checkpoint, mode: Mode, policy: Policy) -> datetime | None:
    """Return how far back a new sweep has to walk; None is the end of the inbox."""
    if mode is Mode.FULL or checkpoint.watermark is None:
        return None
    return overlap_before(checkpoint.watermark, policy.watermark_overlap_seconds)


def new_sweep(checkpoint: Checkpoint, fetched: Fetched, now: datetime, budget: RunBudget, policy: Policy) -> Sweep:
    """Return the sweep that begins with a batch."""
    mode = next_mode(checkpoint, now, budget, policy)
    times = [each.updated_time for each in fetched.batch.conversations]
    started_at = walk_start(fetched.asked_at, times, policy.watermark_overlap_seconds, checkpoint.watermark)
    catch_up_until = overlap_before(started_at, policy.watermark_overlap_seconds)
    return Sweep(mode, started_at, catch_up_until, walk_limit(checkpoint, mode, policy))


def _request(checkpoint: Checkpoint, now: datetime, budget: RunBudget, policy: Policy) -> Request:
    sweep = open_sweep(checkpoint, budget)
    if sweep is None:
        cursor = None
        until = walk_limit(checkpoint, next_mode(checkpoint, now, budget, policy), policy)
    else:
        cursor = sweep.position.cursor
        until = sweep.until
    is_head = sweep is not None and sweep.position.phase is Phase.HEAD  # mostly one batch, so nothing is prefetched
    batches_left = 0 if is_head else budget.max_batches - batches_read(checkpoint, budget) - 1
    size = size_now(checkpoint, policy)
    is_whole = size == whole(policy)
    limit = _limit_in(sweep, checkpoint.futile_runs, size.limit) if is_whole and sweep is not None else size.limit
    checks_list = checkpoint.attempt >= policy.attempts or not is_whole or bool(checkpoint.given_up)
    return Request(
        cursor,
        limit,
        policy.messages_per_conversation,
        until,
        batches_left,
        size.detail,
        checks_list,
        own_id=checkpoint.own_id.own_id if checkpoint.own_id is not None else None,
    )


def _limit_in(sweep: Sweep, futile_runs: int, limit: int) -> int:
    """Return the limit for a walk. If the walk started over because its cursors led nowhere, another limit is used.

    A cursor often just names the last conversation of its batch. So with the same limit the same dead cursor would come
    again. Any one limit may end a batch at that place, so each futile run uses another one.
    """
    if sweep.resets and futile_runs:
        turn = futile_runs % 4
        return limit - 1 - turn if limit > 8 else limit + 6 + turn
    if sweep.is_rewound:
        return limit - 1 if limit > 1 else 7
    return limit


# --- the size of a request --------------------------------------------------------------------------------------------

GROW_AFTER = 5  # good batches before the size doubles again
MAX_DOUBLINGS = 4  # of GROW_AFTER, if growing fails each time: a list that is too large may cost a timeout


class Size(Struct, frozen=True):
    """The size of a request."""

    limit: int
    detail: Detail


def whole(policy: Policy) -> Size:
    """Return the configured size of a batch."""
    return Size(policy.batch_size, Detail.NESTED)


def size_now(checkpoint: Checkpoint, policy: Policy) -> Size:
    """Return the size of the next request: the whole batch, or a reduced one that grows with each GROW_AFTER batches.

    If it fails whenever it has grown, it grows later each time.

    Details that leave something out hold for one batch only, because they make dead letters.
    """
    reduced_request = checkpoint.reduced_request
    if reduced_request is None:
        return whole(policy)
    good = reduced_request.good + checkpoint.unrecorded.batches
    if good and reduced_request.suspect:  # the walk is past the thread that failed
        return whole(policy)
    match reduced_request.detail:
        case Detail.POSITION if good:
            return whole(policy)
        case Detail.LEAN | Detail.BARE if good:
            limit, detail, good = 1, Detail.SEPARATE, good - 1
        case _:
            limit, detail = reduced_request.limit, reduced_request.detail
    grow_after = GROW_AFTER * 2 ** min(reduced_request.relapses, MAX_DOUBLINGS)
    steps = min(good // grow_after, 16)  # 2**16 is more than any batch has
    if steps and detail is Detail.SEPARATE:
        steps, detail = steps - 1, Detail.NESTED
    return Size(min(policy.batch_size, limit * 2**steps), detail)


def smaller(size: Size, policy: Policy) -> Size | None:
    """Return the next smaller size; None if there is none."""
    match size.detail:
        case Detail.NESTED if size.limit > 1:
            return Size(size.limit // 2, Detail.NESTED)
        case Detail.NESTED if policy.messages_per_conversation:
            return Size(1, Detail.SEPARATE)
        case Detail.SEPARATE:
            return Size(1, Detail.LEAN)
        case Detail.LEAN:
            return Size(1, Detail.BARE)
        case Detail.NESTED | Detail.BARE:
            return Size(1, Detail.POSITION)
        case Detail.POSITION:
            return None
