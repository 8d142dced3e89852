"""Messages of a conversation that a decision wants to know of: those of an answer, or those up to an instant."""

from datetime import datetime

from msgspec import Struct


class Reading(Struct, frozen=True):
    """What an answer shows of the messages of a conversation, from the oldest to the newest of them.

    The `fingerprint` is one of their ids and content; None if the answer may lack some of those in between.
    """

    conversation_id: str
    oldest_at: datetime
    newest_at: datetime
    fingerprint: str | None


class ThreadSpan(Struct, frozen=True):
    """The messages of a conversation that are to be counted: all, and those at or before `back_to`."""

    conversation_id: str
    back_to: datetime
