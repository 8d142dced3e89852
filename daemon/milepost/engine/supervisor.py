"""All streams at once: each in a task of its own, a bounded number of them at work, in fair turns."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from msgspec import Struct

from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.errors import MilepostError
from milepost.core.model import Stream
from milepost.core.plan import Slice
from milepost.core.ports import Source
from milepost.core.schedule import next_turn_at
from milepost.core.summary import Result
from milepost.engine.bulkhead import bulkhead
from milepost.engine.run import run_slice
from milepost.engine.shared import Shared

# How far past its deadline a run may be before it counts as stalled: a request and a commit take their time.
MAX_LATENESS_SECONDS = 120.0


class Pace(Struct, frozen=True):
    """How often and how long streams are worked."""

    interval_seconds: float = 300.0
    concurrency: int = 16
    max_run_seconds: float = 270.0
    max_batches_per_run: int = 500


class Supervisor:
    """Works the streams of `sources`. The semaphore hands turns out in the order in which they were asked for."""

    def __init__(self, shared: Shared, sources: Mapping[Stream, Source], pace: Pace) -> None:
        self._shared = shared
        self._sources = sources
        self._pace = pace
        self._turns = asyncio.Semaphore(pace.concurrency)
        self._at_work: dict[Stream, Slice] = {}
        self._latest_run_ids: dict[Stream, str] = {}

    async def run(self) -> None:
        """Work every stream on its interval until a stop is asked for."""
        async with asyncio.TaskGroup() as tasks:
            for stream in self._sources:
                tasks.create_task(self._keep(stream), name=f"stream {stream.key}")

    async def sync(self, streams: Sequence[Stream], *, full: bool = False) -> list[Result]:
        """Give every stream one turn, and say how each ended."""
        async with asyncio.TaskGroup() as tasks:
            turns = [
                tasks.create_task(self._turn(stream, full=full), name=f"stream {stream.key}") for stream in streams
            ]
        return [turn.result() for turn in turns]

    def stalled(self) -> str | None:
        """Say which run has not come to its end in time; None where none is late."""
        late_since = self._shared.clock.now() - timedelta(seconds=MAX_LATENESS_SECONDS)
        late = [stream.key for stream, work in self._at_work.items() if work.deadline_at < late_since]
        return f"no end of the runs of {', '.join(late)}: they are past sync.max_run_duration" if late else None

    async def _keep(self, stream: Stream) -> None:
        while not self._shared.stop.is_requested:
            result = await self._turn(stream)
            due_at = next_turn_at(
                result.run,
                self._shared.clock.now(),
                self._shared.clock.luck(),
                interval_seconds=self._pace.interval_seconds,
            )
            async with self._shared.stop.cut_short():
                await self._shared.clock.sleep_until(due_at)

    async def _turn(self, stream: Stream, *, full: bool = False) -> Result:
        async with self._turns:
            started_at = self._shared.clock.now()
            run_id = _run_id(started_at, self._shared.clock.luck())
            with structlog.contextvars.bound_contextvars(stream=stream.key, run=run_id):
                answer = await bulkhead(f"stream {stream.key}", self._run(stream, run_id, started_at, full=full))
        match answer:
            case Checkpoint() as checkpoint:
                return Result(stream.key, _run_of(checkpoint, run_id))
            case Exception() as error:
                return Result(stream.key, await self._recorded_run(stream, run_id), error=str(error))

    async def _recorded_run(self, stream: Stream, run_id: str) -> Run | None:
        """Give what a run that broke off had recorded; None where it is nothing, or nobody can tell."""
        try:
            return _run_of(await self._shared.store.recall(stream.key), run_id)
        except MilepostError:  # what keeps the store from answering is told already
            return None

    async def _run(self, stream: Stream, run_id: str, started_at: datetime, *, full: bool) -> Checkpoint:
        deadline_at = started_at + timedelta(seconds=self._pace.max_run_seconds)
        work = Slice(run_id, started_at, deadline_at, self._pace.max_batches_per_run, wants_full=full)
        self._at_work[stream] = work
        own_run_id = self._latest_run_ids.get(stream)
        self._latest_run_ids[stream] = run_id
        try:
            return await run_slice(self._shared, stream, self._sources[stream], work, own_run_id)
        finally:
            del self._at_work[stream]


def _run_of(checkpoint: Checkpoint, run_id: str) -> Run | None:
    run = checkpoint.run
    return run if run is not None and run.run_id == run_id else None


def _run_id(started_at: datetime, luck: float) -> str:
    """Name a run so that names sort by time; the luck keeps runs apart that start in the same second."""
    return f"{started_at:%Y%m%dT%H%M%SZ}-{int(luck * 16**12):012x}"
