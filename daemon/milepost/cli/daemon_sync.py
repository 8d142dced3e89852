"""A sync where a daemon is at work: it is asked for the runs, and the journal shows when they have ended."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil
from time import monotonic

from msgspec import Struct
from msgspec.structs import replace

from milepost.cli.options import BY
from milepost.cli.stream_actions import CONCERNS_ALL, Operator
from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.commands import SyncNow
from milepost.core.errors import MilepostError
from milepost.core.events import Tally
from milepost.core.model import Stream
from milepost.core.ports import RunResult
from milepost.core.position import Mode
from milepost.core.rate_limits import held_until
from milepost.engine.interrupt import Stop
from milepost.engine.supervisor import MAX_LATENESS_SECONDS
from milepost.reporting.status import is_running, rate_limits_of
from milepost.settings import SyncSettings
from milepost.stores.reader import JournalReader

POLL_SECONDS = 0.5
MAX_REQUESTS = 16  # at once: each waits for the batch in hand of its stream


class Look(Struct, frozen=True, eq=False):
    """How to see what the daemon does: `is_at_work` says whether there is one.

    `show` is given each checkpoint; None where nobody watches.
    """

    journal_reader: JournalReader
    is_at_work: Callable[[], Awaitable[bool]]
    now: Callable[[], datetime]
    show: Callable[[Checkpoint], None] | None = None


async def sync_through_daemon(
    who: Operator, streams: Sequence[Stream], look: Look, settings: SyncSettings, stop: Stop, *, full: bool
) -> list[RunResult]:
    """Have each stream run once, and return how each run ended; without a run where none has ended by a stop.

    It waits for as long as there is a daemon, and at most for as long as the daemon may take.
    """
    before = {each.stream: each for each in await look.journal_reader.checkpoints()}
    refused = await _request(who, streams, full=full)
    wanted = {stream: before.get(stream) for stream in streams if stream not in refused}
    asked_at, over_at = look.now(), monotonic() + _longest_seconds(settings, len(streams))
    ended: dict[Stream, Checkpoint] = {}
    while len(ended) < len(wanted) and monotonic() < over_at and not stop.is_requested and await look.is_at_work():
        async with stop.interruptible():
            await asyncio.sleep(POLL_SECONDS)
        read = {} if look.show is None else await who.read()
        checkpoints = await look.journal_reader.checkpoints()
        limits = rate_limits_of(checkpoints)
        run_ends_at = asked_at + timedelta(seconds=settings.max_run_duration_seconds)
        for each in checkpoints:
            if each.stream in wanted:
                if look.show is not None:
                    look.show(_with_unrecorded(each, read.get(each.stream, 0)))
                is_held = (held_until(each.stream, limits) or asked_at) > run_ends_at
                if _has_run(each, wanted[each.stream], full=full) or _waits_longer(each, is_held=is_held):
                    ended[each.stream] = each
    return [_result(stream, ended.get(stream), wanted.get(stream), refused) for stream in streams]


async def _request(who: Operator, streams: Sequence[Stream], *, full: bool) -> dict[Stream, str]:
    """Ask for a run of each stream, and return why some were refused. Raises what concerns all of them."""
    free = asyncio.Semaphore(MAX_REQUESTS)

    async def request(stream: Stream) -> MilepostError | None:
        async with free:
            try:
                await who.ask(stream, SyncNow(BY, full))
            except MilepostError as error:
                return error
        return None

    refused = dict[Stream, str]()
    for stream, error in zip(streams, await asyncio.gather(*map(request, streams)), strict=True):
        if isinstance(error, CONCERNS_ALL):
            raise error
        if error is not None:
            refused[stream] = str(error)
    return refused


def _with_unrecorded(checkpoint: Checkpoint, read: int) -> Checkpoint:
    """Return a checkpoint with the batches that changed nothing since, of which only the daemon knows."""
    if checkpoint.sweep is None or not is_running(checkpoint):
        return checkpoint
    unchanged = max(read - checkpoint.sweep.tally.conversations, 0)
    return replace(checkpoint, unrecorded=Tally(unchanged=unchanged))


def _longest_seconds(settings: SyncSettings, streams: int) -> float:
    """Return how long the daemon may take: the run under way and another one for each stream, as slots allow."""
    turns = 1 + ceil(streams / settings.concurrency)
    return turns * (settings.max_run_duration_seconds + MAX_LATENESS_SECONDS)


def _has_run(checkpoint: Checkpoint, before: Checkpoint | None, *, full: bool) -> bool:
    """Return whether a run has ended that was not there before, of the kind that was asked for."""
    run = _new_run(checkpoint, before)
    return run is not None and run.ended_at is not None and not (full and run.mode is Mode.INCREMENTAL)


def _new_run(checkpoint: Checkpoint, before: Checkpoint | None) -> Run | None:
    run, last = checkpoint.run, before.run if before is not None else None
    return run if run is not None and (last is None or run.run_id != last.run_id) else None


def _waits_longer(checkpoint: Checkpoint, *, is_held: bool) -> bool:
    """Return whether no run is to be waited for: an operator paused the stream, or a limit outlasts a run."""
    return not is_running(checkpoint) and (checkpoint.operator_pause is not None or is_held)


def _result(
    stream: Stream, ended: Checkpoint | None, before: Checkpoint | None, refused: Mapping[Stream, str]
) -> RunResult:
    if stream in refused:
        return RunResult(stream, None, error=refused[stream])
    if ended is None:
        return RunResult(stream, None)
    if ended.operator_pause is not None:
        why = f"it is paused (by {ended.operator_pause.by}) and has to be resumed first"
        return RunResult(stream, _new_run(ended, before), error=why)
    return RunResult(stream, _new_run(ended, before), backlog=ended.backlog)
