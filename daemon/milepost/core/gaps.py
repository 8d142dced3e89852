"""Gaps: messages of a conversation that were not in the list that showed it, and so are owed; and their events.

A list shows the newest messages of a conversation, 20 at most. If none of them is stored and there are older ones, then
those between them and what is stored are owed, until they are read from the conversation itself. Of a conversation that
is met for the first time nothing is stored: its history is owed, back to the limit of `sync.message_history`.
"""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from milepost.core.problems import Problem


class Gap(Struct, frozen=True, omit_defaults=True):
    """Messages that are owed: those of a conversation from `reached_at` back to the state of it that was stored before.

    That was the state at `back_to`: a stored message that is older ends the gap. Newer ones do not: they may have been
    stored since. Reading continues after `cursor`; without one it begins at the newest message.
    Gaps are read by `newest_at`, the time of the newest message that the list showed, the newest first. `listed` counts
    the messages that the list showed (0 in entries that are older than the field), `message_count` is its estimate of
    how many there were in all, and `stored` counts those that were stored since. `walked_to` is how far reading has
    come since it last began at the newest message, and `idle` counts the requests since that led no further. `limit` is
    how many to request at a time (0: as many as usual). A failed request is retried at `retry_at`, or in the next run;
    `attempts` and `resets` count failures and lost cursors in a row.

    `is_elsewhere` says that the conversation stood under another page when this was found, which does not know of it.

    A history is owed back to `history_to`. One that was read that far owes nothing, and is kept all the same: with an
    earlier limit, reading continues after its cursor.
    """

    gap_id: str
    conversation_id: str
    owed_since: datetime
    newest_at: datetime
    reached_at: datetime
    back_to: datetime
    cursor: str | None = None
    stored: int = 0
    walked_to: datetime | None = None
    idle: int = 0
    limit: int = 0
    attempts: int = 0
    resets: int = 0
    retry_at: datetime | None = None
    history_to: datetime | None = None
    is_elsewhere: bool = False
    listed: int = 0
    message_count: int | None = None

    @property
    def is_history(self) -> bool:
        """Whether these messages are older than all that was stored when the conversation was met."""
        return self.history_to is not None

    @property
    def is_at_limit(self) -> bool:
        """Whether all of a history that is owed was read."""
        return self.history_to is not None and self.reached_at <= self.history_to


class GapEnding(StrEnum):
    """Why nothing of a gap is owed any more."""

    CLOSED = "closed"  # a message was reached that was stored before
    THREAD_END = "thread_end"  # the oldest message of the conversation was read
    WITHHELD = "withheld"  # the API withholds the rest, which is on record as missed
    HISTORY_LIMIT = "history_limit"  # what is older is not owed
    GONE = "gone"  # the conversation no longer exists
    FORGOTTEN = "forgotten"  # the person it is about was erased
    MOVED = "moved"  # another page has the conversation, and owes it
    DEAD_LETTER = "dead_letter"  # it cannot be read: a dead letter keeps what is owed


class HistorySearch(Struct, frozen=True, omit_defaults=True):
    """A search for histories that were left out of the record, and are owed back to `history_to` by now.

    It goes through the conversations by their `updated_time`, and has come to the end of `after` (None: it begins).
    """

    history_to: datetime
    after: datetime | None = None


class HistoriesLeftOut(Struct, frozen=True, omit_defaults=True):
    """The histories of a stream that are not on record: they were at their limit when their conversations were met.

    All of them reach back to `reach_to` at least, and the first was left out at `since`. The last search went back to
    `searched_to`, and `seconds` is the shortest limit for which any was left out after it (None: none was). While a
    `search` is under way, none is left out.
    """

    reach_to: datetime
    seconds: float | None = None
    searched_to: datetime | None = None
    search: HistorySearch | None = None
    since: datetime | None = None


class UnopenedThread(Struct, frozen=True):
    """A stored conversation without a history on record. `stored` counts its messages that are not deleted."""

    conversation_id: str
    first_synced_at: datetime
    message_count: int | None
    stored: int
    oldest_at: datetime
    newest_at: datetime


class ThreadsSearched(Struct, frozen=True):
    """A step of a search: its conversations without a history on record. It ends with `until` (None: with the last)."""

    threads: tuple[UnopenedThread, ...]
    until: datetime | None


class MessagesOwed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Conversations have more messages than came with the list: what is between those and the stored ones is owed.

    Histories that are at their limit owe nothing: `left_out` is what is known of those that are not on record, if that
    has changed. In older entries each of them is among the gaps, for an earlier limit.
    """

    gaps: tuple[Gap, ...]
    left_out: HistoriesLeftOut | None = None


class MessagesRead(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Older messages of a conversation were read and `stored` of them were new; `gap` is what is owed after that.

    `dead_lettered` counts the dead letters that were opened, `edited` and `unsent` the stored messages that turned out
    to be. Nothing is owed any more if there is an `ending`.

    It `is_hint` where the rest is withheld, and too few conversations were before to conclude that all others are, too.
    """

    gap: Gap
    stored: int = 0
    dead_lettered: int = 0
    ending: GapEnding | None = None
    edited: int = 0
    unsent: int = 0
    is_hint: bool = False


class MessagesFailed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Older messages of a conversation could not be read; `gap` says how and when that is tried again.

    With an `ending` it is not: the conversation is gone, or a dead letter keeps what is owed.
    """

    gap: Gap
    problem: Problem
    ending: GapEnding | None = None


class MissedReason(StrEnum):
    """Why messages of a conversation cannot be had."""

    WINDOW = "window"  # the API lists no older ones, though there are
    NO_CONTENT = "no_content"  # the API lists them without their content
    DELETED = "deleted"  # the API answers that they, or their conversation, are deleted


class Missed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Messages of a conversation that the API withholds, between `from_at` and `until_at`.

    `from_at` is None if they are all that is older, `count` where it cannot be told how many they are; the count
    `is_estimate` if it follows from `message_count`.
    """

    conversation_id: str
    reason: MissedReason
    from_at: datetime | None
    until_at: datetime
    count: int | None = None
    is_estimate: bool = False


class MessagesMissed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The API withholds messages: they are not stored, and are not asked for again."""

    missed: tuple[Missed, ...]

    @property
    def messages(self) -> int:
        """How many messages are missed; where that cannot be told, one for each conversation."""
        return sum(1 if each.count is None else each.count for each in self.missed)


GapEvent = MessagesOwed | MessagesRead | MessagesFailed | MessagesMissed


class HistoryLeft(Struct, frozen=True):
    """Of `total` conversations whose histories were owed since none was, `left` are still to be read."""

    left: int
    total: int


class GapAfter(Struct, frozen=True):
    """A gap after an entry; it `is_kept` if anything is still owed, or would be with an earlier limit."""

    gap: Gap
    is_kept: bool


def is_kept_after(ending: GapEnding | None) -> bool:
    """Return whether a gap is kept: one that goes on, or a history that would be owed again with an earlier limit."""
    return ending in {None, GapEnding.HISTORY_LIMIT}


def gaps_after(event: object) -> tuple[GapAfter, ...]:
    """Return the gaps that an event is about, as they are after it."""
    match event:
        case MessagesOwed(gaps=gaps):
            return tuple(GapAfter(gap, is_kept=True) for gap in gaps)
        case MessagesRead(gap=gap, ending=ending) | MessagesFailed(gap=gap, ending=ending):
            return (GapAfter(gap, is_kept=is_kept_after(ending)),)
        case _:
            return ()
