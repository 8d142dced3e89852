"""Redrives of one stream's dead letters: those that are due by themselves, and those that somebody asks for."""

from datetime import timedelta
from functools import partial

from milepost.core.checkpoint import Checkpoint
from milepost.core.commands import DeadLetterCommand, Discard, Redrive
from milepost.core.errors import MilepostError, VersionConflict
from milepost.core.model import Stream
from milepost.core.plan import RunBudget
from milepost.core.ports import Answered, DueDeadLetter, Fetched, Held, Outcome, Refused, Source
from milepost.core.redrive import discard, redrive, to_reread
from milepost.engine.clock import Deadline
from milepost.engine.context import EngineContext
from milepost.engine.mailbox import Answer, CommandDeferred
from milepost.engine.stream_journal import StreamJournal

MAX_REDRIVES_IN_A_TURN = 20
LEAST_REDRIVE_SECONDS = 30.0  # even of a run at its time limit: a long sweep takes many of those, one after the other


class Redriver:
    """Redrives dead letters in the name of one turn. `source` is None where the stream is not configured."""

    def __init__(
        self,
        engine: EngineContext,
        stream: Stream,
        source: Source | None,
        stream_journal: StreamJournal,
        budget: RunBudget,
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._source = source
        self._stream_journal = stream_journal
        self._budget = budget
        self._deadline = Deadline(engine.clock, budget.deadline_at)

    async def redrive_due(self, checkpoint: Checkpoint) -> Checkpoint:
        """Redrive what is due, unless the stream is on hold or has troubles of its own; give where it stands then."""
        if (
            not checkpoint.open_dead_letters
            or checkpoint.failure_streak is not None
            or checkpoint.operator_pause is not None
        ):
            return checkpoint
        clock = self._engine.clock
        least = Deadline(clock, clock.now() + timedelta(seconds=LEAST_REDRIVE_SECONDS))
        for due in await self._stream_journal.due_dead_letters(MAX_REDRIVES_IN_A_TURN):
            if self._deadline.has_passed and least.has_passed:
                break
            if await self._stream_journal.find_open_dead_letter(due.dead_letter.dead_letter_id) is None:
                continue  # another one's redrive read it, too
            try:
                after = await self._redrive(checkpoint, due)
            except VersionConflict:  # another process has written of the stream: the letters are still due next time
                return await self._stream_journal.load()
            if isinstance(after, MilepostError):
                break
            checkpoint = after
        return checkpoint

    async def do(self, checkpoint: Checkpoint, command: DeadLetterCommand) -> tuple[Checkpoint, Answer]:
        """Do what was asked for; give where the stream stands then, and the answer."""
        due = await self._stream_journal.find_open_dead_letter(command.dead_letter_id)
        if due is None:  # it was closed while the errand waited
            return checkpoint, None
        match command:
            case Discard(reason=reason, by=by):
                discarded = discard(checkpoint, due.dead_letter, reason, self._budget, by=by)
                return await self._stream_journal.record(checkpoint, discarded), None
            case Redrive(by=by):
                after = await self._redrive(checkpoint, due, by)
                if isinstance(after, MilepostError):
                    return checkpoint, after
                found = await self._stream_journal.find_open_dead_letter(command.dead_letter_id)
                if found is None:
                    return after, None
                was_tried = found.dead_letter.attempts > due.dead_letter.attempts
                return after, found.dead_letter if was_tried else self._hindrance() or found.dead_letter

    async def _redrive(self, checkpoint: Checkpoint, due: DueDeadLetter, by: str = "") -> Checkpoint | MilepostError:
        """Redrive a letter; give where the stream stands then, or what keeps the letter from being read."""
        outcome: Outcome | None = None
        conversation_id = to_reread(due)
        if conversation_id is not None:
            answer = await self._reread(conversation_id)
            if isinstance(answer, MilepostError):
                return answer
            outcome = answer
        return await self._stream_journal.settle(checkpoint, partial(redrive, checkpoint, due, outcome, by=by))

    async def _reread(self, conversation_id: str) -> Outcome | MilepostError:
        if self._source is None:
            return MilepostError(f"{self._stream.key} is not configured: there is no token to read it with")
        answer: Answered = Held()
        if self._hindrance() is None:
            async with self._engine.stop.interruptible():
                answer = await self._source.reread(conversation_id, self._engine.policy.messages_per_conversation)
        if isinstance(answer, Fetched | Refused):
            return answer
        return self._hindrance() or CommandDeferred("a rate limit forbade to read it just now", hint="try again")

    def _hindrance(self) -> CommandDeferred | None:
        """Say why no call may be made now, if that is so."""
        if self._engine.stop.is_requested:
            return CommandDeferred("Milepost is stopping", hint="ask again when it runs")
        until = self._engine.rate_limits.held_until(self._stream)
        if until is None or until <= self._engine.clock.now():
            return None
        return CommandDeferred(
            f"a rate limit forbids to read {self._stream.key} until {until:%Y-%m-%d %H:%M:%S} UTC",
            hint="`milepost status` tells which",
            until=until,
        )
