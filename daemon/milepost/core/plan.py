"""How far back in the inbox a walk has got, told by the `updated_time` of its conversations."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, Sweep
from milepost.core.events import Mode, Phase, Reason
from milepost.core.model import Detail
from milepost.core.ports import Refused, Request
from milepost.core.skew import is_ahead

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # before any conversation


def reaches_back(updated_times: Iterable[datetime], until: datetime | None) -> bool:
    """Whether a batch is wholly older than `until`, which is where a walk to that instant may end.

    One old row is not enough: the order of the edge is seen everywhere and promised nowhere. An empty batch says
    nothing.
    """
    if until is None:
        return False
    seen = False
    for updated_time in updated_times:
        if updated_time >= until:
            return False
        seen = True
    return seen


def older_in_a_row(updated_times: Iterable[datetime], until: datetime | None, before: int) -> int:
    """Count the last conversations, those of the batches `before` included, that are older than `until` in a row."""
    older = before
    for updated_time in updated_times:
        older = older + 1 if until is not None and updated_time < until else 0
    return older


def overlap_before(instant: datetime, overlap_seconds: float) -> datetime:
    """The instant from which rows are read again, to make up for clocks and order that are not exact."""
    return instant - timedelta(seconds=overlap_seconds)


def walk_start(
    asked_at: datetime, updated_times: Iterable[datetime], overlap_seconds: float, watermark: datetime | None
) -> datetime:
    """Return the start of a walk as far as the clocks can be trusted: it may be too early, never too late.

    The walk's start becomes the watermark, and what arrives afterwards has to be newer. `asked_at` is only a hint: the
    clocks behind it may be ahead. What the platform says itself is not: whatever arrives after the first batch was read
    is no older than the newest conversation in it. So the walk of the next sweep, which reaches back to the overlap
    before the watermark, has to get there at least. With clocks that are right this costs nothing, because nothing lies
    between the newest conversation and now.

    A first batch without conversations says nothing about the time: the watermark stays where it was, or at EPOCH.
    """
    asked_at = max(asked_at, EPOCH)
    newest = max(updated_times, default=None)
    if newest is None:
        return min(asked_at, watermark or EPOCH)
    slack = timedelta(seconds=overlap_seconds + 1.0)  # instants of the API are whole seconds
    return newest + slack if asked_at - slack > newest else asked_at


class Policy(Struct, frozen=True):
    """The settings that decisions depend on. A `full_sweep_interval_seconds` of 0 is never."""

    batch_size: int = 50
    messages_per_conversation: int = 20
    watermark_overlap_seconds: float = 600.0
    full_sweep_interval_seconds: float = 7 * 86400.0
    attempts: int = 3
    base_delay_seconds: float = 2.0
    max_delay_seconds: float = 32.0
    rate_limit_floor_seconds: float = 60.0


class RunBudget(Struct, frozen=True):
    """One run's share of the work. `stops_for` is why it is to end before the next batch, where it is."""

    run_id: str
    started_at: datetime
    deadline_at: datetime
    max_batches: int
    wants_full: bool = False
    stops_for: Reason | None = None


class Fetch(Struct, frozen=True):
    """Read the batch at the sweep's position."""

    request: Request


class Wait(Struct, frozen=True):
    """Do nothing until then."""

    until: datetime


class Finish(Struct, frozen=True):
    """End the run with its place saved."""

    reason: Reason


Action = Fetch | Wait | Finish


def plan(
    checkpoint: Checkpoint, now: datetime, budget: RunBudget, policy: Policy, held_until: datetime | None = None
) -> Action:
    """Say what the run does next. `held_until` is when the pause ends that forbids this stream to call, if one does."""
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
    """Load the checkpoint again: somebody else has written to the stream."""


class SettleRefusal(Struct, frozen=True):
    """Settle the refusal of a request that was sent ahead."""

    refused: Refused


class RunCommands(Struct, frozen=True):
    """Execute the commands that wait in the stream's mailbox."""


class Interruptions(Struct, frozen=True):
    """What has come up since the last step of a run."""

    is_outdated: bool = False
    refused: Refused | None = None  # a request that was sent ahead
    has_commands: bool = False


Step = Reload | SettleRefusal | RunCommands | Action


def next_step(
    checkpoint: Checkpoint,
    now: datetime,
    budget: RunBudget,
    policy: Policy,
    held_until: datetime | None,
    interruptions: Interruptions,
) -> Step:
    """Return what a run does next: settle what has come up, the most urgent first, or else follow the plan.

    A refusal goes on record before any command, because a rate limit has to outlive this process.
    """
    if interruptions.is_outdated:
        return Reload()
    if interruptions.refused is not None:
        return SettleRefusal(interruptions.refused)
    if interruptions.has_commands:
        return RunCommands()
    return plan(checkpoint, now, budget, policy, held_until)


def _retry_at(checkpoint: Checkpoint, now: datetime, policy: Policy) -> datetime:
    """Return when the batch may be tried again; at once where that is further ahead than any retry is put off.

    The clock was ahead when the attempt failed.
    """
    latest = now + timedelta(seconds=policy.max_delay_seconds)
    retry_at = checkpoint.retry.retry_at if checkpoint.retry else now
    return now if retry_at > latest else retry_at


def batches_read(checkpoint: Checkpoint, budget: RunBudget) -> int:
    """Count the batches that this run has read, recorded or passed over."""
    run = checkpoint.run
    recorded = run.tally.batches if run is not None and run.run_id == budget.run_id else 0
    return recorded + checkpoint.unrecorded.batches


def is_over(checkpoint: Checkpoint, budget: RunBudget) -> bool:
    """Whether the run has ended, completed or not."""
    run = checkpoint.run
    return run is not None and run.run_id == budget.run_id and run.ended_at is not None


def open_sweep(checkpoint: Checkpoint, budget: RunBudget) -> Sweep | None:
    """Give the sweep to go on with: none where none is open, or where a full one is wanted and the open one is not."""
    sweep = checkpoint.sweep
    if sweep is not None and budget.wants_full and sweep.mode is not Mode.FULL:
        return None
    return sweep


def next_mode(checkpoint: Checkpoint, now: datetime, budget: RunBudget, policy: Policy) -> Mode:
    """Say which kind of sweep begins when a new one does.

    A watermark of the future is not believed, since nobody knows how far the inbox was read when it was set.
    """
    if budget.wants_full or checkpoint.watermark is None or checkpoint.last_full_sweep_at is None:
        return Mode.FULL
    if is_ahead(checkpoint.watermark, now):
        return Mode.FULL
    if policy.full_sweep_interval_seconds:
        interval = timedelta(seconds=policy.full_sweep_interval_seconds)
        elapsed = now - checkpoint.last_full_sweep_at
        if elapsed >= interval or elapsed < -interval:  # it is further ahead than any full sweep is put off
            return Mode.FULL
    return Mode.INCREMENTAL


def walk_limit(checkpoint: Checkpoint, mode: Mode, policy: Policy) -> datetime | None:
    """Say how far back a new sweep's walk has to go; None is the end of the inbox."""
    if mode is Mode.FULL or checkpoint.watermark is None:
        return None
    return overlap_before(checkpoint.watermark, policy.watermark_overlap_seconds)


def _request(checkpoint: Checkpoint, now: datetime, budget: RunBudget, policy: Policy) -> Request:
    sweep = open_sweep(checkpoint, budget)
    if sweep is None:
        cursor = None
        until = walk_limit(checkpoint, next_mode(checkpoint, now, budget, policy), policy)
    else:
        cursor = sweep.position.cursor
        until = sweep.walk_until if sweep.position.phase is Phase.WALK else sweep.catch_up_until
    is_last = batches_read(checkpoint, budget) + 1 >= budget.max_batches
    size = size_now(checkpoint, policy)
    return Request(cursor, size.limit, policy.messages_per_conversation, until, is_last, size.detail)


# --- how much to ask for ----------------------------------------------------------------------------------------------

GROW_AFTER = 5  # good batches, until twice as much is asked for again


class Size(Struct, frozen=True):
    """How much of the inbox one request asks for."""

    limit: int
    detail: Detail


def whole(policy: Policy) -> Size:
    """Give the size of a batch where nothing speaks against it."""
    return Size(policy.batch_size, Detail.NESTED)


def size_now(checkpoint: Checkpoint, policy: Policy) -> Size:
    """Say how much the next request asks for: the whole batch, or what a shrinking left, grown by what went well since.

    What is bare or stepped over is so for one batch only, because it makes dead letters.
    """
    reduced_request = checkpoint.reduced_request
    if reduced_request is None:
        return whole(policy)
    good = reduced_request.good + checkpoint.unrecorded.batches
    match reduced_request.detail:
        case Detail.POSITION if good:
            return whole(policy)
        case Detail.BARE if good:
            limit, detail, good = 1, Detail.SEPARATE, good - 1
        case _:
            limit, detail = reduced_request.limit, reduced_request.detail
    steps = min(good // GROW_AFTER, 16)  # 2**16 is more than any batch has
    if steps and detail is Detail.SEPARATE:
        steps, detail = steps - 1, Detail.NESTED
    return Size(min(policy.batch_size, limit * 2**steps), detail)


def smaller(size: Size, policy: Policy) -> Size | None:
    """Say what to ask for where this much was too much; None where less cannot be asked for."""
    match size.detail:
        case Detail.NESTED if size.limit > 1:
            return Size(size.limit // 2, Detail.NESTED)
        case Detail.NESTED if policy.messages_per_conversation:
            return Size(1, Detail.SEPARATE)
        case Detail.SEPARATE:
            return Size(1, Detail.BARE)
        case Detail.NESTED | Detail.BARE:
            return Size(1, Detail.POSITION)
        case Detail.POSITION:
            return None
