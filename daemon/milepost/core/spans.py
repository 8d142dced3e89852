"""Spans of time that a decision wants to know of: in the inbox, or in a conversation."""

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
    """The messages of a conversation that are to be counted, as they were at `as_of`.

    That is those up to `newest_at` and, of these, those up to `back_to`.
    """

    conversation_id: str
    back_to: datetime
    newest_at: datetime
    as_of: datetime


class Stretch(Struct, frozen=True):
    """The stretch of an inbox that a batch of a full sweep covers, and the conversations `seen` in it.

    Both bounds are exclusive, because threads of the neighbouring batch may have the same time; None is the end of the
    inbox. Such threads are in the stretch of the last batch with that time, where those `seen` before are known.
    `sweep_started_at` identifies the sweep.
    """

    sweep_started_at: datetime
    older_than: datetime | None
    newer_than: datetime | None
    seen: tuple[str, ...]
