"""The change feed: rows as consumers receive them, in the order of the journal, each at its latest state only."""

from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct

from milepost.core.model import Stream


class ChangeKind(StrEnum):
    """What changed: a row of `contacts`, `conversations` or `contact_interaction_events`."""

    CONTACT = "contact"
    CONVERSATION = "conversation"
    MESSAGE = "message"


class ChangeOp(StrEnum):
    """Whether a row is there now, new or changed, or is gone."""

    UPSERT = "upsert"
    DELETE = "delete"


ALL_KINDS = frozenset(ChangeKind)


class Change(Struct, frozen=True):
    """A row as it is now; `row` is None if it was deleted.

    `seq` is the unique place of the change in the feed; a consumer can stop after any change, and continue from its
    seq. `key` and `row` are columns by name: instants are text, as in SQLite. `history` says that a message was not new
    when it was stored: it came with a first copy, or as an older message of its conversation.
    """

    seq: int
    kind: ChangeKind
    op: ChangeOp
    key: dict[str, str]
    row: dict[str, Any] | None
    history: bool = False


class ChangesPage(Struct, frozen=True):
    """Changes in the order of their seq, and the seq to continue from: equal to the requested one if nothing is new.

    It is smaller where the requested one lies beyond the last change, as after a backup was restored.

    `next` may be greater than the seq of the last change, because changes that were not requested are skipped. A page
    without changes is the last one only if `next` has not moved either.
    """

    changes: tuple[Change, ...]
    next: int


class ChangeReader(Protocol):
    """The rows of the store in the order in which they changed. Raises StoreAway and StoreRefused as a Store does."""

    async def read_changes(
        self, after: int, limit: int, kinds: AbstractSet[ChangeKind] = ALL_KINDS, stream: Stream | None = None
    ) -> ChangesPage:
        """Return up to `limit` changes with a seq greater than `after`: of these kinds, of one stream or of all."""

    async def last_change(self) -> int:
        """Return the seq of the latest change; 0 if there is none."""
