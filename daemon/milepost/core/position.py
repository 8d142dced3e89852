"""Where reading stands: the position of a sweep in its inbox, and which messages of its conversations are owed."""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from milepost.core.problems import Problem


class Mode(StrEnum):
    """How far a sweep walks: to the end of the inbox, or to the watermark of the previous sweep."""

    FULL = "full"
    INCREMENTAL = "incremental"


class Phase(StrEnum):
    """The halves of a sweep: the walk, then a catch-up scan from the head for threads that moved there meanwhile.

    A run that resumes either in the middle reads the head of the inbox first.
    """

    WALK = "walk"
    CATCH_UP = "catch_up"
    HEAD = "head"


class Progress(Struct, frozen=True, omit_defaults=True):
    """What shows whether a walk or scan makes progress, since it last began at the head.

    `mark` is a digest of the cursor after the latest power of two of its `batches`; `low_at` is the earliest of the
    batches' newest instants. `stale` counts the last conversations in a row with nothing new, `empty` the last batches
    in a row without conversations. `inversions` counts the conversations that were newer than the previous one in their
    batch, and `raised` the batches that began above `low_at`: both are rare in a list that has an order.
    """

    batches: int = 0
    mark: str = ""
    low_at: datetime | None = None
    stale: int = 0
    empty: int = 0
    inversions: int = 0
    raised: int = 0


class Scan(Struct, frozen=True, omit_defaults=True):
    """A catch-up scan of a full sweep that looks for deletions; it is repeated until it is a snapshot.

    It goes back to `back_to`, the newest instant in the first batch of the scan before it; None is the instant that the
    sweep names. `began_at` is the newest instant in its own first batch. It `is_snapshot` if that batch reached back so
    far: then no thread can have moved to the head unseen between two batches.
    """

    number: int = 1
    back_to: datetime | None = None
    began_at: datetime | None = None
    is_snapshot: bool = False


class Position(Struct, frozen=True, omit_defaults=True):
    """Where a sweep continues: after `cursor`, or at the head of the inbox if that is None.

    `reached_at` is the updated_time of the last conversation read before it, None if there was none. `older` counts the
    last conversations in a row that were older than the sweep has to go back. `edge` has the conversations read with
    the time `reached_at`, if a full sweep needs them: the next batch may have others of that second.

    `is_after_head` is set from when the head was read until this position is requested, `has_gap` as long as the last
    reading of the head was incomplete, and `is_old` if `cursor` is of an earlier run. `head_read_at` is the start of
    the latest run that read the head, None in entries from before the field. `scan` is kept if a full sweep needs it.
    """

    phase: Phase = Phase.WALK
    cursor: str | None = None
    reached_at: datetime | None = None
    older: int = 0
    edge: tuple[str, ...] = ()
    is_after_head: bool = False
    has_gap: bool = False
    is_old: bool = False
    head_read_at: datetime | None = None
    progress: Progress = Progress()
    scan: Scan = Scan()

    @property
    def is_of_head(self) -> bool:
        """Whether an entry with this position is about a batch of the head."""
        return self.phase is Phase.HEAD or self.is_after_head


class Reading(Struct, frozen=True, gc=False):
    """The messages of a conversation in an answer, from the oldest to the newest.

    The `fingerprint` covers their ids and content; None if the answer may lack some of the messages in between.
    `updated_time` is the conversation's; None if the answer does not have it.
    """

    conversation_id: str
    oldest_at: datetime
    newest_at: datetime
    fingerprint: str | None
    event_ids: tuple[str, ...] = ()
    updated_time: datetime | None = None


class ThreadSpan(Struct, frozen=True):
    """The messages of a conversation to count, as they were at `as_of`.

    Two counts are needed: of those up to `newest_at`, and of those up to `back_to`.
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


# --- gaps -------------------------------------------------------------------------------------------------------------

# A list shows the newest messages of a conversation, 20 at most. If none of them is stored and there are older ones,
# then those between them and the stored ones are owed, until they are read from the conversation itself. Of a new
# conversation nothing is stored: its history is owed, back to the limit of `sync.message_history`.


class Gap(Struct, frozen=True, omit_defaults=True):
    """Owed messages of a conversation: those from `reached_at` back to its previously stored state.

    `back_to` is the time of that state. A stored message that is older ends the gap; newer ones do not, because they
    may have been stored since. Reading continues after `cursor`; without one it begins at the newest message. Gaps are
    read newest first by `newest_at`, the time of the newest message that the list showed. `listed` counts the messages
    that the list showed (0 in entries from before the field), `message_count` is its estimate of how many there were in
    all, and `stored` counts those stored since. `walked_to` is how far reading has come since it last began at the
    newest message, and `idle` counts the requests since then that led no further. `limit` is how many to request at a
    time (0: as many as usual). A failed request is retried at `retry_at`, or in the next run; `attempts` and `resets`
    count failures and lost cursors in a row.

    `is_elsewhere` says that the conversation belonged to another page when the gap was found; that page does not know
    of the gap.

    A history is owed back to `history_to`. A history that was read that far owes nothing, but is kept: if the limit is
    moved back, reading continues after its cursor.
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
        """Whether these messages are older than everything that was stored when the conversation was first met."""
        return self.history_to is not None

    @property
    def is_at_limit(self) -> bool:
        """Whether everything owed of a history was read."""
        return self.history_to is not None and self.reached_at <= self.history_to


class GapEnding(StrEnum):
    """Why nothing of a gap is owed any more."""

    CLOSED = "closed"  # reading reached a message that was stored before
    THREAD_END = "thread_end"  # the oldest message of the conversation was read
    WITHHELD = "withheld"  # the API withholds the rest, which is on record as missed
    HISTORY_LIMIT = "history_limit"  # older messages are not owed
    GONE = "gone"  # the conversation no longer exists
    FORGOTTEN = "forgotten"  # its person was erased
    MOVED = "moved"  # another page has the conversation, and owes it
    DEAD_LETTER = "dead_letter"  # it cannot be read; a dead letter keeps the gap


class HistorySearch(Struct, frozen=True, omit_defaults=True):
    """A search for histories that were left out of the record, and are now owed back to `history_to`.

    It goes through the conversations by their `updated_time`, and has covered those up to `after` (None: none yet).
    """

    history_to: datetime
    after: datetime | None = None


class HistoriesLeftOut(Struct, frozen=True, omit_defaults=True):
    """A summary of the histories that are not on record: they were at their limit when their conversations were met.

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
    """A stored conversation without a history on record.

    `stored` counts the messages that may be in its `message_count`: they are not deleted, and no later than the stored
    state. `newest_at` is the time of the latest of these.
    """

    conversation_id: str
    first_synced_at: datetime
    message_count: int | None
    stored: int
    oldest_at: datetime
    newest_at: datetime


class ThreadsSearched(Struct, frozen=True):
    """A step of a search: its conversations without a history on record. It covers those up to `until` (None: all)."""

    threads: tuple[UnopenedThread, ...]
    until: datetime | None


class MessagesOwed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Conversations have more messages than came with the list: those between the listed and the stored ones are owed.

    Histories that are at their limit owe nothing. `left_out` is the summary of those that are not on record, if it has
    changed. In older entries each such history is among the gaps instead.
    """

    gaps: tuple[Gap, ...]
    left_out: HistoriesLeftOut | None = None


class MessagesRead(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Older messages of a conversation were read, and `stored` of them were new; `gap` is what is still owed.

    `dead_lettered` counts the dead letters that were opened; `edited` and `unsent` count the stored messages that were
    found to be edited or unsent. With an `ending`, nothing is owed any more.

    `is_hint` is set if the rest is withheld, but too few conversations have been so to conclude that all others are.
    """

    gap: Gap
    stored: int = 0
    dead_lettered: int = 0
    ending: GapEnding | None = None
    edited: int = 0
    unsent: int = 0
    is_hint: bool = False


class MessagesFailed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Older messages of a conversation could not be read; `gap` says how and when to retry.

    With an `ending` there is no retry: the conversation is gone, or a dead letter keeps the gap.
    """

    gap: Gap
    problem: Problem
    ending: GapEnding | None = None


class MissedReason(StrEnum):
    """Why messages of a conversation cannot be read."""

    WINDOW = "window"  # the API lists no older ones, although there are some
    NO_CONTENT = "no_content"  # the API lists them without their content
    DELETED = "deleted"  # the API answers that they, or their conversation, are deleted


class Missed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Messages of a conversation that the API withholds, between `from_at` and `until_at`.

    `from_at` is None if they are all the older ones, and `count` is None if their number is unknown; `is_estimate` says
    that the count is based on `message_count`.
    """

    conversation_id: str
    reason: MissedReason
    from_at: datetime | None
    until_at: datetime
    count: int | None = None
    is_estimate: bool = False

    @property
    def messages(self) -> int:
        """How many messages these are; 1 if their number is unknown."""
        return 1 if self.count is None else self.count


class MessagesMissed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The API withholds messages: they are not stored, and are not requested again."""

    missed: tuple[Missed, ...]

    @property
    def messages(self) -> int:
        """How many messages are missed; where the number is unknown, one for each conversation."""
        return sum(each.messages for each in self.missed)

    @property
    def of_histories(self) -> int:
        """How many of them are older than every stored message of their conversations."""
        return sum(each.messages for each in self.missed if each.from_at is None)


class HistoryLeft(Struct, frozen=True):
    """Of the `total` histories that have become owed since none was, `left` are still to be read."""

    left: int
    total: int


def is_kept_after(ending: GapEnding | None) -> bool:
    """Return whether a gap is kept: it has not ended, or it is a history that would be owed with an earlier limit."""
    return ending in {None, GapEnding.HISTORY_LIMIT}
