"""Positions: where a sweep is, whether it makes progress, and the spans of inbox or conversation that it covers."""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct


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


class Position(Struct, frozen=True, omit_defaults=True):
    """Where a sweep continues: after `cursor`, or at the head of the inbox if that is None.

    `reached_at` is the updated_time of the last conversation read before it, None if there was none. `older` counts the
    last conversations in a row that were older than the sweep has to go back. `edge` has the conversations read with
    the time `reached_at`, if a full sweep needs them: the next batch may have others of that second.

    `is_after_head` is set from when the head was read until this position is requested, `has_gap` as long as the last
    reading of the head was incomplete, and `is_old` if `cursor` is of an earlier run. `head_read_at` is the start of
    the latest run that read the head, None in entries from before the field.
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
