"""Executes the commands for a stream, within a run or between runs."""

from functools import partial
from typing import assert_never

from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import (
    ApplyFacts,
    Command,
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
from milepost.engine.mailbox import CommandResult, Mailbox
from milepost.engine.redrive import Redriver
from milepost.engine.stream_journal import StreamJournal

MAX_CONFLICTS = 10


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

    async def _attempt(self, checkpoint: Checkpoint, command: Command) -> tuple[Checkpoint, CommandResult]:
        match command:
            case Redrive() | Discard():
                return await self._redriver.do(checkpoint, command)
            case ApplyFacts():
                return await self._apply_facts(checkpoint), None
            case SyncNow() if checkpoint.operator_pause is not None:
                why = f"{checkpoint.stream} is paused (by {checkpoint.operator_pause.by})"
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
