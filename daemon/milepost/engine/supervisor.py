"""All streams at once: each in a task of its own, a bounded number of them at work, in fair turns."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, DeadLetter, OperatorPause, Run
from milepost.core.commands import Command, DeadLetterCommand, StreamCommand
from milepost.core.errors import MilepostError
from milepost.core.model import Stream
from milepost.core.plan import Policy, RunBudget
from milepost.core.ports import RunResult, Source
from milepost.core.retry import next_run_at
from milepost.engine.bulkhead import bulkhead
from milepost.engine.clock import Anchor
from milepost.engine.context import EngineContext
from milepost.engine.interrupt import Interrupt
from milepost.engine.mailbox import Answer, Mailbox, TurnRequest, broken_off
from milepost.engine.run import run_commands_only, run_stream

# How much longer than a run may last a stream may keep its turn: a request and a commit take their time.
MAX_LATENESS_SECONDS = 120.0


class Schedule(Struct, frozen=True):
    """How often and how long streams are worked."""

    interval_seconds: float = 300.0
    max_run_seconds: float = 270.0
    max_batches_per_run: int = 500


class Supervisor:
    """Works the streams of `sources`, in turns, which are given out in the order in which they were asked for.

    The pauses have to know where all streams stand that were ever worked: a limit outlives the process that met it.
    """

    def __init__(self, engine: EngineContext, sources: Mapping[Stream, Source], schedule: Schedule) -> None:
        self._engine = engine
        self._sources = dict(sources)
        self._schedule = schedule
        self._mailboxes = {stream: Mailbox() for stream in sources}
        self._latest: dict[Stream, RunBudget] = {}
        self._kept: set[Stream] = set()
        self._schedule_changed = Interrupt()
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that are worked, without those that are about to end."""
        return tuple(stream for stream in self._sources if not self._mailboxes[stream].is_dismissed)

    async def run(self) -> None:
        """Work every stream on its interval until a stop is asked for."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for stream in self._sources:
                self._begin(tasks, stream)
            await self._engine.stop.wait()
            self._tasks = None

    def admit(self, stream: Stream, source: Source) -> None:
        """Work one stream more from now on; one that is worked already gets the source from its next turn on."""
        self._sources[stream] = source
        mailbox = self._mailboxes.setdefault(stream, Mailbox())
        mailbox.is_dismissed = False
        if stream in self._kept:
            mailbox.request_turn()
        elif self._tasks is not None:
            self._begin(self._tasks, stream)

    def dismiss(self, stream: Stream) -> None:
        """Work the stream no more: it ends after the batch in hand, and goes on there if it is admitted again."""
        self._mailboxes[stream].dismiss()
        if stream not in self._kept:
            del self._sources[stream]

    def adopt(self, policy: Policy, schedule: Schedule, concurrency: int) -> None:
        """Work by these settings from now on: every stream with its next turn, which may be due earlier by them."""
        self._engine = replace(self._engine, policy=policy)
        self._schedule = schedule
        self._engine.slots.resize(concurrency)
        self._schedule_changed.set()  # for those that rest now
        self._schedule_changed.clear()

    def wake(self, stream: Stream) -> None:
        """Give the stream a turn as soon as there is one, whatever it waits for: what was wrong with it is mended."""
        self._mailboxes[stream].request_turn()

    async def sync(self, streams: Sequence[Stream], *, full: bool = False) -> list[RunResult]:
        """Give every stream one turn, and say how each ended."""
        async with asyncio.TaskGroup() as tasks:
            slots = [
                tasks.create_task(self._single_turn(stream, full=full), name=f"stream {stream.key}")
                for stream in streams
            ]
        return [turn.result() for turn in slots]

    async def turn(self, stream: Stream, *, full: bool = False) -> RunResult:
        """Give one stream a turn."""
        return await self._single_turn(stream, full=full)

    def note_version(self, stream: Stream, version: int) -> None:
        """Hear where a stream stands in the journal: if others have written of it, its run looks before it goes on."""
        mailbox = self._mailboxes.get(stream)
        if mailbox is not None:
            mailbox.note_version(version)

    def turn_requested(self, stream: Stream) -> bool:
        """Whether the stream was woken, and had no turn since."""
        return self._mailboxes[stream].turn_requested

    def take_turn_request(self, stream: Stream) -> TurnRequest | None:
        """Give the turn that was asked for, if one was: from now on it counts as given."""
        mailbox = self._mailboxes.get(stream)
        return None if mailbox is None else mailbox.take_turn_request()

    @property
    def schedule(self) -> Schedule:
        """How often and how long streams are worked now."""
        return self._schedule

    async def do(self, command: DeadLetterCommand) -> DeadLetter | None:
        """Redrive or discard a dead letter, and give it if it is still open afterwards; None if it was not open.

        Raises HeldBack where no call may be made that it takes, or MilepostError where nothing could be done about it.
        """
        found = await self._engine.store.find_open_dead_letters((command.dead_letter_id,))
        return await self._asked(Stream.parse(found[0].dead_letter.stream), command) if found else None

    async def ask(self, stream: Stream, command: StreamCommand) -> None:
        """Have something done about a stream: between two batches, or at once where it is not at work.

        Raises MilepostError where that cannot be.
        """
        await self._asked(stream, command)

    async def _asked(self, stream: Stream, command: Command) -> DeadLetter | None:
        mailbox = self._mailboxes.setdefault(stream, Mailbox())
        asked = mailbox.ask(command)
        if not mailbox.has_owner:
            async with mailbox.owned():
                await self._run_commands(stream, mailbox)
        answer: Answer = await asked
        if isinstance(answer, MilepostError):
            raise answer
        return answer

    def stalled(self) -> str | None:
        """Say which streams have not given their turns back in time; None where none is late."""
        late = [
            stream.key
            for stream, seconds in self._engine.slots.held_seconds().items()
            if seconds > _length(self._latest[stream]).total_seconds() + MAX_LATENESS_SECONDS
        ]
        return f"no end of the runs of {', '.join(late)}: they are past sync.max_run_duration" if late else None

    def _begin(self, tasks: asyncio.TaskGroup, stream: Stream) -> None:
        self._kept.add(stream)
        tasks.create_task(self._keep(stream), name=f"stream {stream.key}")

    async def _keep(self, stream: Stream) -> None:
        mailbox, full = self._mailboxes[stream], False
        async with mailbox.owned():
            while not (self._engine.stop.is_requested or mailbox.is_dismissed):
                result = await self._turn(stream, full=full)
                full = await self._rest(stream, result.run)
        # Nothing is awaited from the last look at `is_dismissed` to here: who admits the stream begins it anew.
        self._kept.discard(stream)
        if mailbox.is_dismissed:
            del self._sources[stream]

    async def _rest(self, stream: Stream, run: Run | None) -> bool:
        """Wait until the next turn is due or wanted at once, and say if a full sweep is; errands are done meanwhile."""
        engine, mailbox = self._engine, self._mailboxes[stream]
        ended_at, jitter, anchor = engine.clock.now(), engine.clock.random(), Anchor(engine.clock)
        while not (engine.stop.is_requested or mailbox.is_dismissed):
            wanted = mailbox.take_turn_request()
            if wanted is not None:
                return wanted.full
            held_until = engine.rate_limits.held_until(stream)
            interval_seconds = self._schedule.interval_seconds
            due_at = next_run_at(run, ended_at, jitter, interval_seconds=interval_seconds) + anchor.moved()
            if held_until is not None:
                due_at = max(due_at, held_until)
            if due_at <= engine.clock.now() and not mailbox.interrupt.is_set:
                break
            if mailbox.interrupt.is_set:
                await self._run_commands(stream, mailbox)
                continue
            async with (
                engine.stop.interruptible(),
                mailbox.interrupt.interruptible(),
                self._schedule_changed.interruptible(),
            ):
                await engine.clock.sleep_until(due_at)
        return False

    async def _run_commands(self, stream: Stream, mailbox: Mailbox) -> None:
        """Do what is asked for of a stream that is not at work; each asker is answered."""
        source, budget = self._sources.get(stream), self._new_budget(self._engine.clock.now())
        answer = await bulkhead(
            f"errands of {stream.key}", run_commands_only(self._engine, stream, source, budget, mailbox)
        )
        if isinstance(answer, Exception):
            mailbox.give_up(answer if isinstance(answer, MilepostError) else broken_off())

    async def _single_turn(self, stream: Stream, *, full: bool) -> RunResult:
        async with self._mailboxes[stream].owned():
            return await self._turn(stream, full=full)

    async def _turn(self, stream: Stream, *, full: bool = False) -> RunResult:
        async with self._engine.slots.taken(stream):
            budget = self._new_budget(self._engine.clock.now(), full=full)
            with structlog.contextvars.bound_contextvars(stream=stream.key, run=budget.run_id):
                answer = await bulkhead(f"stream {stream.key}", self._run(stream, budget))
        match answer:
            case Checkpoint(operator_pause=OperatorPause(by=by)) as checkpoint:
                why = f"it is on hold: {by} paused it, and it has to be resumed first"
                return RunResult(stream.key, _run_of(checkpoint, budget.run_id), error=why)
            case Checkpoint() as checkpoint:
                return RunResult(stream.key, _run_of(checkpoint, budget.run_id))
            case Exception() as error:
                return RunResult(stream.key, await self._recorded_run(stream, budget.run_id), error=str(error))

    async def _recorded_run(self, stream: Stream, run_id: str) -> Run | None:
        """Give what a run that broke off had recorded; None where it is nothing, or nobody can tell."""
        answer = await bulkhead(f"what is recorded of {stream.key}", self._engine.store.load(stream.key))
        return _run_of(answer, run_id) if isinstance(answer, Checkpoint) else None

    def _new_budget(self, started_at: datetime, *, full: bool = False) -> RunBudget:
        run_id = _run_id(started_at, self._engine.clock.random())
        deadline_at = started_at + timedelta(seconds=self._schedule.max_run_seconds)
        return RunBudget(run_id, started_at, deadline_at, self._schedule.max_batches_per_run, wants_full=full)

    async def _run(self, stream: Stream, budget: RunBudget) -> Checkpoint:
        source, mailbox, before = self._sources[stream], self._mailboxes[stream], self._latest.get(stream)
        self._latest[stream] = budget
        return await run_stream(self._engine, stream, source, budget, mailbox, before.run_id if before else None)


def _run_of(checkpoint: Checkpoint, run_id: str) -> Run | None:
    run = checkpoint.run
    return run if run is not None and run.run_id == run_id else None


def _length(budget: RunBudget) -> timedelta:
    return budget.deadline_at - budget.started_at


def _run_id(started_at: datetime, jitter: float) -> str:
    """Name a run so that names sort by time; the luck keeps runs apart that start in the same second."""
    return f"{started_at:%Y%m%dT%H%M%SZ}-{int(jitter * 16**12):012x}"
