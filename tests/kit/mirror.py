"""A consumer of the change feed, and what the tables hold in its terms."""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

from milepost.core.changes import ALL_KINDS, Change, ChangeKind, ChangeOp, ChangeReader
from milepost.core.model import Stream

RowKey = tuple[ChangeKind, tuple[str, ...]]
TABLES = {
    ChangeKind.CONTACT: ("contacts", ("platform", "page_id", "contact_id")),
    ChangeKind.CONVERSATION: ("conversations", ("conversation_id",)),
    ChangeKind.MESSAGE: ("contact_interaction_events", ("event_id",)),
}


class Mirror:
    """Follows the feed and keeps the rows that it names: by key, the row."""

    def __init__(self) -> None:
        self.rows: dict[RowKey, dict[str, Any]] = {}
        self.place = 0

    def take(self, change: Change) -> None:
        """Apply one change."""
        key = change.kind, tuple(change.key.values())
        if change.op is ChangeOp.DELETE:
            assert change.row is None
            self.rows.pop(key, None)
        else:
            assert change.row is not None
            assert change.seq > self.place
            self.rows[key] = change.row
        self.place = change.seq

    async def follow(
        self,
        reader: ChangeReader,
        *,
        limit: int = 1000,
        kinds: AbstractSet[ChangeKind] = ALL_KINDS,
        stream: Stream | None = None,
    ) -> list[Change]:
        """Apply all that is new, and return it."""
        taken: list[Change] = []
        while True:
            page = await reader.read_changes(self.place, limit, kinds, stream)
            assert len(page.changes) <= limit
            for change in page.changes:
                self.take(change)
            taken += page.changes
            if page.next == self.place and not page.changes:
                return taken
            self.place = page.next

    def numbers(self) -> dict[RowKey, tuple[int, int]]:
        """Return the version and the number of each row."""
        return {key: (row["version"], row["change_seq"]) for key, row in self.rows.items()}


def stored_numbers(ask: Callable[[str], list[tuple[Any, ...]]]) -> dict[RowKey, tuple[int, int]]:
    """Return the version and the number of each row of the tables. A row takes another number with every change."""
    found: dict[RowKey, tuple[int, int]] = {}
    for kind, (table, key) in TABLES.items():
        for version, seq, *columns in ask(f"SELECT version, change_seq, {', '.join(key)} FROM {table}"):
            found[kind, tuple(columns)] = (version, seq)
    return found
