"""One run of one stream: ask the core, do what it says, commit what it decides. Not one decision is made here."""

from functools import partial
from typing import assert_never

from msgspec.structs import replace

from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.decide import decide
from milepost.core.errors import VersionConflict
from milepost.core.events import Reason
from milepost.core.model import Stream
from milepost.core.plan import Fetch, Finish, RunBudget, Wait, is_over, plan
from milepost.core.ports import Answered, Held, Outcome, Request, Source
from milepost.core.records import conclude, recover
from milepost.engine.clock import Deadline
from milepost.engine.commands import CommandHandler
from milepost.engine.context import EngineContext
from milepost.engine.mailbox import Mailbox
from milepost.engine.prefetch import Prefetch, prefetching
from milepost.engine.redrive import Redriver
from milepost.engine.stream_journal import StreamJournal


async def run_stream(
    engine: EngineContext,
    stream: Stream,
    source: Source,
    budget: RunBudget,
    mailbox: Mailbox,
    own_run_id: str | None = None,
) -> Checkpoint:
    """Work a stream until its sweep is complete or the slice is used up, redrive what is due, and say where it stands.

    The stream has its turn. Errands are done between batches; a stream that is dismissed goes no further. `own_run_id`
    is the run that this process gave the stream before, if any.

    Raises StoreAway, StoreRefused, RowsRejected or VersionConflict where the journal cannot be written.
    """
    stream_journal = StreamJournal(engine, stream, budget)
    redriver = Redriver(engine, stream, source, stream_journal, budget)
    command_handler = CommandHandler(mailbox, redriver, stream_journal, budget)
    async with prefetching(source) as ahead:
        checkpoint = await _Run(engine, stream, ahead, stream_journal, budget).complete(
            command_handler, mailbox, own_run_id
        )
    return checkpoint if mailbox.is_dismissed else await redriver.redrive_due(checkpoint)


async def run_commands_only(
    engine: EngineContext, stream: Stream, source: Source | None, budget: RunBudget, mailbox: Mailbox
) -> Checkpoint:
    """Do the errands that wait for a stream that is not at work. Raises as `run_stream` does."""
    stream_journal = StreamJournal(engine, stream, budget)
    redriver = Redriver(engine, stream, source, stream_journal, budget)
    return await CommandHandler(mailbox, redriver, stream_journal, budget).run_commands(await stream_journal.load())


class _Run:
    """A run under way. The checkpoint is handed from step to step."""

    def __init__(
        self, engine: EngineContext, stream: Stream, source: Prefetch, stream_journal: StreamJournal, budget: RunBudget
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._source = source
        self._stream_journal = stream_journal
        self._budget = budget
        self._deadline = Deadline(engine.clock, budget.deadline_at)

    async def complete(self, command_handler: CommandHandler, mailbox: Mailbox, own_run_id: str | None) -> Checkpoint:
        """Plan and do, until the run is over. The attendant does the errands."""
        checkpoint = await self._take_over(await self._stream_journal.load(), own_run_id)
        run_before = checkpoint.run
        while not is_over(checkpoint, self._budget):
            self._demand_ours(checkpoint, run_before)
            mailbox.set_version(checkpoint.version)
            try:
                after = await self._step(checkpoint, command_handler, mailbox)
            except VersionConflict:
                after = await self._rejoin(checkpoint)
            if after is None:
                break
            checkpoint = after
        return checkpoint

    async def _step(
        self, checkpoint: Checkpoint, command_handler: CommandHandler, mailbox: Mailbox
    ) -> Checkpoint | None:
        """Do what is next; give where the stream stands then, or None where the run ends without an entry."""
        engine = self._engine
        if mailbox.is_outdated:
            return await self._rejoin(checkpoint)
        refused_ahead = self._source.refusal()
        if refused_ahead is not None:  # on record before anything else: a limit has to outlive this process
            return await self._settle(checkpoint, refused_ahead)
        done = await command_handler.run_commands(checkpoint)
        if done is not checkpoint:
            return done
        if engine.stop.is_requested:
            self._budget = replace(self._budget, stops_for=Reason.SHUTDOWN)
        elif mailbox.is_dismissed:
            self._budget = replace(self._budget, stops_for=Reason.REMOVED)
        held_until = engine.rate_limits.held_until(self._stream)
        budget = replace(self._budget, deadline_at=self._deadline.at)
        match plan(checkpoint, engine.clock.now(), budget, engine.policy, held_until):
            case Fetch(request=request):
                return await self._fetch(checkpoint, request)
            case Wait(until=until):
                async with engine.slots.released(self._stream):
                    async with engine.stop.interruptible(), mailbox.interrupt.interruptible():
                        await engine.clock.sleep_until(until)
                    return await command_handler.run_commands(checkpoint)  # which takes no turn
            case Finish(reason=reason):
                ending = conclude(checkpoint, reason, self._budget)
                return None if ending is None else await self._stream_journal.record(checkpoint, ending)
            case unknown:
                assert_never(unknown)

    async def _rejoin(self, checkpoint: Checkpoint) -> Checkpoint:
        """Go on from where the stream stands after somebody else has written of it: an errand, as anybody may.

        Quiet batches that have no entry are read again.
        """
        loaded = await self._stream_journal.load()
        if loaded.version <= checkpoint.version:
            raise VersionConflict(
                f"{self._stream.key} is said to have moved on, and has not", hint="please report this"
            )
        return loaded

    def _demand_ours(self, checkpoint: Checkpoint, run_before: Run | None) -> None:
        """Raise VersionConflict where somebody took this process for dead, and the stream over.

        Whatever else was written of it, nothing more may be, however well it would follow.
        """
        run = checkpoint.run
        if checkpoint.removed_at is not None and run_before is not None:
            raise VersionConflict(f"{self._stream.key} was removed meanwhile", hint="its next run begins it anew")
        if run != run_before and (run is None or run.run_id != self._budget.run_id):
            raise VersionConflict(
                f"{self._stream.key} was taken over by another Milepost", hint="that one goes on from the last batch"
            )

    async def _take_over(self, checkpoint: Checkpoint, own_run_id: str | None) -> Checkpoint:
        """Close the run that was left open, in that run's name, unless another process was faster to take it over."""
        left = checkpoint.run
        while (abandoned := recover(checkpoint, own_run_id)) is not None and left is not None:
            try:
                return await self._stream_journal.record(checkpoint, abandoned, left.run_id)
            except VersionConflict:
                checkpoint = await self._rejoin(checkpoint)
                if checkpoint.run is None or checkpoint.run.run_id != left.run_id:
                    raise
        return checkpoint

    async def _fetch(self, checkpoint: Checkpoint, request: Request) -> Checkpoint:
        """Read a batch and settle what it means; nothing has happened where a stop or a pause keeps it from that."""
        answer: Answered = Held()
        async with self._engine.stop.interruptible():
            answer = await self._source.fetch(request)
        return checkpoint if isinstance(answer, Held) else await self._settle(checkpoint, answer)

    async def _settle(self, checkpoint: Checkpoint, outcome: Outcome) -> Checkpoint:
        """Store and record what an outcome means; give where the stream stands then."""
        return await self._stream_journal.settle(
            checkpoint, partial(decide, checkpoint, outcome), fetch_seconds=outcome.took_seconds
        )
