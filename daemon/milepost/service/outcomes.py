"""What an action on a dead letter came to: the answer of the HTTP service, and what the command line tells."""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from milepost.core.checkpoint import DeadLetter
from milepost.engine.mailbox import CommandDeferred


class Outcome(StrEnum):
    """What became of a dead letter that something was to be done about."""

    CLOSED = "closed"
    FAILED = "failed"  # it was tried again in vain, or cannot be
    HELD = "held"  # it was not tried: a rate limit or a stop forbids it
    ACCEPTED = "accepted"  # it takes long, and goes on


class Answer(Struct, frozen=True):
    """How a dead letter stands after an action. Of one that is closed the rest is null, of one accepted as before.

    `reason` is that of the latest failure, or why it was not tried; `attempts` how many redrives failed, `redrive_at`
    when the next is due (null: never by itself). `is_open` is null where it is not known yet.
    """

    dead_letter_id: str
    outcome: Outcome
    is_open: bool | None
    reason: str | None = None
    attempts: int | None = None
    redrive_at: datetime | None = None


def outcome_of(before: DeadLetter, after: DeadLetter | None) -> Answer:
    """Say what became of the letter that was as `before`. `after` is None where it is closed."""
    if after is None:
        return closed(before.dead_letter_id)
    outcome = Outcome.FAILED if after.attempts > before.attempts else Outcome.HELD
    return _unclosed(after, outcome, is_open=True)


def held(before: DeadLetter, why: CommandDeferred) -> Answer:
    """Say why a letter was not tried, and until when it cannot be."""
    return replace(_unclosed(before, Outcome.HELD, is_open=True), reason=str(why))


def closed(dead_letter_id: str) -> Answer:
    """Say that a letter is closed."""
    return Answer(dead_letter_id, Outcome.CLOSED, is_open=False)


def accepted(dead_letter: DeadLetter) -> Answer:
    """Say that nobody waits any longer for what becomes of a letter."""
    return _unclosed(dead_letter, Outcome.ACCEPTED, is_open=None)


def refused(dead_letter_id: str, reason: str) -> Answer:
    """Say why nothing can be done about a letter."""
    return Answer(dead_letter_id, Outcome.FAILED, is_open=True, reason=reason)


def _unclosed(dead_letter: DeadLetter, outcome: Outcome, *, is_open: bool | None) -> Answer:
    return Answer(
        dead_letter.dead_letter_id, outcome, is_open, dead_letter.reason, dead_letter.attempts, dead_letter.redrive_at
    )
