"""Runs all streams, each in a task of its own; a bounded number run at once, first come, first served."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import structlog
from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, DeadLetter, OperatorPause, Run
from milepost.core.commands import ApplyFacts, Command, DeadLetterCommand, StreamCommand
from milepost.core.errors import MilepostError, StoreAway
from milepost.core.model import Stream
from milepost.core.plan import Policy, RunBudget
from milepost.core.ports import RunResult, Source
from milepost.core.retry import MAX_PARK_SECONDS, in_step, next_run_at
from milepost.engine.clock import Anchor
from milepost.engine.commands import commands_run
from milepost.engine.context import CommandResult, EngineContext, Mailbox, aborted
from milepost.engine.interrupt import Interrupt, bulkhead
from milepost.engine.run import run_commands_only, run_stream

# By how much a stream may hold its slot beyond the length of a run: a request and a commit take time.
MAX_LATENESS_SECONDS = 120.0


class Schedule(Struct, frozen=True):
    """How often streams run, and for how long."""

    interval_seconds: float = 300.0
    max_run_seconds: float = 270.0
    max_batches_per_run: int = 500


class FailedRuns(Struct, frozen=True):
    """The latest runs of a stream, which ended with an error that they could not record: a refusal, or a bug.

    `since` and `last_at` are when the first and the last of them ended; `run_id` is that of the last one or, if another
    has begun since, of that.
    """

    since: datetime
    last_at: datetime
    count: int
    error: Exception
    run_id: str


class Supervisor:
    """Runs the streams of `sources`, each on its interval, and executes the commands for them.

    The rate limits must have observed the checkpoints of all streams that ever ran, because a limit outlives the
    process that met it.
    """

    def __init__(self, engine: EngineContext, sources: Mapping[Stream, Source], schedule: Schedule) -> None:
        self._engine = engine
        self._sources = dict(sources)
        self._schedule = schedule
        self._mailboxes = defaultdict[Stream, Mailbox](Mailbox)
        self._latest: dict[Stream, RunBudget] = {}
        self._failed: dict[Stream, FailedRuns] = {}
        self._started: set[Stream] = set()
        self._schedule_changed = Interrupt()
        self.prompted = Interrupt()  # set when there is news of a stream; a worker of a fleet clears it
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that run here, without those that are being dismissed. May be read from another thread."""
        return tuple(filter(self.works, tuple(self._sources)))

    def works(self, stream: Stream) -> bool:
        """Return whether the stream runs here, and is not being dismissed. May be called from another thread."""
        return stream in self._sources and not self._mailboxes[stream].is_dismissed

    async def run(self) -> None:
        """Run every stream on its interval until shutdown."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for stream in self._sources:
                self._start(tasks, stream)
            await self._engine.stop.wait()
            self._tasks = None

    def admit(self, stream: Stream, source: Source) -> None:
        """Run this stream as well from now on. If it runs here already, its next run uses the new source."""
        self._sources[stream] = source
        mailbox = self._mailboxes[stream]
        mailbox.is_dismissed = False
        if stream in self._started:
            mailbox.request_run()
        elif self._tasks is not None:
            self._start(self._tasks, stream)

    def dismiss(self, stream: Stream) -> None:
        """Stop running the stream: its run ends after the current batch. If admitted again, it continues there."""
        self._mailboxes[stream].dismiss()
        if stream not in self._started:
            del self._sources[stream]

    def adopt(self, policy: Policy, schedule: Schedule, concurrency: int) -> None:
        """Adopt new settings: each stream uses them from its next run on, which may now be due earlier."""
        self._engine = replace(self._engine, policy=policy)
        self._schedule = schedule
        self._engine.slots.resize(concurrency)
        self._schedule_changed.set()  # for the streams that wait for their next run
        self._schedule_changed.clear()

    def wake(self, stream: Stream) -> None:
        """Run the stream as soon as there is a slot, whatever it waits for, because its problem is solved."""
        self._mailboxes[stream].request_run()

    def prompt(self, stream: Stream) -> None:
        """Run the stream within seconds because there is news of it, unless a rate limit or an error forbids that."""
        self._mailboxes[stream].prompt(self._engine.clock.now())
        self.prompted.set()

    def mailbox(self, stream: Stream) -> Mailbox:
        """Return the mailbox of a stream, whether or not it runs here."""
        return self._mailboxes[stream]

    async def sync(self, streams: Sequence[Stream], *, full: bool = False) -> list[RunResult]:
        """Run every stream once, and return how each run ended."""
        async with asyncio.TaskGroup() as tasks:
            runs = [
                tasks.create_task(self.run_once(stream, full=full), name=f"stream {stream.key}") for stream in streams
            ]
        return [run.result() for run in runs]

    async def run_once(self, stream: Stream, *, full: bool) -> RunResult:
        """Run one stream once, and then execute the commands that came too late for the run."""
        mailbox = self._mailboxes[stream]
        async with mailbox.owned():
            result = await self._run(stream, full=full)
            while mailbox.has_commands and not (self._engine.stop.is_requested or mailbox.is_dismissed):
                await self._run_commands(stream, mailbox)
        return result

    @property
    def schedule(self) -> Schedule:
        """The schedule now in effect."""
        return self._schedule

    async def do(self, command: DeadLetterCommand) -> DeadLetter | None:
        """Redrive or discard a dead letter, and return it if it is still open afterwards; None if it was not open.

        Raises CommandDeferred if it needs a call that may not be made now, or MilepostError if it fails otherwise.
        """
        found = await self._engine.store.find_open_dead_letters((command.dead_letter_id,))
        return await self._execute(found[0].dead_letter.stream, command) if found else None

    async def ask(self, stream: Stream, command: StreamCommand | ApplyFacts) -> None:
        """Execute a command for a stream: between two batches, or at once if it is not running.

        Raises MilepostError if that is impossible.
        """
        await self._execute(stream, command)

    async def _execute(self, stream: Stream, command: Command) -> DeadLetter | None:
        mailbox = self._mailboxes[stream]
        pending = mailbox.ask(command)
        if not mailbox.has_owner:
            async with mailbox.owned():
                await self._run_commands(stream, mailbox)
        result: CommandResult = await pending
        if isinstance(result, MilepostError):
            raise result
        return result

    def stalled(self) -> str | None:
        """Return which streams hold their slots for too long, in words; None if none does."""
        late = [
            stream.key
            for stream, seconds in self._engine.slots.held_seconds().items()
            if stream in self._latest  # not before its first run, while a command is still under way
            and seconds > _length(self._latest[stream]).total_seconds() + MAX_LATENESS_SECONDS
        ]
        return f"runs past sync.max_run_duration: {', '.join(late)}" if late else None

    def failing(self) -> Mapping[Stream, FailedRuns]:
        """Return the streams whose latest runs failed here, more than one in a row: a single failure may pass.

        What an outage of the database cuts off is repeated when that is over; the outage itself is reported elsewhere.
        """
        return {
            stream: replace(self._failed[stream], run_id=self._latest[stream].run_id)
            for stream in self.streams
            if self._is_failing(stream)
        }

    def _is_failing(self, stream: Stream) -> bool:
        failed = self._failed.get(stream)
        return failed is not None and failed.count > 1 and not isinstance(failed.error, StoreAway)

    def _start(self, tasks: asyncio.TaskGroup, stream: Stream) -> None:
        self._started.add(stream)
        tasks.create_task(self._work(stream), name=f"stream {stream.key}")

    async def _work(self, stream: Stream) -> None:
        mailbox, full = self._mailboxes[stream], False
        async with mailbox.owned():
            while not (self._engine.stop.is_requested or mailbox.is_dismissed):
                result = await self._run(stream, full=full)
                is_full_due = full and result.run is None
                full = await self._rest(stream, result) or is_full_due
        # Nothing is awaited between the last check of `is_dismissed` and here, so that `admit` can start a new task.
        self._started.discard(stream)
        if mailbox.is_dismissed:
            del self._sources[stream]

    async def _rest(self, stream: Stream, result: RunResult) -> bool:
        """Wait for the next run, executing commands meanwhile; return whether it has to be a full sweep."""
        engine, mailbox, run = self._engine, self._mailboxes[stream], result.run
        ended_at, jitter, anchor = engine.clock.now(), engine.clock.random(), Anchor(engine.clock)
        held_until = engine.rate_limits.held_until(stream)
        was_held = run is None and held_until is not None and held_until > ended_at  # so that it has not begun
        while not (engine.stop.is_requested or mailbox.is_dismissed):
            if (wanted := mailbox.take_run_request()) is not None:
                return wanted.full
            if mailbox.interrupt.is_set:
                await self._run_commands(stream, mailbox)
                continue
            interval_seconds = self._interval_seconds(stream, was_held=was_held)
            prompted = mailbox.is_prompted and self._is_hastened_by_news(stream, result)
            due_at = next_run_at(run, ended_at, jitter, interval_seconds=interval_seconds, is_prompted=prompted)
            due_at += anchor.moved()
            if not (prompted or was_held):
                due_at = in_step(due_at, ended_at, interval_seconds)
            due_at = max(due_at, engine.rate_limits.held_until(stream) or due_at)
            if due_at <= engine.clock.now():
                break
            async with engine.stop.interruptible(mailbox.interrupt, mailbox.prompted, self._schedule_changed):
                await engine.clock.sleep_until(due_at)
        return False

    def _interval_seconds(self, stream: Stream, *, was_held: bool) -> float:
        """Return the interval after a run. Its failure, or a rate limit that held it, may not be in the journal."""
        if was_held:
            return 0.0
        seconds = self._schedule.interval_seconds
        return min(seconds, MAX_PARK_SECONDS) if stream in self._failed else seconds

    def _is_hastened_by_news(self, stream: Stream, result: RunResult) -> bool:
        """Return whether news makes the next run due soon: not while the stream is paused, nor if its runs fail."""
        is_paused = result.error is not None and stream not in self._failed
        return not (is_paused or self._is_failing(stream))

    async def _run_commands(self, stream: Stream, mailbox: Mailbox) -> None:
        """Execute the commands for a stream that is not running. Every command gets a result."""
        source, budget = self._sources.get(stream), self._new_budget()
        running = run_commands_only(self._engine, stream, source, budget, mailbox)
        result = await bulkhead(f"commands of {stream.key}", running)
        if isinstance(result, Exception):
            mailbox.fail_all(result if isinstance(result, MilepostError) else aborted())

    async def _run(self, stream: Stream, *, full: bool) -> RunResult:
        mailbox, slots = self._mailboxes[stream], self._engine.slots
        run_commands = partial(self._run_commands, stream, mailbox)  # they need no slot
        async with slots.hold(stream, commands_run(stream, mailbox, run_commands) if slots.all_taken else None):
            source, before = self._sources.get(stream), self._latest.get(stream)
            if source is None:
                return RunResult(stream, None, error="its page was removed meanwhile")
            budget = self._latest[stream] = self._new_budget(full=full, is_prompted=mailbox.is_prompted)
            mailbox.observe_run()
            running = run_stream(self._engine, stream, source, budget, mailbox, before.run_id if before else None)
            with structlog.contextvars.bound_contextvars(stream=stream.key, run=budget.run_id):
                result = await bulkhead(f"stream {stream.key}", running)
        self._note(stream, result)
        match result:
            case Checkpoint(operator_pause=OperatorPause(by=by)) as checkpoint:
                why = f"it was paused by the {by}, and has to be resumed first"
                return RunResult(stream, _run_of(checkpoint, budget.run_id), error=why)
            case Checkpoint() as checkpoint:
                return RunResult(stream, _run_of(checkpoint, budget.run_id), backlog=checkpoint.backlog)
            case Exception() as error:
                loaded = await bulkhead(f"checkpoint of {stream.key}", self._engine.store.load(stream))
                run = _run_of(loaded, budget.run_id) if isinstance(loaded, Checkpoint) else None
                return RunResult(stream, run, error=str(error))

    def _note(self, stream: Stream, result: Checkpoint | Exception) -> None:
        before = self._failed.pop(stream, None)
        if isinstance(result, Exception):
            now = self._engine.clock.now()
            since, count = (before.since, before.count) if before else (now, 0)
            self._failed[stream] = FailedRuns(since, now, count + 1, result, self._latest[stream].run_id)

    def _new_budget(self, *, full: bool = False, is_prompted: bool = False) -> RunBudget:
        started_at, schedule = self._engine.clock.now(), self._schedule
        return RunBudget(
            _run_id(started_at, self._engine.clock.random()),
            started_at,
            started_at + timedelta(seconds=schedule.max_run_seconds),
            schedule.max_batches_per_run,
            wants_full=full,
            interval_seconds=schedule.interval_seconds,
            is_prompted=is_prompted,
        )


def _run_of(checkpoint: Checkpoint, run_id: str) -> Run | None:
    """Return the run as recorded; None if it has recorded nothing."""
    run = checkpoint.run
    return run if run is not None and run.run_id == run_id else None


def _length(budget: RunBudget) -> timedelta:
    return budget.deadline_at - budget.started_at


def _run_id(started_at: datetime, draw: float) -> str:
    """Return an id that sorts by time; the random part distinguishes runs that start in the same second."""
    return f"{started_at:%Y%m%dT%H%M%SZ}-{int(draw * 16**12):012x}"
