"""Redrives one stream's dead letters: those that are due, and those that a command names."""

from datetime import timedelta
from functools import partial

from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import CommandDeferred, DeadLetterCommand, Discard, Redrive
from milepost.core.errors import MilepostError, VersionConflict
from milepost.core.ports import DueDeadLetter, Held, MessagesFetched, MessagesRequest, Outcome, Refused, Source
from milepost.core.redrive import discard, is_refused_alike, redrive, to_reread
from milepost.engine.clock import Deadline
from milepost.engine.context import EngineContext
from milepost.engine.mailbox import CommandResult
from milepost.engine.stream_journal import StreamJournal

MAX_REDRIVES_PER_RUN = 20
MIN_REDRIVE_SECONDS = 30.0  # granted even after a run that used up its time, as every run of a long sweep does


class Redriver:
    """Redrives dead letters within one run. `source` is None if the stream is not configured."""

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
