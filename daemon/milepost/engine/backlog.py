"""The backlog of one stream: messages that are owed are read after the run that has found them, or a later one."""

from datetime import datetime, timedelta
from functools import partial

from msgspec.structs import replace

from milepost.core.backlog import MAX_PARKED, ReadGap, next_gap, plan_backlog
from milepost.core.checkpoint import Checkpoint
from milepost.core.errors import VersionConflict
from milepost.core.events import Reason
from milepost.core.gaps import Gap
from milepost.core.message_reading import decide_messages, forget_gap, request_of
from milepost.core.plan import RunBudget, Wait
from milepost.core.ports import Held, MessagesAnswered, MessagesOutcome, OpenGap, Refused, Source
from milepost.core.remedies import Remedy, rule_for
from milepost.engine.clock import Deadline
from milepost.engine.commands import CommandHandler
from milepost.engine.context import EngineContext
from milepost.engine.mailbox import Mailbox
from milepost.engine.stream_journal import StreamJournal

MIN_READ_SECONDS = 30.0  # even after a run that used up its time, as every run of a long sweep does
GAPS_AHEAD = 10  # that are loaded beyond those that failed


class BacklogReader:
    """Reads what is owed within one run's limits, after its sweep. The caller holds the stream's slot."""

    def __init__(
        self,
        engine: EngineContext,
        source: Source,
        stream_journal: StreamJournal,
        commands: CommandHandler,
        mailbox: Mailbox,
        budget: RunBudget,
    ) -> None:
        self._engine = engine
        self._source = source
        self._stream_journal = stream_journal
        self._commands = commands
        self._mailbox = mailbox
        self._budget = budget
        self._deadline = Deadline(engine.clock, budget.deadline_at)
        self._tried: set[str] = set()
        self._failures_in_a_row = 0
        self._is_in_vain = False

    async def read_owed(self, checkpoint: Checkpoint) -> Checkpoint:
        """Read what is owed until nothing is, or the run's limits are reached. Returns the checkpoint after it.

        Commands that wait are executed between two calls.
        """
        clock = self._engine.clock
        least = Deadline(clock, clock.now() + timedelta(seconds=MIN_READ_SECONDS))
        try:
            while not self._is_in_vain:
                self._mailbox.set_version(checkpoint.version)
                after = await self._step(checkpoint, max(self._deadline.at, least.at))
                if after is None:
                    break
                checkpoint = after
        except VersionConflict:  # another process wrote to the stream: what is left is read after the next run
            return await self._stream_journal.load()
        return checkpoint

    async def _step(self, checkpoint: Checkpoint, deadline_at: datetime) -> Checkpoint | None:
        """Take the planned step. Returns the checkpoint after it; None if there is nothing left to do."""
        engine, stops_for = self._engine, self._budget.stops_for
        if engine.stop.is_requested:
            stops_for = Reason.SHUTDOWN
        elif self._mailbox.is_dismissed:
            stops_for = Reason.REMOVED
        budget = replace(self._budget, deadline_at=deadline_at, stops_for=stops_for)
        held_until = engine.rate_limits.held_until(self._stream_journal.stream)
        match plan_backlog(checkpoint, engine.clock.now(), budget, held_until):
            case ReadGap() | Wait() if self._mailbox.run_requested or self._mailbox.is_outdated:
                return None
            case ReadGap() | Wait() if self._mailbox.interrupt.is_set:
                return await self._commands.run_commands(checkpoint)
            case ReadGap():
                return await self._read_next(checkpoint, deadline_at)
            case Wait(until=until):
                return await self._wait(checkpoint, until)
            case _:
                return None

    async def _read_next(self, checkpoint: Checkpoint, deadline_at: datetime) -> Checkpoint | None:
        found = {each.gap.gap_id: each for each in await self._stream_journal.open_gaps(len(self._tried) + GAPS_AHEAD)}
        gaps = (each.gap for each in found.values())
        match next_gap(gaps, self._tried, self._engine.clock.now(), self._engine.policy):
            case Gap(gap_id=gap_id):
                return await self._read(checkpoint, found[gap_id])
            case Wait(until=until) if until < deadline_at:
                return await self._wait(checkpoint, until)
            case _:
                return None

    async def _read(self, checkpoint: Checkpoint, found: OpenGap) -> Checkpoint:
        """Read the next messages of a gap and settle them. Nothing changes if a stop or a rate limit comes first."""
        gap = found.gap
        if found.is_forgotten:
            return await self._stream_journal.record(checkpoint, forget_gap(checkpoint, gap, self._budget))
        answer: MessagesAnswered = Held()
        async with self._engine.stop.interruptible():
            answer = await self._source.messages(request_of(gap))
        if isinstance(answer, Held):
            return checkpoint
        self._note(gap, answer)
        return await self._stream_journal.settle(checkpoint, partial(decide_messages, checkpoint, gap, answer))

    def _note(self, gap: Gap, answer: MessagesOutcome) -> None:
        """Note a failure, and whether it shows that further calls are in vain for now."""
        if not isinstance(answer, Refused):
            self._failures_in_a_row = 0
            return
        self._tried.add(gap.gap_id)
        remedy = rule_for(answer.problem, has_cursor=gap.cursor is not None).remedy
        self._failures_in_a_row += remedy is not Remedy.WAIT
        is_stop = remedy in {Remedy.STOP_AUTHORIZATION, Remedy.STOP_CONFIGURATION}
        self._is_in_vain = is_stop or self._failures_in_a_row >= MAX_PARKED * self._engine.policy.attempts

    async def _wait(self, checkpoint: Checkpoint, until: datetime) -> Checkpoint:
        """Wait without a slot. A command ends the wait."""
        engine = self._engine
        async with (
            engine.slots.released(self._stream_journal.stream),
            engine.stop.interruptible(),
            self._mailbox.interrupt.interruptible(),
        ):
            await engine.clock.sleep_until(until)
        return checkpoint
