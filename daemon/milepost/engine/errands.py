"""What is wanted of a stream out of turn, handed to whoever works the stream: it alone may write of it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from milepost.core.checkpoint import DeadLetter
from milepost.core.errors import MilepostError
from milepost.core.model import TokenHealth
from milepost.engine.stop import Bell

MAX_WAITING = 1_000


class HeldBack(MilepostError):
    """An errand was not tried, because no call may be made now. `until` is when one may; None where nobody can tell."""

    def __init__(self, message: str, *, hint: str = "", until: datetime | None = None) -> None:
        super().__init__(message, hint=hint)
        self.until = until


class Redrive(Struct, frozen=True):
    """Try a dead letter again, whenever its next redrive is due. `by` is who asks, as the journal keeps it."""

    dead_letter_id: str
    by: str = ""


class Discard(Struct, frozen=True):
    """Give a dead letter up. `by` is who asks."""

    dead_letter_id: str
    reason: str
    by: str = ""


class PauseStream(Struct, frozen=True):
    """Work the stream no more, from the batch in hand on. `by` is who asks."""

    by: str


class ResumeStream(Struct, frozen=True):
    """Work the stream again, at once. `by` is who asks."""

    by: str


class SyncNow(Struct, frozen=True):
    """Give the stream a turn at once, by a `full` sweep or whichever is due. `by` is who asks."""

    by: str
    full: bool = False


class NoteToken(Struct, frozen=True):
    """Keep how the stream's token stands."""

    health: TokenHealth


LetterErrand = Redrive | Discard
StreamErrand = PauseStream | ResumeStream | SyncNow | NoteToken
Errand = LetterErrand | StreamErrand

# The letter as it stands if the errand is about one and it is still open, or what kept the errand from being done.
Answer = DeadLetter | MilepostError | None


class Performer(Protocol):
    """Does an errand about a dead letter and gives the letter if it is still open."""

    async def __call__(self, errand: LetterErrand, /) -> DeadLetter | None:
        """Do it. Raises MilepostError where that is impossible."""
        ...


class Doer(Protocol):
    """Does an errand for somebody who works the stream."""

    async def __call__(self, errand: Errand, /) -> Answer:
        """Do it. Raises what keeps the others from being done as well."""
        ...


class TurnWanted(Struct, frozen=True):
    """A turn is wanted at once, and of it a `full` sweep or whichever is due."""

    full: bool = False


class Errands:
    """The errands of one stream, and whether a turn is wanted at once. The bell rings while anything waits.

    A stream `is_dismissed` while whoever works it is to end that after the batch in hand.
    """

    def __init__(self) -> None:
        self.is_dismissed = False
        self._stands_at = self._heard_of = 0
        self._waiting: deque[tuple[Errand, asyncio.Future[Answer]]] = deque()
        self._wanted: TurnWanted | None = None
        self._alone = asyncio.Lock()
        self._attendants = 0
        self.bell = Bell()

    def want_turn(self, *, full: bool = False) -> None:
        """Ask for a turn at once, whenever the next is due."""
        before = self._wanted is not None and self._wanted.full
        self._wanted = TurnWanted(full or before)
        self.bell.ring()

    def stand_at(self, version: int) -> None:
        """Hear where the stream stands for whoever works it."""
        self._stands_at = version

    def hear_of(self, version: int) -> None:
        """Hear where it stands in the journal. An entry that somebody else wrote is looked at before the next batch."""
        self._heard_of = max(self._heard_of, version)
        if self.is_outdated and self.are_attended:
            self.bell.ring()

    @property
    def is_outdated(self) -> bool:
        """Whether somebody else has written of the stream."""
        return self._heard_of > self._stands_at

    def dismiss(self) -> None:
        """Have the work on the stream ended."""
        self.is_dismissed = True
        self.bell.ring()

    @property
    def wants_turn(self) -> bool:
        """Whether a turn was asked for, and not given yet."""
        return self._wanted is not None

    def take_wanted(self) -> TurnWanted | None:
        """Give the turn that was asked for, if one was: from now on it counts as given."""
        wanted, self._wanted = self._wanted, None
        return wanted

    @property
    def are_attended(self) -> bool:
        """Whether somebody works the stream, and so does what is asked for."""
        return self._attendants > 0

    @asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """Be the one who works the stream during the block, after any other has ended.

        What still waits when nobody follows is answered: it is not done any more.
        """
        self._attendants += 1
        try:
            async with self._alone:
                yield
        finally:
            self._attendants -= 1
            if not self.are_attended:
                why = "the page is being removed" if self.is_dismissed else "Milepost is stopping"
                self.give_up(HeldBack(why, hint="ask again when it runs"))

    def ask(self, errand: Errand) -> asyncio.Future[Answer]:
        """Have an errand done by whoever attends. Raises MilepostError where too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise MilepostError("too many dead letters wait to be redriven already", hint="try again in a minute")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((errand, answer))
        self.bell.ring()
        return answer

    async def run(self, do: Doer) -> None:
        """Do all errands that wait. What `do` raises is told to the asker, and raised."""
        while self._waiting:
            errand, asker = self._waiting.popleft()
            if asker.cancelled():  # nobody wants it any more
                continue
            answer: Answer = broken_off()
            try:
                answer = await do(errand)
            except MilepostError as error:
                answer = error
                raise
            finally:
                _tell(asker, answer)
        self.bell.silence()

    def give_up(self, error: MilepostError) -> None:
        """Answer all that wait with what keeps them from being done."""
        while self._waiting:
            _tell(self._waiting.popleft()[1], error)
        self.bell.silence()


def broken_off() -> MilepostError:
    """Say that what kept an errand from being done is a bug, or the end of the process."""
    return MilepostError("the work on the stream broke off", hint="see the log")


def _tell(asker: asyncio.Future[Answer], answer: Answer) -> None:
    if not asker.cancelled():
        asker.set_result(answer)
