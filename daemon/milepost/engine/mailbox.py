"""What is wanted of a stream out of turn, handed to whoever works the stream: it alone may write of it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from milepost.core.checkpoint import DeadLetter
from milepost.core.commands import Command, DeadLetterCommand
from milepost.core.errors import MilepostError
from milepost.engine.interrupt import Interrupt

MAX_WAITING = 1_000


class CommandDeferred(MilepostError):
    """An errand was not tried, because no call may be made now. `until` is when one may; None where nobody can tell."""

    def __init__(self, message: str, *, hint: str = "", until: datetime | None = None) -> None:
        super().__init__(message, hint=hint)
        self.until = until


# The letter as it stands if the errand is about one and it is still open, or what kept the errand from being done.
Answer = DeadLetter | MilepostError | None


class ExecuteDeadLetterCommand(Protocol):
    """Does an errand about a dead letter and gives the letter if it is still open."""

    async def __call__(self, command: DeadLetterCommand, /) -> DeadLetter | None:
        """Do it. Raises MilepostError where that is impossible."""
        ...


class ExecuteCommand(Protocol):
    """Does an errand for somebody who works the stream."""

    async def __call__(self, command: Command, /) -> Answer:
        """Do it. Raises what keeps the others from being done as well."""
        ...


class TurnRequest(Struct, frozen=True):
    """A turn is wanted at once, and of it a `full` sweep or whichever is due."""

    full: bool = False


class Mailbox:
    """The errands of one stream, and whether a turn is wanted at once. The bell rings while anything waits.

    A stream `is_dismissed` while whoever works it is to end that after the batch in hand.
    """

    def __init__(self) -> None:
        self.is_dismissed = False
        self._version = self._noted_version = 0
        self._waiting: deque[tuple[Command, asyncio.Future[Answer]]] = deque()
        self._wanted: TurnRequest | None = None
        self._alone = asyncio.Lock()
        self._owners = 0
        self.interrupt = Interrupt()

    def request_turn(self, *, full: bool = False) -> None:
        """Ask for a turn at once, whenever the next is due."""
        before = self._wanted is not None and self._wanted.full
        self._wanted = TurnRequest(full or before)
        self.interrupt.set()

    def set_version(self, version: int) -> None:
        """Hear where the stream stands for whoever works it."""
        self._version = version

    def note_version(self, version: int) -> None:
        """Hear where it stands in the journal. An entry that somebody else wrote is looked at before the next batch."""
        self._noted_version = max(self._noted_version, version)
        if self.is_outdated and self.has_owner:
            self.interrupt.set()

    @property
    def is_outdated(self) -> bool:
        """Whether somebody else has written of the stream."""
        return self._noted_version > self._version

    def dismiss(self) -> None:
        """Have the work on the stream ended."""
        self.is_dismissed = True
        self.interrupt.set()

    @property
    def turn_requested(self) -> bool:
        """Whether a turn was asked for, and not given yet."""
        return self._wanted is not None

    def take_turn_request(self) -> TurnRequest | None:
        """Give the turn that was asked for, if one was: from now on it counts as given."""
        wanted, self._wanted = self._wanted, None
        return wanted

    @property
    def has_owner(self) -> bool:
        """Whether somebody works the stream, and so does what is asked for."""
        return self._owners > 0

    @asynccontextmanager
    async def owned(self) -> AsyncIterator[None]:
        """Be the one who works the stream during the block, after any other has ended.

        What still waits when nobody follows is answered: it is not done any more.
        """
        self._owners += 1
        try:
            async with self._alone:
                yield
        finally:
            self._owners -= 1
            if not self.has_owner:
                why = "the page is being removed" if self.is_dismissed else "Milepost is stopping"
                self.give_up(CommandDeferred(why, hint="ask again when it runs"))

    def ask(self, command: Command) -> asyncio.Future[Answer]:
        """Have an errand done by whoever attends. Raises MilepostError where too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise MilepostError("too many dead letters wait to be redriven already", hint="try again in a minute")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        self.interrupt.set()
        return answer

    async def run(self, do: ExecuteCommand) -> None:
        """Do all errands that wait. What `do` raises is told to the asker, and raised."""
        while self._waiting:
            command, asker = self._waiting.popleft()
            if asker.cancelled():  # nobody wants it any more
                continue
            answer: Answer = broken_off()
            try:
                answer = await do(command)
            except MilepostError as error:
                answer = error
                raise
            finally:
                _tell(asker, answer)
        self.interrupt.clear()

    def give_up(self, error: MilepostError) -> None:
        """Answer all that wait with what keeps them from being done."""
        while self._waiting:
            _tell(self._waiting.popleft()[1], error)
        self.interrupt.clear()


def broken_off() -> MilepostError:
    """Say that what kept an errand from being done is a bug, or the end of the process."""
    return MilepostError("the work on the stream broke off", hint="see the log")


def _tell(asker: asyncio.Future[Answer], answer: Answer) -> None:
    if not asker.cancelled():
        asker.set_result(answer)
