"""The contents of a benchmark's inboxes, the same for every contender."""

from msgspec import Struct

# As long as real ones: a short text is looked for in each response several times as slowly.
ACCESS_TOKEN = "EAA" + "benchmark" * 20
FIRST_PAGE_ID = 1_000_000_000


class Workload(Struct, frozen=True):
    """Messenger inboxes of equal size, read in batches of `batch_size`, each response `latency_seconds` late."""

    streams: int
    conversations: int  # per stream
    messages: int = 1  # per conversation
    batch_size: int = 100
    latency_seconds: float = 0.0

    @property
    def page_ids(self) -> list[str]:
        """The pages, a stream each."""
        return [str(FIRST_PAGE_ID + number) for number in range(self.streams)]

    @property
    def total(self) -> int:
        """How many conversations there are in all."""
        return self.streams * self.conversations

    @property
    def rows(self) -> dict[str, int]:
        """How many rows each table has once everything is copied."""
        return {
            "contacts": self.total,
            "conversations": self.total,
            "contact_interaction_events": self.total * self.messages,
        }
