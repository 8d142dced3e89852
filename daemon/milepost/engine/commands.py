"""Does what is asked for of a stream, in the name of one turn: it alone writes of the stream."""

from typing import assert_never

from milepost.core import commands
from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import (
    Command,
    Discard,
    PauseStream,
    RecordTokenHealth,
    Redrive,
    ResumeStream,
    StreamCommand,
    SyncNow,
)
from milepost.core.errors import MilepostError, VersionConflict
from milepost.core.plan import RunBudget
from milepost.core.records import Record
from milepost.engine.mailbox import Answer, Mailbox
from milepost.engine.redrive import Redriver
from milepost.engine.stream_journal import StreamJournal

MAX_CONFLICTS = 10


class CommandHandler:
    """Runs the errands of a stream, one after the other."""

    def __init__(self, mailbox: Mailbox, redriver: Redriver, stream_journal: StreamJournal, budget: RunBudget) -> None:
        self._mailbox = mailbox
        self._redriver = redriver
        self._stream_journal = stream_journal
        self._budget = budget

    async def run_commands(self, checkpoint: Checkpoint) -> Checkpoint:
        """Do all that waits; give where the stream stands then. Raises what keeps all of it from being done."""

        async def do(command: Command) -> Answer:
            nonlocal checkpoint
            for _ in range(MAX_CONFLICTS):
                try:
                    checkpoint, answer = await self._attempt(checkpoint, command)
                except VersionConflict:  # somebody else has written of the stream: it is decided anew
                    checkpoint = await self._stream_journal.load()
                else:
                    return answer
            raise MilepostError(f"{checkpoint.stream} is written of by others all the time", hint="try again")

        await self._mailbox.run(do)
        return checkpoint

    async def _attempt(self, checkpoint: Checkpoint, command: Command) -> tuple[Checkpoint, Answer]:
        match command:
            case Redrive() | Discard():
                return await self._redriver.do(checkpoint, command)
            case _:
                return await self._do(checkpoint, command)

    async def _do(self, checkpoint: Checkpoint, command: StreamCommand) -> tuple[Checkpoint, Answer]:
        if isinstance(command, SyncNow) and checkpoint.operator_pause is not None:
            why = f"{checkpoint.stream} is on hold: {checkpoint.operator_pause.by} paused it"
            return checkpoint, MilepostError(why, hint="resume it, which syncs it at once")
        record = self._asked(checkpoint, command)
        if record is not None:
            checkpoint = await self._stream_journal.record(checkpoint, record)
        match command:
            case ResumeStream():
                self._mailbox.request_turn()
            case SyncNow(full=full):
                self._mailbox.request_turn(full=full)
            case PauseStream() | RecordTokenHealth():
                pass
            case unknown:
                assert_never(unknown)
        return checkpoint, None

    def _asked(self, checkpoint: Checkpoint, command: StreamCommand) -> Record | None:
        match command:
            case PauseStream(by=by):
                return commands.pause(checkpoint, by, self._budget)
            case ResumeStream(by=by):
                return commands.resume(checkpoint, by, self._budget)
            case SyncNow(by=by, full=full):
                return commands.request_sync(checkpoint, by, self._budget, full=full)
            case RecordTokenHealth(health=health):
                return commands.note_token(checkpoint, health, self._budget)
            case unknown:
                assert_never(unknown)
