"""One run of one stream: takes the steps that the core plans, and commits what it decides. Nothing is decided here."""

from functools import partial

from milepost.core.checkpoint import Checkpoint, Run
from milepost.core.decide import decide
from milepost.core.errors import VersionConflict
from milepost.core.failures import (
    check_request,
    checked,
    looks_first,
    read_alone,
    to_read_alone,
    wants_check,
)
from milepost.core.model import Stream
from milepost.core.plan import (
    Fetch,
    Finish,
    Interruptions,
    ReadMessages,
    Reload,
    RunBudget,
    RunCommands,
    SettleRefusal,
    Step,
    Wait,
    is_over,
    next_step,
)
from milepost.core.ports import Answered, Fetched, Held, Outcome, Refused, Request, Source
from milepost.core.problems import is_unnamed_limit
from milepost.core.records import conclude, note_left_out, recover
from milepost.engine.backlog import BacklogReader
from milepost.engine.commands import CommandHandler, Redriver
from milepost.engine.context import EngineContext, Mailbox
from milepost.engine.prefetch import Prefetch
from milepost.engine.stream_journal import StreamJournal, ToSettle


async def run_stream(
    engine: EngineContext,
    stream: Stream,
    source: Source,
    budget: RunBudget,
    mailbox: Mailbox,
    own_run_id: str | None = None,
) -> Checkpoint:
    """Run the stream until its sweep is complete or the budget is used up, then redrive, and read owed messages.

    Some owed messages are read between two batches.

    The caller holds the stream's slot. Commands are executed between batches; dismissing the stream ends its run.
    `own_run_id` is this process's previous run of the stream, if any. Return the checkpoint after the run.

    Raises StoreAway, StoreRefused, RowsRejected or VersionConflict if the journal cannot be written.
    """
    stream_journal = StreamJournal(engine, stream, budget)
    redriver = Redriver(engine, source, stream_journal)
    commands = CommandHandler(mailbox, redriver, stream_journal)
    backlog = BacklogReader(engine, source, stream_journal, commands, mailbox)

    def may_go_on() -> bool:
        return not (stream_journal.is_store_away or engine.is_interrupted(mailbox))

    async with Prefetch(source, may_go_on, engine.rows_ahead) as prefetch:
        with engine.call_shares.sweeping(stream):
            run = _Run(engine, stream_journal, prefetch, commands, mailbox, backlog)
            checkpoint = await run.complete(own_run_id)
    if mailbox.is_dismissed:
        return checkpoint
    checkpoint = await redriver.redrive_due(checkpoint)
    return await backlog.read_owed(checkpoint)


async def run_commands_only(
    engine: EngineContext, stream: Stream, source: Source | None, budget: RunBudget, mailbox: Mailbox
) -> Checkpoint:
    """Execute the waiting commands of a stream without a run. Raises as `run_stream` does."""
    stream_journal = StreamJournal(engine, stream, budget)
    commands = CommandHandler(mailbox, Redriver(engine, source, stream_journal), stream_journal)
    return await commands.run_commands(await stream_journal.load())


class _Run:
    """A run in progress."""

    def __init__(
        self,
        engine: EngineContext,
        stream_journal: StreamJournal,
        prefetch: Prefetch,
        commands: CommandHandler,
        mailbox: Mailbox,
        backlog: BacklogReader,
    ) -> None:
        self._engine = engine
        self._stream_journal = stream_journal
        self._backlog = backlog
        self._stream = stream_journal.stream
        self._prefetch = prefetch
        self._commands = commands
        self._mailbox = mailbox
        self._budget = stream_journal.budget
        self._deadline = stream_journal.deadline
        self._may_read_messages = False  # at most one request for older ones between two batches

    async def complete(self, own_run_id: str | None) -> Checkpoint:
        """Take step after step until the run is over; return the checkpoint after it."""
        checkpoint = await self._take_over(own_run_id)
        run_before = checkpoint.run
        while not is_over(checkpoint, self._budget):
            self._demand_ours(checkpoint, run_before)
            self._mailbox.set_version(checkpoint.version)
            try:
                after = await self._take(self._next_step(checkpoint), checkpoint)
            except VersionConflict:
                after = await self._reload(checkpoint)
            if after is None:
                break
            checkpoint = after
        return checkpoint

    async def _take(self, step: Step, checkpoint: Checkpoint) -> Checkpoint | None:
        """Take a step; return the checkpoint after it, or None if the run ends without having read anything."""
        after: Checkpoint | None
        match step:
            case Fetch(request=request):
                after = await self._fetch(checkpoint, request)
            case SettleRefusal(refused=refused):
                after = await self._settle_ahead(checkpoint, self._prefetch.forget(), refused)
            case ReadMessages():
                self._may_read_messages = False
                after = await self._backlog.read_between(checkpoint)
            case RunCommands():
                after = await self._commands.run_commands(checkpoint)
            case Reload():
                after = await self._reload(checkpoint)
            case Wait(until=until):
                after = await self._commands.wait_without_slot(self._engine, checkpoint, until)
            case Finish(reason=reason):
                ending = conclude(checkpoint, reason, self._budget)
                after = None if ending is None else await self._stream_journal.record(checkpoint, ending)
        return after

    def _next_step(self, checkpoint: Checkpoint) -> Step:
        engine, mailbox = self._engine, self._mailbox
        budget = engine.budget_now(self._budget, self._deadline, mailbox)
        held_until = engine.rate_limits.held_until(self._stream)
        may_read = checkpoint.backlog > 0 and self._may_read_messages
        interruptions = Interruptions(
            mailbox.is_outdated,
            self._prefetch.refusal,
            mailbox.interrupt.is_set,
            are_messages_due=may_read and self._backlog.is_due_between(checkpoint),
        )
        return next_step(checkpoint, engine.clock.now(), budget, engine.policy, held_until, interruptions)

    async def _fetch(self, checkpoint: Checkpoint, request: Request) -> Checkpoint:
        """Fetch a batch, and settle the result. Nothing changes if a stop or a rate limit comes first."""
        answer = await self._ask(checkpoint, request)
        self._engine.call_shares.count_batches(self._stream, 1)
        self._may_read_messages = True
        if isinstance(answer, Refused) and answer.check is None and wants_check(request, answer.problem):
            answer = await self._check_list(check_request(request, checkpoint), answer)
        if (suspect := to_read_alone(checkpoint, request, answer)) is not None:
            answer = await self._read_alone(checkpoint, suspect, answer)
        return checkpoint if isinstance(answer, Held) else await self._settle(checkpoint, answer)

    async def _ask(self, checkpoint: Checkpoint, request: Request) -> Answered:
        """Return the answer to a request; the positions may be requested before it. Held after a stop.

        A prefetched answer is not dropped for that. If it looks like a limit, it is Held, and the positions come first
        when the request is planned again.
        """
        async with self._engine.stop.interruptible():
            if not looks_first(checkpoint, request):
                return await self._prefetch.fetch(request)
            positions: Answered = Held()
            if not self._prefetch.has_requested(request):
                positions = await self._prefetch.fetch(check_request(request, checkpoint))
                if not isinstance(positions, Fetched):
                    return positions
                if self._engine.is_interrupted(self._mailbox):
                    return Held()
            answer = await self._prefetch.fetch(request)
            if isinstance(answer, Refused) and is_unnamed_limit(answer.problem):
                self._engine.rate_limits.forget(self._stream)
                return checked(answer, positions)
            return answer
        return Held()

    async def _check_list(self, positions: Request, refused: Refused) -> Answered:
        """Return a refusal together with the result of a check whether the list can be read at all.

        Held if something comes up before the check: nothing changes then, and the same request is planned again.
        """
        if not self._engine.is_interrupted(self._mailbox):
            async with self._engine.stop.interruptible():
                return checked(refused, await self._prefetch.fetch(positions))
        return Held()

    async def _read_alone(self, checkpoint: Checkpoint, conversation_id: str, listed: Answered) -> Answered:
        """Return a list's answer about a thread together with the thread's own answer. Held as in `_check_list`."""
        async with self._engine.stop.interruptible():
            messages = self._engine.policy.messages_per_conversation
            alone = await self._prefetch.reread(conversation_id, messages)
            answer = read_alone(listed, alone, checkpoint.reduced_request)
            if answer is listed:
                self._engine.rate_limits.forget(self._stream)
            return answer
        return Held()

    async def _settle_ahead(self, checkpoint: Checkpoint, request: Request | None, refused: Refused) -> Checkpoint:
        """Settle the refusal of a prefetched request. If it has to be checked, its request is planned again later."""
        if request is not None and wants_check(request, refused.problem):
            return checkpoint
        if request is not None and is_unnamed_limit(refused.problem) and looks_first(checkpoint, request):
            self._engine.rate_limits.forget(self._stream)
            return checkpoint
        return await self._settle(checkpoint, refused)

    async def _reload(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint after another process's entry: any process may record a command.

        Unchanged batches that no entry counts yet are read again. Entries that were reported but are not stored are
        lost, as after a failover to a replica that had not received them: the stored entries count.
        """
        noted = self._mailbox.noted_version
        loaded = await self._stream_journal.load()
        if loaded.version > checkpoint.version:
            return loaded
        if loaded.version == checkpoint.version and noted <= checkpoint.version:
            raise VersionConflict(
                f"{self._stream.key} was reported to have moved on, but has not", hint="please report this"
            )
        self._mailbox.retract_version(noted, loaded.version)
        self._engine.quiet_heads.pop(self._stream, None)
        return loaded

    def _demand_ours(self, checkpoint: Checkpoint, run_before: Run | None) -> None:
        """Raise VersionConflict if another process considered this one dead and took the stream over.

        Then nothing more may be written, even if its version would follow.
        """
        run = checkpoint.run
        if checkpoint.removed_at is not None and run_before is not None:
            raise VersionConflict(f"{self._stream.key} was removed meanwhile", hint="its next run starts over")
        if run != run_before and (run is None or run.run_id != self._budget.run_id):
            raise VersionConflict(
                f"{self._stream.key} was taken over by another Milepost", hint="it continues from the last batch"
            )

    async def _take_over(self, own_run_id: str | None) -> Checkpoint:
        """Load the checkpoint, and end the run that was left open, in its own name.

        Raises VersionConflict if another process takes the stream over at the same time.
        """
        checkpoint = await self._stream_journal.load()
        left = checkpoint.run
        while (abandoned := recover(checkpoint, own_run_id)) is not None and left is not None:
            try:
                return await self._stream_journal.record(checkpoint, abandoned, left.run_id)
            except VersionConflict:
                checkpoint = await self._reload(checkpoint)
                if checkpoint.run is None or checkpoint.run.run_id != left.run_id:
                    raise
        return checkpoint

    async def _settle(self, checkpoint: Checkpoint, outcome: Outcome) -> Checkpoint:
        """Decide what an outcome means, and commit the decision."""
        if (left_out := note_left_out(checkpoint, outcome, self._budget)) is not None:
            checkpoint = await self._stream_journal.record(checkpoint, left_out)
        first = ToSettle(partial(decide, checkpoint, outcome), outcome.took_seconds)
        with self._prefetch.going_on():
            after, followed = await self._stream_journal.settle_ready(checkpoint, first, self._following)
            self._prefetch.drop_settled(followed)
        self._engine.call_shares.count_batches(self._stream, followed)
        return after

    def _following(self, checkpoint: Checkpoint, place: int) -> ToSettle | None:
        """Return the batch that would be fetched next, if it is ready and nothing else has come up."""
        step = Reload() if is_over(checkpoint, self._budget) else self._next_step(checkpoint)
        fetched = self._prefetch.ready(step.request, place) if isinstance(step, Fetch) else None
        if fetched is None or note_left_out(checkpoint, fetched, self._budget) is not None:
            return None
        return ToSettle(partial(decide, checkpoint, fetched), fetched.took_seconds)
