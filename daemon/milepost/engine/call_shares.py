"""How the calls of each page are shared between the sweeps of its streams and older messages."""

from collections.abc import Iterator
from contextlib import contextmanager

from milepost.core.background import Demand
from milepost.core.model import Stream
from milepost.core.ports import Usage


class _Page:
    def __init__(self) -> None:
        self.swept: set[Stream] = set()
        self.batches = 0
        self.messages = 0


class CallShares:
    """Counts the calls of each page since the first of its streams that are being swept began."""

    def __init__(self) -> None:
        self._pages: dict[str, _Page] = {}
        self._held_back: set[Stream] = set()

    @contextmanager
    def sweeping(self, stream: Stream) -> Iterator[None]:
        """Sweep a stream during the block: older messages of its page get no more than half of the calls."""
        page = self._page(stream)
        if not page.swept:
            page.batches = page.messages = 0
        page.swept.add(stream)
        try:
            yield
        finally:
            page.swept.discard(stream)

    def count_batch(self, stream: Stream) -> None:
        """Count a request for a list."""
        self._page(stream).batches += 1

    def count_messages(self, stream: Stream) -> None:
        """Count a request for older messages."""
        self._page(stream).messages += 1

    def demand(self, stream: Stream, usage: Usage | None) -> Demand:
        """Return what else the calls of the stream's page are for; `usage` is the fullest of its budgets."""
        page = self._page(stream)
        return Demand(usage, page.batches, page.messages, is_swept=bool(page.swept - {stream}))

    def note_held_back(self, stream: Stream, *, is_held_back: bool) -> bool:
        """Note whether older messages of a stream wait because of its budgets. Returns whether that has changed."""
        if is_held_back is (stream in self._held_back):
            return False
        if is_held_back:
            self._held_back.add(stream)
        else:
            self._held_back.discard(stream)
        return True

    def _page(self, stream: Stream) -> _Page:
        return self._pages.setdefault(stream.page_id, _Page())
