"""Executes the commands for a stream, within a run or between runs, and redrives its dead letters."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import assert_never

from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import (
    ApplyFacts,
    Command,
    CommandDeferred,
    DeadLetterCommand,
    Discard,
    PauseStream,
    RecordTokenHealth,
    Redrive,
    ResumeStream,
    SyncNow,
    decide_command,
)
from milepost.core.errors import MilepostError, VersionConflict
from milepost.core.facts import MAX_FACTS, apply_facts, contradicts
from milepost.core.model import Stream
from milepost.core.ports import DueDeadLetter, Held, MessagesFetched, MessagesRequest, Outcome, Refused, Source
from milepost.core.redrive import discard, is_refused_alike, redrive, to_reread
from milepost.engine.clock import Deadline
from milepost.engine.context import CommandResult, EngineContext, Mailbox
from milepost.engine.interrupt import Interrupt, running
from milepost.engine.stream_journal import StreamJournal

MAX_CONFLICTS = 10
MAX_REDRIVES_PER_RUN = 20
MIN_REDRIVE_SECONDS = 30.0  # granted even after a run that used up its time, as every run of a long sweep does


class Redriver:
    """Redrives dead letters within one run: those that are due, and those that a command names.

    `source` is None if the stream is not configured.
    """

    def __init__(self, engine: EngineContext, source: Source | None, stream_journal: StreamJournal) -> None:
        self._engine = engine
        self._source = source
        self._stream_journal = stream_journal
        self._stream = stream_journal.stream

    async def redrive_due(self, checkpoint: Checkpoint) -> Checkpoint:
        """Redrive the due dead letters, unless the stream is paused or failing. Return the checkpoint after it."""
        if (
            not checkpoint.open_dead_letters
            or checkpoint.failure_streak is not None
            or checkpoint.operator_pause is not None
        ):
            return checkpoint
        clock = self._engine.clock
        least = Deadline(clock, clock.now() + timedelta(seconds=MIN_REDRIVE_SECONDS))
        for due in await self._stream_journal.due_dead_letters(MAX_REDRIVES_PER_RUN):
            if self._stream_journal.deadline.has_passed and least.has_passed:
                break
            if await self._stream_journal.find_open_dead_letter(due.dead_letter.dead_letter_id) is None:
                continue  # another redrive of this run has closed it
            try:
                after = await self._redrive(checkpoint, due)
            except VersionConflict:  # another process wrote to the stream: the next run does the rest
                return await self._stream_journal.load()
            if isinstance(after, MilepostError):
                break
            checkpoint = after
        return checkpoint

    async def do(self, checkpoint: Checkpoint, command: DeadLetterCommand) -> tuple[Checkpoint, CommandResult]:
        """Execute a command; return the checkpoint after it, and its result."""
        due = await self._stream_journal.find_open_dead_letter(command.dead_letter_id)
        if due is None:  # it was closed while the command waited
            return checkpoint, None
        match command:
            case Discard(reason=reason, by=by):
                discarded = discard(checkpoint, due.dead_letter, reason, self._stream_journal.budget, by=by)
                return await self._stream_journal.record(checkpoint, discarded), None
            case Redrive(by=by):
                after = await self._redrive(checkpoint, due, by)
                if isinstance(after, MilepostError):
                    return checkpoint, after
                found = await self._stream_journal.find_open_dead_letter(command.dead_letter_id)
                if found is None:
                    return after, None
                was_tried = found.dead_letter.attempts > due.dead_letter.attempts
                return after, found.dead_letter if was_tried else self._deferral() or found.dead_letter

    async def _redrive(self, checkpoint: Checkpoint, due: DueDeadLetter, by: str = "") -> Checkpoint | MilepostError:
        """Redrive a dead letter; return the checkpoint after it, or why it cannot be read now."""
        outcome: Outcome | MessagesFetched | None = None
        unread = to_reread(due)
        if unread is not None:
            answer = await self._reread(unread)
            if isinstance(answer, MilepostError):
                return answer
            if isinstance(answer, Refused) and is_refused_alike(due, answer.problem):
                self._engine.rate_limits.forget(self._stream)
            outcome = answer
        return await self._stream_journal.settle(checkpoint, partial(redrive, checkpoint, due, outcome, by=by))

    async def _reread(self, unread: str | MessagesRequest) -> Outcome | MessagesFetched | MilepostError:
        if self._source is None:
            return MilepostError(f"{self._stream.key} is not configured, so there is no token to read it with")
        answer: Outcome | MessagesFetched | Held = Held()
        if self._deferral() is None:
            async with self._engine.stop.interruptible():
                if isinstance(unread, MessagesRequest):
                    answer = await self._source.messages(unread)
                else:
                    answer = await self._source.reread(unread, self._engine.policy.messages_per_conversation)
        if not isinstance(answer, Held):
            return answer
        return self._deferral() or CommandDeferred("a rate limit prevented the call", hint="try again")

    def _deferral(self) -> CommandDeferred | None:
        """Return why no call may be made now; None if a call is allowed."""
        if self._engine.stop.is_requested:
            return CommandDeferred("Milepost is stopping", hint="try again when it is running")
        until = self._engine.rate_limits.held_until(self._stream)
        if until is None or until <= self._engine.clock.now():
            return None
        return CommandDeferred(
            f"a rate limit holds {self._stream.key} until {until:%Y-%m-%d %H:%M:%S} UTC",
            hint="`milepost status` shows which",
            until=until,
        )


class CommandHandler:
    """Executes the commands of a stream, one after the other."""

    def __init__(self, mailbox: Mailbox, redriver: Redriver, stream_journal: StreamJournal) -> None:
        self._mailbox = mailbox
        self._redriver = redriver
        self._stream_journal = stream_journal

    async def run_commands(self, checkpoint: Checkpoint) -> Checkpoint:
        """Execute all waiting commands; return the checkpoint after them. Raises errors that prevent all of them."""

        async def execute(command: Command) -> CommandResult:
            nonlocal checkpoint
            for _ in range(MAX_CONFLICTS):
                try:
                    checkpoint, result = await self._attempt(checkpoint, command)
                except VersionConflict:  # another process wrote to the stream: decide again
                    checkpoint = await self._stream_journal.load()
                else:
                    return result
            raise MilepostError(f"other processes keep writing to {checkpoint.stream}", hint="try again")

        await self._mailbox.run(execute)
        return checkpoint

    async def wait_without_slot(
        self, engine: EngineContext, checkpoint: Checkpoint, until: datetime, *others: Interrupt
    ) -> Checkpoint:
        """Wait until an instant, a command or another interrupt; return the checkpoint after the commands.

        Commands that interrupt the wait are executed at once, and so are those that come before there is a slot again.
        """

        async def run_commands() -> None:
            nonlocal checkpoint
            checkpoint = await self.run_commands(checkpoint)

        stream = self._stream_journal.stream
        async with (
            commands_run(stream, self._mailbox, run_commands),
            engine.slots.released(stream),
            engine.stop.interruptible(self._mailbox.interrupt, *others),
        ):
            await engine.clock.sleep_until(until)
        return checkpoint

    async def _attempt(self, checkpoint: Checkpoint, command: Command) -> tuple[Checkpoint, CommandResult]:
        match command:
            case Redrive() | Discard():
                return await self._redriver.do(checkpoint, command)
            case ApplyFacts():
                return await self._apply_facts(checkpoint), None
            case SyncNow() if checkpoint.operator_pause is not None:
                why = f"the stream was paused by the {checkpoint.operator_pause.by}"
                return checkpoint, MilepostError(why, hint="resume it, which also syncs it at once")
            case PauseStream() | ResumeStream() | SyncNow() | RecordTokenHealth():
                record = decide_command(checkpoint, command, self._stream_journal.budget)
            case unknown:
                assert_never(unknown)
        if record is not None:
            checkpoint = await self._stream_journal.record(checkpoint, record)
        if isinstance(command, ResumeStream | SyncNow):
            self._mailbox.request_run(full=isinstance(command, SyncNow) and command.full)
        return checkpoint, None

    async def _apply_facts(self, checkpoint: Checkpoint) -> Checkpoint:
        """Apply the facts that are due, and return the checkpoint after them."""
        while due := await self._stream_journal.due_facts(MAX_FACTS):
            checkpoint = await self._stream_journal.settle(checkpoint, partial(apply_facts, checkpoint, due))
            if any(map(contradicts, due)):
                self._mailbox.prompt(self._stream_journal.now())
        return checkpoint


@asynccontextmanager
async def commands_run(
    stream: Stream, mailbox: Mailbox, run_commands: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Execute the commands that come during the block, which waits for a slot: they need none.

    The block ends after the command under way. Raises what `run_commands` raises.
    """
    over = Interrupt()

    async def run() -> None:
        while not over.is_set:
            async with over.interruptible(mailbox.interrupt):
                await asyncio.get_running_loop().create_future()
            if not over.is_set:
                await run_commands()

    async with running(f"commands of {stream.key}", run()) as commands:
        yield
        over.set()
        await commands
