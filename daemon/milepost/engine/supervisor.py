"""All streams at once: each in a task of its own, a bounded number of them at work, in fair turns."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, DeadLetter, OnHold, Run
from milepost.core.errors import MilepostError
from milepost.core.model import Stream
from milepost.core.plan import Policy, Slice
from milepost.core.ports import Source
from milepost.core.schedule import next_turn_at
from milepost.core.summary import Result
from milepost.engine.bulkhead import bulkhead
from milepost.engine.clock import Anchor
from milepost.engine.errands import Answer, Errand, Errands, LetterErrand, StreamErrand, TurnWanted, broken_off
from milepost.engine.run import errands_only, run_slice
from milepost.engine.shared import Shared
from milepost.engine.stop import Bell

# How much longer than a run may last a stream may keep its turn: a request and a commit take their time.
MAX_LATENESS_SECONDS = 120.0


class Pace(Struct, frozen=True):
    """How often and how long streams are worked."""

    interval_seconds: float = 300.0
    max_run_seconds: float = 270.0
    max_batches_per_run: int = 500


class Supervisor:
    """Works the streams of `sources`, in turns, which are given out in the order in which they were asked for.

    The pauses have to know where all streams stand that were ever worked: a limit outlives the process that met it.
    """

    def __init__(self, shared: Shared, sources: Mapping[Stream, Source], pace: Pace) -> None:
        self._shared = shared
        self._sources = dict(sources)
        self._pace = pace
        self._errands = {stream: Errands() for stream in sources}
        self._latest: dict[Stream, Slice] = {}
        self._kept: set[Stream] = set()
        self._new_pace = Bell()
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that are worked, without those that are about to end."""
        return tuple(stream for stream in self._sources if not self._errands[stream].is_dismissed)

    async def run(self) -> None:
        """Work every stream on its interval until a stop is asked for."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for stream in self._sources:
                self._begin(tasks, stream)
            await self._shared.stop.wait()
            self._tasks = None

    def admit(self, stream: Stream, source: Source) -> None:
        """Work one stream more from now on; one that is worked already gets the source from its next turn on."""
        self._sources[stream] = source
        errands = self._errands.setdefault(stream, Errands())
        errands.is_dismissed = False
        if stream in self._kept:
            errands.want_turn()
        elif self._tasks is not None:
            self._begin(self._tasks, stream)

    def dismiss(self, stream: Stream) -> None:
        """Work the stream no more: it ends after the batch in hand, and goes on there if it is admitted again."""
        self._errands[stream].dismiss()
        if stream not in self._kept:
            del self._sources[stream]

    def adopt(self, policy: Policy, pace: Pace, concurrency: int) -> None:
        """Work by these settings from now on: every stream with its next turn, which may be due earlier by them."""
        self._shared = replace(self._shared, policy=policy)
        self._pace = pace
        self._shared.turns.allow(concurrency)
        self._new_pace.ring()  # for those that rest now
        self._new_pace.silence()

    def wake(self, stream: Stream) -> None:
        """Give the stream a turn as soon as there is one, whatever it waits for: what was wrong with it is mended."""
        self._errands[stream].want_turn()

    async def sync(self, streams: Sequence[Stream], *, full: bool = False) -> list[Result]:
        """Give every stream one turn, and say how each ended."""
        async with asyncio.TaskGroup() as tasks:
            turns = [
                tasks.create_task(self._single_turn(stream, full=full), name=f"stream {stream.key}")
                for stream in streams
            ]
        return [turn.result() for turn in turns]

    async def turn(self, stream: Stream, *, full: bool = False) -> Result:
        """Give one stream a turn."""
        return await self._single_turn(stream, full=full)

    def hear_of(self, stream: Stream, version: int) -> None:
        """Hear where a stream stands in the journal: if others have written of it, its run looks before it goes on."""
        errands = self._errands.get(stream)
        if errands is not None:
            errands.hear_of(version)

    def wants_turn(self, stream: Stream) -> bool:
        """Whether the stream was woken, and had no turn since."""
        return self._errands[stream].wants_turn

    def take_wanted(self, stream: Stream) -> TurnWanted | None:
        """Give the turn that was asked for, if one was: from now on it counts as given."""
        errands = self._errands.get(stream)
        return None if errands is None else errands.take_wanted()

    @property
    def pace(self) -> Pace:
        """How often and how long streams are worked now."""
        return self._pace

    async def do(self, errand: LetterErrand) -> DeadLetter | None:
        """Redrive or discard a dead letter, and give it if it is still open afterwards; None if it was not open.

        Raises HeldBack where no call may be made that it takes, or MilepostError where nothing could be done about it.
        """
        found = await self._shared.store.open_letters((errand.dead_letter_id,))
        return await self._asked(Stream.parse(found[0].letter.stream), errand) if found else None

    async def ask(self, stream: Stream, errand: StreamErrand) -> None:
        """Have something done about a stream: between two batches, or at once where it is not at work.

        Raises MilepostError where that cannot be.
        """
        await self._asked(stream, errand)

    async def _asked(self, stream: Stream, errand: Errand) -> DeadLetter | None:
        errands = self._errands.setdefault(stream, Errands())
        asked = errands.ask(errand)
        if not errands.are_attended:
            async with errands.attended():
                await self._do_errands(stream, errands)
        answer: Answer = await asked
        if isinstance(answer, MilepostError):
            raise answer
        return answer

    def stalled(self) -> str | None:
        """Say which streams have not given their turns back in time; None where none is late."""
        late = [
            stream.key
            for stream, seconds in self._shared.turns.held_seconds().items()
            if seconds > _length(self._latest[stream]).total_seconds() + MAX_LATENESS_SECONDS
        ]
        return f"no end of the runs of {', '.join(late)}: they are past sync.max_run_duration" if late else None

    def _begin(self, tasks: asyncio.TaskGroup, stream: Stream) -> None:
        self._kept.add(stream)
        tasks.create_task(self._keep(stream), name=f"stream {stream.key}")

    async def _keep(self, stream: Stream) -> None:
        errands, full = self._errands[stream], False
        async with errands.attended():
            while not (self._shared.stop.is_requested or errands.is_dismissed):
                result = await self._turn(stream, full=full)
                full = await self._rest(stream, result.run)
        # Nothing is awaited from the last look at `is_dismissed` to here: who admits the stream begins it anew.
        self._kept.discard(stream)
        if errands.is_dismissed:
            del self._sources[stream]

    async def _rest(self, stream: Stream, run: Run | None) -> bool:
        """Wait until the next turn is due or wanted at once, and say if a full sweep is; errands are done meanwhile."""
        shared, errands = self._shared, self._errands[stream]
        ended_at, luck, anchor = shared.clock.now(), shared.clock.luck(), Anchor(shared.clock)
        while not (shared.stop.is_requested or errands.is_dismissed):
            wanted = errands.take_wanted()
            if wanted is not None:
                return wanted.full
            held_until = shared.pauses.held_until(stream)
            interval_seconds = self._pace.interval_seconds
            due_at = next_turn_at(run, ended_at, luck, interval_seconds=interval_seconds) + anchor.moved()
            if held_until is not None:
                due_at = max(due_at, held_until)
            if due_at <= shared.clock.now() and not errands.bell.rings:
                break
            if errands.bell.rings:
                await self._do_errands(stream, errands)
                continue
            async with shared.stop.cut_short(), errands.bell.cut_short(), self._new_pace.cut_short():
                await shared.clock.sleep_until(due_at)
        return False

    async def _do_errands(self, stream: Stream, errands: Errands) -> None:
        """Do what is asked for of a stream that is not at work; each asker is answered."""
        source, work = self._sources.get(stream), self._slice(self._shared.clock.now())
        answer = await bulkhead(f"errands of {stream.key}", errands_only(self._shared, stream, source, work, errands))
        if isinstance(answer, Exception):
            errands.give_up(answer if isinstance(answer, MilepostError) else broken_off())

    async def _single_turn(self, stream: Stream, *, full: bool) -> Result:
        async with self._errands[stream].attended():
            return await self._turn(stream, full=full)

    async def _turn(self, stream: Stream, *, full: bool = False) -> Result:
        async with self._shared.turns.taken(stream):
            work = self._slice(self._shared.clock.now(), full=full)
            with structlog.contextvars.bound_contextvars(stream=stream.key, run=work.run_id):
                answer = await bulkhead(f"stream {stream.key}", self._run(stream, work))
        match answer:
            case Checkpoint(on_hold=OnHold(by=by)) as checkpoint:
                why = f"it is on hold: {by} paused it, and it has to be resumed first"
                return Result(stream.key, _run_of(checkpoint, work.run_id), error=why)
            case Checkpoint() as checkpoint:
                return Result(stream.key, _run_of(checkpoint, work.run_id))
            case Exception() as error:
                return Result(stream.key, await self._recorded_run(stream, work.run_id), error=str(error))

    async def _recorded_run(self, stream: Stream, run_id: str) -> Run | None:
        """Give what a run that broke off had recorded; None where it is nothing, or nobody can tell."""
        answer = await bulkhead(f"what is recorded of {stream.key}", self._shared.store.recall(stream.key))
        return _run_of(answer, run_id) if isinstance(answer, Checkpoint) else None

    def _slice(self, started_at: datetime, *, full: bool = False) -> Slice:
        run_id = _run_id(started_at, self._shared.clock.luck())
        deadline_at = started_at + timedelta(seconds=self._pace.max_run_seconds)
        return Slice(run_id, started_at, deadline_at, self._pace.max_batches_per_run, wants_full=full)

    async def _run(self, stream: Stream, work: Slice) -> Checkpoint:
        source, errands, before = self._sources[stream], self._errands[stream], self._latest.get(stream)
        self._latest[stream] = work
        return await run_slice(self._shared, stream, source, work, errands, before.run_id if before else None)


def _run_of(checkpoint: Checkpoint, run_id: str) -> Run | None:
    run = checkpoint.run
    return run if run is not None and run.run_id == run_id else None


def _length(work: Slice) -> timedelta:
    return work.deadline_at - work.started_at


def _run_id(started_at: datetime, luck: float) -> str:
    """Name a run so that names sort by time; the luck keeps runs apart that start in the same second."""
    return f"{started_at:%Y%m%dT%H%M%SZ}-{int(luck * 16**12):012x}"
