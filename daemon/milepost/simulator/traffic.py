"""What the simulator was asked, and who asked too fast."""

from collections import Counter, defaultdict, deque
from datetime import datetime

import msgspec

_MAX_KEPT_REQUESTS = 10_000


class SeenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the Graph API and what became of it."""

    number: int
    """In its stream, from 1: what the fault plan drew its luck from."""
    at: datetime
    """When it came in, by the world's clock."""
    page_id: str | None
    """The page whose call it is, which is that of the thread for a thread's."""
    owner: str
    edge: str
    platform: str | None
    after: str | None
    limit: str | None
    fields: str | None
    status: int
    """Of the answer; 0 where none was sent."""
    fault: str | None
    """The name of the fault that struck, if one did."""
    during_limit: bool
    """Whether a limit lasted of which the client had been told."""


class Traffic:
    """Counts all requests and keeps the last ten thousand."""

    def __init__(self) -> None:
        self.last: deque[SeenRequest] = deque(maxlen=_MAX_KEPT_REQUESTS)
        self.total = 0
        self.by_stream: Counter[str] = Counter()
        self.by_page: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()
        self.by_fault: Counter[str] = Counter()
        self.too_fast: Counter[str] = Counter()
        """Calls beyond the plan's pace, by page."""
        self.during_limit: Counter[str] = Counter()
        """Calls while a limit lasted of which a client had been told, by page; those of no page by what they asked."""
        self.max_calls_in_a_second: Counter[str] = Counter()
        """The most calls that came in within any second of real time, by page."""
        self._arrivals: defaultdict[str, deque[float]] = defaultdict(deque)

    def next_number(self, stream: str) -> int:
        """Count a request of this stream as it comes in; gives its number, from 1."""
        self.total += 1
        self.by_stream[stream] += 1
        return self.by_stream[stream]

    def arrive(self, page_id: str, now_seconds: float) -> None:
        """Count a call of a page that came in at this instant of a monotonic clock."""
        self.by_page[page_id] += 1
        recent = self._arrivals[page_id]
        recent.append(now_seconds)
        while recent[0] <= now_seconds - 1:
            recent.popleft()
        self.max_calls_in_a_second[page_id] = max(self.max_calls_in_a_second[page_id], len(recent))

    def note(self, request: SeenRequest) -> None:
        """Record what became of a request."""
        self.last.append(request)
        self.by_status[request.status] += 1
        if request.fault is not None:
            self.by_fault[request.fault] += 1
        if request.during_limit:
            self.during_limit[request.page_id or request.owner] += 1


class Pace:
    """The allowed pace of each page: so many calls a second on average, and one second's worth and one more at once.

    The one more is for jitter: without it a client that keeps exactly to the pace would now and then be refused.
    """

    def __init__(self, max_calls_per_second: float) -> None:
        self._max_calls_per_second = max_calls_per_second
        self._left: dict[str, tuple[float, float]] = {}

    def allows(self, page_id: str, now_seconds: float) -> bool:
        """Whether a page may be called at this instant of a monotonic clock; if so the call is counted."""
        most = self._max_calls_per_second
        if most <= 0:
            return True
        left, since_seconds = self._left.get(page_id, (most + 1, now_seconds))
        left = min(most + 1, left + (now_seconds - since_seconds) * most)
        allowed = left >= 1
        self._left[page_id] = (left - 1 if allowed else left, now_seconds)
        return allowed
